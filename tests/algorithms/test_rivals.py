"""Every method against its oracle, its limits, its convergence, and its page."""

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import oracle_rivals as rivals
import oracle_signs as signs
import pytest
from cases import METHODS, methods, real_problem, slow_but
from inside import _trees

import gdsec_jax
from gdsec_jax import data, numpy_worker, problems, worker
from gdsec_jax import server as servers
from gdsec_jax.federation import FederationState
from gdsec_jax.server import ServerMemoryState

WORKERS = 5
ROUNDS = 200
KEY = 7


# The randomness that a method draws, from the key it is given.


class Draws(NamedTuple):
    """All that any method may draw, a row a round."""

    common: jax.Array  # keys [rounds]
    coins: np.ndarray  # [rounds] in [0, 1)
    uniforms: np.ndarray  # [rounds, M, D] in [0, 1)
    words: np.ndarray  # unsigned [rounds, M, D]

    def masks(self, k: int) -> np.ndarray:
        """The k largest words of each worker and round; the lower index wins."""
        order = np.argsort(~self.words, axis=-1, kind="stable")
        masks = np.zeros(self.words.shape, bool)
        np.put_along_axis(masks, order[..., :k], True, axis=-1)
        return masks

    def blocks(self) -> np.ndarray:
        """Of each round a permutation dealt into a block a worker, bool [.., M, D]."""
        length = self.words.shape[-1]

        def one(key):
            entries, workers = jax.random.split(key)
            order = jax.random.permutation(entries, length) % WORKERS
            return order[None] == jax.random.permutation(workers, WORKERS)[:, None]

        return np.asarray(jax.vmap(one)(self.common))

    def workers(self, probabilities) -> np.ndarray:
        """One worker a round, [rounds]."""
        chances = jnp.asarray(probabilities)
        draw = functools.partial(jax.random.choice, a=chances.size, p=chances)
        return np.asarray(jax.vmap(draw)(self.common))


@functools.cache
def _draws(length: int) -> Draws:
    """A key splits in three each round: the next one, the common one, the workers'."""

    @jax.jit
    def all_rounds(key):
        def one(key, _):
            key, common, others = jax.random.split(key, 3)
            own = jax.vmap(jax.random.fold_in, (None, 0))(others, jnp.arange(WORKERS))
            return key, (common, own)

        _, (common, own) = jax.lax.scan(one, key, length=ROUNDS)
        each = lambda draw: jax.vmap(jax.vmap(draw))(own)  # noqa: E731
        return Draws(
            common,
            coins=jax.vmap(jax.random.uniform)(common),
            uniforms=each(lambda key: jax.random.uniform(key, (length,))),
            words=each(lambda key: jax.random.bits(_only(key), (length,), jnp.uint32)),
        )

    drawn = all_rounds(jax.random.key(KEY))
    return Draws(drawn.common, *(np.asarray(x) for x in drawn[1:]))


def _only(key):
    """The key of the only vector of a message."""
    return jax.random.split(key, 1)[0]


def _first_factor(columns: int, rank: int) -> np.ndarray:
    return np.asarray(
        jax.random.normal(_only(jax.random.key(KEY)), (columns, rank), jnp.float64)
    )


# The oracles, and what their messages cost.


class Compressor(NamedTuple):
    """An unbiased compressor: the package's, and the oracle's from what was drawn."""

    piece: worker.Piece
    of: Callable[[Draws], rivals.Compress]
    omega: Callable[[int], float] | None  # of D
    value_bits: int
    scales: int
    known: bool = False  # places are, and ceil(D / M) values travel


def _random_k(k):
    def of(draws):
        masks = draws.masks(k)
        return lambda r, m, v: rivals.compress_rand_k(v, k, masks[r, m])

    return Compressor(worker.random_k(k), of, lambda d: d / k - 1, 64, 0)


def _qsgd(s):
    def of(draws):
        return lambda r, m, v: rivals.compress_qsgd(v, s, draws.uniforms[r, m])[0]

    width = 1 + math.ceil(math.log2(s + 1))
    omega = lambda d: min(d / s**2, math.sqrt(d) / s)  # noqa: E731
    return Compressor(worker.qsgd(s), of, omega, width, 1)


def _perm_k():
    def of(draws):
        masks = draws.blocks()
        return lambda r, m, v: np.where(masks[r, m], WORKERS * v, 0.0)

    piece, omega = worker.perm_k(WORKERS), lambda d: WORKERS - 1
    return Compressor(piece, of, omega, 64, 0, known=True)


def _top_k(k):
    def of(draws):
        return lambda r, m, v: rivals.compress_top_k(v, k)

    return Compressor(worker.top_k(k), of, None, 64, 0)


def _natural():
    def of(draws):
        return lambda r, m, v: rivals.compress_natural(v, draws.uniforms[r, m])

    return Compressor(worker.natural(), of, lambda d: 1 / 8, 9, 0)


class Setting(NamedTuple):
    """A run, as the oracle wants it."""

    start: rivals.Start
    given: dict[str, Any]  # the method's arguments, those of `theory` too
    draws: Draws
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        return math.prod(self.shape)


class Oracle(NamedTuple):
    """A method's loop, and the bits of a message of it that is not whole."""

    run: Callable[[Setting], rivals.Run]
    bits: Callable[[np.ndarray, dict[str, Any]], int]
    dense: bool = False  # every entry is written
    sent: Callable[[int, dict[str, Any]], int] | None = None  # of D: known places


def _floats(message, given):
    return oracle.rle_bits(message, 64)


def _coded(form, width, scales):
    """Bits of a quantised message; its width may depend on the method's arguments."""

    def bits(message, given):
        wide = width(given) if callable(width) else width
        return rivals.quantised_bits(message, form, wide, scales)

    return bits


def _level_bits(given):
    return 1 + math.ceil(math.log2(given["levels"] + 1))


def _of_compressor(message, given):
    own = given["compressor"]
    if own.known:
        return -(-message.size // WORKERS) * own.value_bits
    return rivals.quantised_bits(message, "rle", own.value_bits, own.scales)


def _plain(name, uniforms=False):
    """A loop of the oracle that takes the method's own arguments."""

    def run(setting):
        given = {k: v for k, v in setting.given.items() if k != "learning_rate"}
        if uniforms:
            given["uniforms"] = setting.draws.uniforms
        return getattr(rivals, name)(setting.start, **given)

    return run


def _alone(name):
    """A method of one worker that takes the method's own arguments."""

    def run(setting):
        return rivals.alone(setting.start, getattr(rivals, name)(**setting.given))

    return run


def _half(method, **alone):
    """A method of NumPy's workers."""

    def run(setting):
        own = {x: setting.given[x] for x in method._fields if x in setting.given}
        half = method(**alone, **own)
        made = rivals.worker_half(half, setting.draws.uniforms)
        return rivals.alone(setting.start, made)

    return run


def _rand_k(setting):
    k = setting.given["k"]
    feedback = setting.given.get("error_feedback", False)
    return rivals.rand_k(setting.start, k, setting.draws.masks(k), feedback)


def _iag(setting):
    chosen = setting.draws.workers(setting.given["probabilities"])
    return rivals.iag(setting.start, chosen)


def _diana(setting):
    own = setting.given["compressor"]
    beta = 1 / (1 + own.omega(setting.length))
    return rivals.alone(setting.start, rivals.diana(own.of(setting.draws), beta))


def _marina(setting):
    own = setting.given["compressor"]
    full = setting.draws.coins < 1 / (1 + own.omega(setting.length))
    full[0] = True
    return rivals.alone(setting.start, rivals.marina(own.of(setting.draws), full))


def _ef_bv(setting):
    own, nu, beta = (setting.given[x] for x in ("compressor", "nu", "beta"))
    compress = own.of(setting.draws)
    return rivals.ef_bv(setting.start, compress, nu, beta)


def _threepc(setting):
    k, variant = setting.given["k"], setting.given["variant"]
    second = setting.given.get("second_k", k)
    masks = setting.draws.masks(second)
    compressors = {
        "v2": lambda r, m, v: rivals.compress_rand_k(v, second, masks[r, m]),
        "v4": lambda r, m, v: rivals.compress_top_k(v, second),
    }
    full = setting.draws.coins < setting.given.get("probability", 0.1)
    method = rivals.threepc(variant, k, compressors.get(variant), full)
    return rivals.alone(setting.start, method)


def _dasha(setting):
    own = setting.given["compressor"]
    a = 1 / (2 * own.omega(setting.length) + 1)
    return rivals.alone(setting.start, rivals.dasha(own.of(setting.draws), a))


def _factors(name):
    def run(setting):
        initial = _first_factor(setting.shape[1], setting.given["rank"])
        return getattr(rivals, name)(setting.start, initial)

    return run


def _signs(name):
    """A loop of oracle_signs that takes the method's own arguments."""

    def run(setting):
        made = getattr(signs, name)(setting.start, **setting.given)
        return made if isinstance(made, rivals.Run) else made.run

    return run


def _of_chunks(length, given):
    return given["k"] * -(-length // given["chunk"])


def _in_chunks(message, given):
    place = (given["chunk"] - 1).bit_length()
    return _of_chunks(message.size, given) * (place + 64)


ORACLES = {
    "gd": Oracle(_plain("gd"), _coded("dense", 64, 0), dense=True),
    "gdsec": Oracle(_half(numpy_worker.GDSEC, num_workers=1), _floats),
    "gdsoec": Oracle(_half(numpy_worker.GDSOEC, num_workers=1), _floats),
    "qsgdsec": Oracle(
        _half(numpy_worker.QSGDSEC, num_workers=1), _coded("rle", _level_bits, 1)
    ),
    "cgd": Oracle(_half(numpy_worker.CGD, num_workers=1), _floats),
    "lag": Oracle(_plain("lag"), _floats),
    "laq": Oracle(
        _plain("laq"), _coded("dense", lambda given: given["bits"], 1), dense=True
    ),
    "iag": Oracle(_iag, _floats),
    "top_j": Oracle(_half(numpy_worker.TopJ), _floats),
    "sign_ef": Oracle(_plain("sign_ef"), _coded("dense", 1, 1), dense=True),
    "low_rank": Oracle(_factors("low_rank"), _floats),
    "power_sgd": Oracle(_factors("power_sgd"), _floats),
    "qgd": Oracle(_plain("qgd", uniforms=True), _coded("rle", _level_bits, 1)),
    "natural": Oracle(_plain("natural", uniforms=True), _coded("rle", 9, 0)),
    "terngrad": Oracle(_plain("terngrad", uniforms=True), _coded("rle", 1, 1)),
    "rand_k": Oracle(_rand_k, _floats),
    "ef21": Oracle(_half(numpy_worker.EF21), _floats),
    "ef21_sgdm": Oracle(_plain("ef21_sgdm"), _floats),
    "diana": Oracle(_diana, _of_compressor),
    "marina": Oracle(_marina, _of_compressor),
    "clag": Oracle(_alone("clag"), _floats),
    "ef_bv": Oracle(_ef_bv, _of_compressor),
    "threepc": Oracle(_threepc, _floats),
    "econtrol": Oracle(_alone("econtrol"), _floats),
    "dasha": Oracle(_dasha, _of_compressor),
    "sign_majority": Oracle(_signs("sign_majority"), _coded("dense", 1, 0), dense=True),
    "demo": Oracle(_signs("demo"), _in_chunks, sent=_of_chunks),
    "ef21_p": Oracle(_signs("ef21_p"), _coded("dense", 64, 0), dense=True),
    "ef21_muon": Oracle(_signs("ef21_muon"), _floats),
    "one_bit_adam": Oracle(_signs("one_bit_adam"), _coded("dense", 1, 1), dense=True),
}


class Case(NamedTuple):
    """A method's arguments, and what must be seen to happen."""

    name: str
    arguments: dict[str, Any]
    skips: bool = False  # workers stay silent now and then
    sparse: bool = False  # messages are shorter than D
    only: str | None = None  # on this data set: another case has the other
    exact: int = ROUNDS  # rounds before rounding errors have grown


XI = {"xi": 30.0, "beta": 0.02}
COORDINATES = {"xi": "3 / L^i", "beta": 0.02}
CASES = {
    "gd": Case("gd", {}),
    "gdsec": Case("gdsec", XI, sparse=True),
    "gdsec, running": Case("gdsec", XI | {"server": servers.running()}, sparse=True),
    "gdsec, xi^i": Case(
        "gdsec", COORDINATES | {"server": servers.running()}, sparse=True
    ),
    "gdsoec": Case("gdsoec", XI, sparse=True),
    "gdsoec, xi^i": Case(
        "gdsoec", COORDINATES | {"server": servers.running()}, sparse=True
    ),
    "qsgdsec": Case("qsgdsec", {"xi": 10.0, "beta": 0.02, "levels": 8}, sparse=True),
    "cgd": Case("cgd", {"xi": 1.0}, skips=True),
    "lag": Case("lag", {"zeta": 0.1}, skips=True),
    "laq": Case("laq", {"bits": 4, "zeta": 0.08}, skips=True),
    "iag": Case("iag", {}, skips=True),
    "top_j": Case("top_j", {"k": 6}, sparse=True),
    "sign_ef": Case("sign_ef", {}),
    "low_rank": Case("low_rank", {"rank": 2}, exact=40),
    "power_sgd": Case("power_sgd", {"rank": 4}),
    "power_sgd, rank 2": Case("power_sgd", {"rank": 2}, only="breast_cancer", exact=40),
    "qgd": Case("qgd", {"levels": 8}, sparse=True),
    "natural": Case("natural", {}),
    "terngrad": Case("terngrad", {}, sparse=True),
    "rand_k": Case("rand_k", {"k": 6}, sparse=True),
    "rand_k, feedback": Case(
        "rand_k", {"k": 6, "error_feedback": True}, sparse=True, only="digits"
    ),
    "ef21": Case("ef21", {"k": 6}, sparse=True),
    "ef21_sgdm": Case("ef21_sgdm", {"k": 6, "eta": 0.3}, sparse=True),
    "diana": Case("diana", {"compressor": _random_k(6)}, sparse=True, only="digits"),
    "diana, qsgd": Case(
        "diana", {"compressor": _qsgd(4)}, sparse=True, only="breast_cancer"
    ),
    "diana, natural": Case("diana", {"compressor": _natural()}, only="digits"),
    "marina": Case(
        "marina", {"compressor": _random_k(6)}, sparse=True, only="breast_cancer"
    ),
    "marina, qsgd": Case(
        "marina", {"compressor": _qsgd(4)}, sparse=True, only="digits"
    ),
    "marina, natural": Case("marina", {"compressor": _natural()}, only="breast_cancer"),
    "clag": Case("clag", {"k": 16, "zeta": 3.0}, skips=True, sparse=True),
    "ef_bv": Case("ef_bv", {"compressor": _random_k(6)}, sparse=True),
    "ef_bv, top-k": Case(
        "ef_bv", {"compressor": _top_k(6), "nu": 0.9, "beta": 0.8}, sparse=True
    ),
    "ef_bv, running": Case(
        "ef_bv",
        {"compressor": _qsgd(4), "server": servers.running()},
        sparse=True,
        only="digits",
    ),
    "threepc, v1": Case("threepc", {"k": 6, "variant": "v1"}),
    "threepc, v2": Case(
        "threepc", {"k": 6, "variant": "v2", "second_k": 4}, sparse=True
    ),
    "threepc, v4": Case(
        "threepc", {"k": 6, "variant": "v4", "second_k": 4}, sparse=True
    ),
    "threepc, v5": Case(
        "threepc", {"k": 6, "variant": "v5", "probability": 0.2}, sparse=True
    ),
    "econtrol": Case("econtrol", {"k": 6, "eta": 0.1}, sparse=True),
    "dasha": Case("dasha", {"compressor": _random_k(6)}, sparse=True),
    "dasha, perm-k": Case("dasha", {"compressor": _perm_k()}, sparse=True),
    "sign_majority": Case("sign_majority", {}),
    "demo": Case("demo", {"k": 4, "chunk": 16, "decay": 0.9}, sparse=True),
    "ef21_p": Case("ef21_p", {"k": 6}),
    "ef21_muon": Case("ef21_muon", {"k": 6, "eta": 0.3}, sparse=True),
    "one_bit_adam": Case("one_bit_adam", {"warmup": 40, "b1": 0.9, "b2": 0.99}),
}
MATRICES = ("low_rank", "power_sgd")  # they want matrices; all others are given vectors
# On which data set a case is run each time; the others are slow tests.
_FAST = dict.fromkeys(
    (
        *("gdsec", "gdsoec, xi^i", "qsgdsec", "cgd", "lag", "laq", "iag", "top_j"),
        *("sign_ef", "qgd", "ef21", "clag", "marina", "power_sgd, rank 2"),
        *("ef_bv", "ef_bv, top-k", "threepc, v2", "threepc, v5", "econtrol", "dasha"),
    ),
    "breast_cancer",
) | dict.fromkeys(
    (
        *("gd", "gdsec, xi^i", "diana", "rand_k, feedback"),
        *("threepc, v1", "threepc, v4", "dasha, perm-k", "ef_bv, running"),
        *("sign_majority", "demo", "ef21_p", "ef21_muon", "one_bit_adam"),
    ),
    "digits",
)
# The others take the same way on either.
ON_BOTH = ("gd", "gdsec", "gdsec, xi^i", "gdsoec", "qsgdsec", "ef21")
RUNS = [
    pytest.param(
        case,
        name,
        id=f"{label}-{name}",
        marks=[] if name == _FAST.get(label) else [pytest.mark.slow],
    )
    for label, case in CASES.items()
    for name in ("digits", "breast_cancer")
    if name == (case.only or _FAST.get(label, "digits"))
    or (label in ON_BOTH and case.only is None)
]


def _problem(name, method):
    """The problem, and the oracle's gradient of it."""
    if name == "digits" and method in MATRICES:
        return _softmax()
    problem, x, y, parts = real_problem(name)
    make = {"digits": oracle.ridge_gradient, "breast_cancer": oracle.logistic_gradient}
    gradient = make[name](x, y, parts, 1 / y.size)
    if method not in MATRICES:
        return problem, gradient
    shape = (6, 5)
    return _reshaped(problem, shape), lambda m, theta: gradient(
        m, theta.ravel()
    ).reshape(shape)


def _softmax():
    loaded = data.load("digits")
    x, labels = loaded.features, loaded.targets.astype(int)
    parts = data.split(labels, WORKERS, seed=1)
    problem = problems.softmax(x, labels, WORKERS, split=parts)
    return problem, oracle.softmax_gradient(x, labels, parts, 1 / labels.size)


def _reshaped(problem, shape):
    """The same problem in a matrix of parameters."""

    def of(function):
        return lambda params, samples: function(params.ravel(), samples)

    return dataclasses.replace(
        problem,
        init_params=problem.init_params.reshape(shape),
        worker_loss=of(problem.worker_loss),
        worker_objective=of(problem.worker_objective),
    )


def _optimizer(name, arguments, problem):
    """The method at the step of `theory`, in the package; and what `theory` says."""
    own = {k: v.piece if k == "compressor" else v for k, v in arguments.items()}
    factory = gdsec_jax.METHODS[name].factory
    theory = gdsec_jax.theory(name, problem, **own)
    own |= theory.parameters
    if "key" in inspect.signature(factory).parameters:
        own["key"] = KEY
    algorithm = factory(problem.num_workers, **own, wire="rle")
    return optax.chain(algorithm, optax.sgd(theory.learning_rate)), theory


def _library(problem, optimizer, rounds=ROUNDS):
    """The last state, theta after each round, and what was sent, all compiled."""

    @jax.jit
    def all_rounds(problem):
        def one(carry, _):
            params, state = carry
            grads = problem.gradients(params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, gdsec_jax.last_round(state))

        start = problem.init_params, optimizer.init(problem.init_params)
        (_, state), (thetas, sent) = jax.lax.scan(one, start, length=rounds)
        return state, thetas, sent

    return all_rounds(problem)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("case", "name"), RUNS)
def test_equals_the_oracle_for_200_rounds(case, name):
    problem, gradient = _problem(name, case.name)
    arguments = dict(case.arguments)
    if arguments.get("xi") == "3 / L^i":
        arguments["xi"] = 3.0 / np.maximum(problem.coordinate_smoothness, 1e-3)
    optimizer, theory = _optimizer(case.name, arguments, problem)
    state, thetas, sent = _library(problem, optimizer)

    shape = problem.init_params.shape
    length = math.prod(shape)
    start = rivals.Start(
        gradient, np.zeros(shape), theory.learning_rate, ROUNDS, WORKERS
    )
    given = theory.parameters | arguments
    own = ORACLES[case.name]
    setting = Setting(start, given, _draws(length), shape)
    expected = own.run(setting)
    same, until = expected.thetas[1:], case.exact
    close = 1e-12 if case.name in ("gd", "gdsec", "gdsoec") else 1e-10
    np.testing.assert_allclose(thetas[:until], same[:until], rtol=close, atol=close)
    if until < ROUNDS:
        apart = np.abs(thetas - same).reshape(ROUNDS, -1).max(axis=1)
        assert (apart <= 1e-10 + _sensitivity(setting, own, same)).all()

    messages, whole = expected.messages.reshape(ROUNDS, WORKERS, length), expected.whole
    entries = np.count_nonzero(messages, axis=-1)
    speaks = entries > 0
    if case.name in MATRICES:  # two factors travel in its stead
        entries = np.where(speaks, given["rank"] * sum(shape), 0)
        bits = 64 * entries
    else:
        entries[speaks & (whole | own.dense)] = length
        if own.sent is not None:
            entries[speaks] = own.sent(length, given)
        if getattr(given.get("compressor"), "known", False):
            entries[speaks] = math.ceil(length / WORKERS)
        bits = [
            [
                oracle.dense_bits(u, 64) if whole else own.bits(u, given)
                for u, whole in zip(*row, strict=True)
            ]
            for row in zip(messages, whole, strict=True)
        ]
    np.testing.assert_array_equal(sent.entries, entries)
    np.testing.assert_array_equal(sent.bits, bits)
    if until == ROUNDS:
        _check_memories(state, expected)

    assert problem.error(thetas[-1]) < 0.5 * problem.error(problem.init_params)
    later = speaks[1:]
    if case.skips:
        assert 0.1 < (~later).mean() < 1 and later.sum() >= 10, "skips all or none"
    elif case.name not in ("gdsec", "gdsoec"):  # theirs may be empty
        assert speaks.all()
    if case.sparse:
        assert 0 < entries[1:].mean() < 0.9 * length, "compresses nothing"
    if case.name == "marina":
        assert 0 < whole[1:].mean() < 1, "never tosses the other side"


def _check_memories(state, expected):
    """h_m, e_m and h, of those that a state has."""
    own = () if expected.h is None else expected.h.sum(axis=0)
    ((_, workers, server, *_),) = _trees.of_type(state, FederationState)
    for where, kind, field, memory in (
        (workers, worker.GradientDifferenceState, "memory", expected.h),
        (workers, worker.ErrorFeedbackState, "error", expected.e),
        (server, ServerMemoryState, "memory", own),
    ):
        for node in _trees.of_type(where, kind) if memory is not None else ():
            np.testing.assert_allclose(getattr(node, field), memory, atol=1e-10)


def _sensitivity(setting, own, thetas):
    """Ten times how far the oracle gets from itself, from 1e-13 away, [rounds].

    Error feedback with a rank far below the matrix's is chaotic: rounding errors grow
    by a fifth a round.
    """
    theta = setting.start.theta
    nudge = 1e-13 * np.random.default_rng(0).standard_normal(theta.shape)
    start = setting.start._replace(theta=theta + nudge)
    moved = own.run(setting._replace(start=start))
    apart = np.abs(moved.thetas[1:] - thetas)
    return 10 * np.maximum.accumulate(apart.reshape(ROUNDS, -1).max(axis=1))


# Limits of the methods.


@pytest.mark.usefixtures("x64")
@methods(
    lambda method: method.as_gd and method.name != "gd",
    fast=("gdsec", "top_j", "diana", "marina"),
)
def test_its_limit_case_is_gradient_descent(method):
    _is_gradient_descent(*_problem("digits", "vectors"), method.make_gd(WORKERS))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("power_sgd", {"rank": 10}), ("rand_k", {"k": 1.0, "error_feedback": True})],
)
def test_a_further_limit_case_is_gradient_descent(name, arguments):
    """Beside those in cases.py, where the parameters are a vector."""
    algorithm = gdsec_jax.METHODS[name].factory(WORKERS, **arguments, key=KEY)
    _is_gradient_descent(*_problem("digits", name), algorithm)


@pytest.mark.parametrize("dtype", slow_but(["bfloat16"], ["bfloat16", "float16"]))
def test_a_narrow_state_keeps_the_limit_case(dtype):
    problem, gradient = _problem("digits", "vectors")
    alpha = 1 / float(problem.smoothness)
    narrow = gdsec_jax.gdsec(WORKERS, xi=0.0, beta=0.1, state_dtype=jnp.dtype(dtype))
    _, ours, _ = _library(problem, optax.chain(narrow, optax.sgd(alpha)), 300)
    start = rivals.Start(gradient, np.zeros(64), alpha, 300, WORKERS)
    gd = rivals.gd(start).thetas[-1]
    errors = [float(problem.error(jnp.float32(theta))) for theta in (ours[-1], gd)]
    assert abs(errors[0] - errors[1]) < 1e-2 * errors[1]


def _is_gradient_descent(problem, gradient, algorithm):
    alpha = 1 / float(problem.smoothness)
    _, thetas, _ = _library(problem, optax.chain(algorithm, optax.sgd(alpha)))
    zeros = np.zeros(problem.init_params.shape)
    gd = rivals.gd(rivals.Start(gradient, zeros, alpha, ROUNDS, WORKERS))
    np.testing.assert_allclose(thetas, gd.thetas[1:], rtol=1e-10, atol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("clag", {"k": 6, "zeta": 0.0}),
        pytest.param("ef21_sgdm", {"k": 6, "eta": 1.0}, marks=pytest.mark.slow),
        (
            "ef_bv",
            {
                "compressor": worker.first_whole(worker.top_k(6)),
                "nu": 1.0,
                "beta": 1.0,
            },
        ),
        ("threepc", {"k": 4, "variant": "v4", "second_k": 2}),
    ],
)
def test_a_limit_case_is_ef21(name, arguments):
    problem, gradient = _problem("digits", name)
    alpha = gdsec_jax.theory("ef21", problem, k=6).learning_rate
    algorithm = gdsec_jax.METHODS[name].factory(WORKERS, **arguments, wire="rle")
    _, thetas, sent = _library(problem, optax.chain(algorithm, optax.sgd(alpha)))
    start = rivals.Start(gradient, np.zeros(64), alpha, ROUNDS, WORKERS)
    ef21 = rivals.alone(start, rivals.worker_half(numpy_worker.EF21(6)))
    np.testing.assert_allclose(thetas, ef21.thetas[1:], rtol=1e-10, atol=1e-10)
    entries = np.where(ef21.whole, 64, np.count_nonzero(ef21.messages, axis=-1))
    np.testing.assert_array_equal(sent.entries, entries)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("running", slow_but([False], [False, True]))
def test_ef_bv_with_nu_1_is_diana(running):
    problem, _ = _problem("digits", "ef_bv")
    compressor = worker.qsgd(4)
    own = {"key": KEY, "server": servers.running() if running else None}
    step = optax.sgd(gdsec_jax.theory("diana", problem, compressor=compressor)[0])
    diana = gdsec_jax.diana(WORKERS, compressor, **own)
    beta = 1 / (1 + worker.variance_of(compressor, problem.init_params))
    for given in ({"beta": None}, {"beta": beta}):
        ef_bv = gdsec_jax.ef_bv(WORKERS, compressor, nu=1.0, **given, **own)
        runs = [_library(problem, optax.chain(x, step)) for x in (diana, ef_bv)]
        np.testing.assert_allclose(runs[1][1], runs[0][1], rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(runs[1][2].bits, runs[0][2].bits)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_qsgdsec_with_2_to_the_20_levels_is_nearly_gdsec_on_minibatches():
    full, *_ = real_problem("digits")
    problem = problems.minibatch(full, batch_size=8)
    step = optax.sgd(0.1 / problem.smoothness)

    def final(make, **own):
        optimizer = optax.chain(make(WORKERS, xi=200.0, beta=0.02, **own), step)
        run = gdsec_jax.simulate(problem, optimizer, ROUNDS, key=KEY, eval_every=ROUNDS)
        return run.params, run.entries.mean() / run.params.size

    exact, share = final(gdsec_jax.gdsec)
    near, _ = final(gdsec_jax.qsgdsec, levels=2**20)
    assert 0.05 < share < 0.8, "censors nothing"
    apart = jnp.linalg.norm(near - exact) / jnp.linalg.norm(exact)
    assert 0 < apart < 1e-5


# Convergence, at the step of `theory`.


class Row(NamedTuple):
    """Where a method gets to, with these arguments."""

    name: str
    arguments: dict[str, Any]
    near: float | None = None  # bound of its error over the initial one; None: 1e-10


# On ridge regression with lambda = 1, L / lambda = 11.5. Where a number is given, the
# relative error stays below it in the last 1,000 of 4,000 rounds, and never comes down
# to 1e-8; all others are at 1e-10 within 4,000.
CONVERGENCE = {
    "gd": Row("gd", {}),
    "gdsec": Row("gdsec", {"xi": 5.0, "beta": 0.1}),
    "gdsoec": Row("gdsoec", {"xi": 0.5, "beta": 0.1}),
    "qsgdsec": Row("qsgdsec", {"xi": 5.0, "beta": 0.02, "levels": 8}),
    "qsgdsec, no memory": Row("qsgdsec", {"xi": 5.0, "beta": 0.0, "levels": 8}, 1e-4),
    "cgd": Row("cgd", {"xi": 1.0}),
    "lag": Row("lag", {}),
    "laq": Row("laq", {}),
    "iag": Row("iag", {}),
    "top_j": Row("top_j", {"k": 6}, 1e-3),
    "sign_ef": Row("sign_ef", {}, 1e-3),
    "low_rank": Row("low_rank", {"rank": 1}, 5e-3),
    "power_sgd": Row("power_sgd", {"rank": 1}),
    "qgd": Row("qgd", {"levels": 8}, 1e-4),
    "natural": Row("natural", {}, 1e-4),
    "terngrad": Row("terngrad", {}, 2e-4),
    "rand_k": Row("rand_k", {"k": 16}, 1e-3),
    "rand_k, feedback": Row("rand_k", {"k": 16, "error_feedback": True}, 1e-2),
    "ef21": Row("ef21", {"k": 6}),
    "ef21_sgdm": Row("ef21_sgdm", {"k": 16, "eta": 0.3}),
    "diana": Row("diana", {"compressor": _random_k(16)}),
    "diana, qsgd": Row("diana", {"compressor": _qsgd(8)}),
    "marina": Row("marina", {"compressor": _random_k(16)}),
    "clag": Row("clag", {"k": 16, "zeta": 2.0}),
    "ef_bv": Row("ef_bv", {"compressor": _random_k(16)}),
    "ef_bv, top-k": Row("ef_bv", {"compressor": _top_k(16)}),
    "threepc, v1": Row("threepc", {"k": 6, "variant": "v1"}),
    "threepc": Row("threepc", {"k": 16, "variant": "v2"}),
    "threepc, v4": Row("threepc", {"k": 6, "variant": "v4"}),
    "threepc, v5": Row("threepc", {"k": 16, "variant": "v5", "probability": 0.2}),
    "econtrol": Row("econtrol", {"k": 6}),
    "dasha": Row("dasha", {"compressor": _random_k(16)}),
    "dasha, perm-k": Row("dasha", {"compressor": _perm_k()}),
    "sign_majority": Row("sign_majority", {}, 1e-3),
    "demo": Row("demo", {"k": 4, "chunk": 16}, 1e-4),
    "ef21_p": Row("ef21_p", {"k": 32}),
    "ef21_muon": Row("ef21_muon", {"k": 16, "eta": 0.3}, 1e-2),
    "one_bit_adam": Row("one_bit_adam", {"warmup": 50}, 1e-5),
}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("row", CONVERGENCE.values(), ids=CONVERGENCE.keys())
def test_converges(row):
    problem, *_ = real_problem("digits", regularization=1.0)
    if row.name in MATRICES:
        problem = _reshaped(problem, (8, 8))
    optimizer, _ = _optimizer(row.name, row.arguments, problem)
    target = 1e-10 * float(problem.error(problem.init_params))
    run = gdsec_jax.simulate(problem, optimizer, 4000, stop=gdsec_jax.Stop(target))
    errors = run.objective_error / run.initial_error
    if row.near is None:
        assert run.outcome == "target"
    else:
        assert run.outcome == "completed"
        assert errors[-1000:].max() < row.near
        assert errors.min() > 1e-8


# Completeness: nothing joins the table without its oracle, its page and its row.


def test_every_method_has_an_oracle_and_its_rows():
    named = [{row.name for row in x.values()} for x in (CASES, CONVERGENCE)]
    shared = {method.name for method in METHODS}
    # Those whose workers train have a module of their own, and what they share there.
    ours = {name for name, each in gdsec_jax.METHODS.items() if not each.trains}
    for names in (*named, set(ORACLES), shared):
        assert names == ours


# Of papers before 2022: what all of them write alike.
USUAL = "gd cgd lag laq iag top_j sign_ef low_rank power_sgd qgd natural terngrad"
USUAL += " rand_k ef21 diana marina"


def test_every_later_method_says_where_its_formula_is_from():
    """A word in the table, and more in its docstring."""
    said = {x.name: x.formula for x in gdsec_jax.METHODS.values()}
    assert {name for name, x in said.items() if x == "usual"} == set(USUAL.split())
    words = {"public code": "public (code|baseline)", "memory": "from memory of"}
    words["descriptions"] = "descriptions of it"
    for name in said.keys() - set(USUAL.split()):
        page = inspect.getdoc(gdsec_jax.METHODS[name].factory) or ""
        sources = " ".join(page[page.index("References:") :].split())
        assert re.search(words[said[name]], sources), name


@pytest.mark.parametrize("name", gdsec_jax.METHODS)
def test_every_method_has_its_page(name):
    """In the order of all pages, with every argument, and where the method gets to."""
    factory = gdsec_jax.METHODS[name].factory
    page = inspect.getdoc(factory) or ""
    assert ":math:" in page or ".. math::" in page
    sections = ("Args:", "Returns:", "Raises:", "Examples:", "References:")
    places = [page.find(f"\n{section}\n") for section in sections]
    assert -1 not in places and places == sorted(places), places
    arguments, examples = page[places[0] : places[1]], page[places[3] : places[4]]
    assert ">>> " in examples and f"gdsec_jax.{name}(" in examples
    entries = re.findall(r"^  ([\w, ]+): ", arguments, flags=re.MULTILINE)
    described = [word for entry in entries for word in entry.split(", ")]
    assert sorted(described) == sorted(inspect.signature(factory).parameters)
    near = name in CONVERGENCE and CONVERGENCE[name].near is not None
    assert ("neighbourhood" in page) == near

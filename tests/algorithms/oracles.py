"""Every method's oracle, and how a method is run beside it."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import oracle_rivals as rivals
import oracle_signs as signs
from cases import real_problem

import gdsec_jax
from gdsec_jax import data, numpy_worker, problems, worker

WORKERS = 5
ROUNDS = 200
KEY = 7
MATRICES = ("low_rank", "power_sgd")  # they want matrices; all others are given vectors


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
def draws_of(length: int) -> Draws:
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


def random_k(k):
    def of(draws):
        masks = draws.masks(k)
        return lambda r, m, v: rivals.compress_rand_k(v, k, masks[r, m])

    return Compressor(worker.random_k(k), of, lambda d: d / k - 1, 64, 0)


def qsgd(s):
    def of(draws):
        return lambda r, m, v: rivals.compress_qsgd(v, s, draws.uniforms[r, m])[0]

    width = 1 + math.ceil(math.log2(s + 1))
    omega = lambda d: min(d / s**2, math.sqrt(d) / s)  # noqa: E731
    return Compressor(worker.qsgd(s), of, omega, width, 1)


def perm_k():
    def of(draws):
        masks = draws.blocks()
        return lambda r, m, v: np.where(masks[r, m], WORKERS * v, 0.0)

    piece, omega = worker.perm_k(WORKERS), lambda d: WORKERS - 1
    return Compressor(piece, of, omega, 64, 0, known=True)


def top_k(k):
    def of(draws):
        return lambda r, m, v: rivals.compress_top_k(v, k)

    return Compressor(worker.top_k(k), of, None, 64, 0)


def natural():
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

# A method and its oracle on a problem.


def problem_of(name, method):
    """The problem, and the oracle's gradient of it."""
    if name == "digits" and method in MATRICES:
        return _softmax()
    problem, x, y, parts = real_problem(name)
    make = {"digits": oracle.ridge_gradient, "breast_cancer": oracle.logistic_gradient}
    gradient = make[name](x, y, parts, 1 / y.size)
    if method not in MATRICES:
        return problem, gradient
    shape = (6, 5)
    return reshaped(problem, shape), lambda m, theta: gradient(
        m, theta.ravel()
    ).reshape(shape)


def _softmax():
    loaded = data.load("digits")
    x, labels = loaded.features, loaded.targets.astype(int)
    parts = data.split(labels, WORKERS, seed=1)
    problem = problems.softmax(x, labels, WORKERS, split=parts)
    return problem, oracle.softmax_gradient(x, labels, parts, 1 / labels.size)


def reshaped(problem, shape):
    """The same problem in a matrix of parameters."""

    def of(function):
        return lambda params, samples: function(params.ravel(), samples)

    return dataclasses.replace(
        problem,
        init_params=problem.init_params.reshape(shape),
        worker_loss=of(problem.worker_loss),
        worker_objective=of(problem.worker_objective),
    )


def optimizer_of(name, arguments, problem):
    """The method at the step of `theory`, in the package; and what `theory` says."""
    own = {k: v.piece if k == "compressor" else v for k, v in arguments.items()}
    factory = gdsec_jax.METHODS[name].factory
    theory = gdsec_jax.theory(name, problem, **own)
    own |= theory.parameters
    if "key" in inspect.signature(factory).parameters:
        own["key"] = KEY
    algorithm = factory(problem.num_workers, **own, wire="rle")
    return optax.chain(algorithm, optax.sgd(theory.learning_rate)), theory


def library(problem, optimizer, rounds=ROUNDS, told=gdsec_jax.last_round):
    """The last state, theta after each round, and what its state told, all compiled."""

    @jax.jit
    def all_rounds(problem):
        def one(carry, _):
            params, state = carry
            grads = problem.gradients(params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, told(state))

        start = problem.init_params, optimizer.init(problem.init_params)
        (_, state), (thetas, sent) = jax.lax.scan(one, start, length=rounds)
        return state, thetas, sent

    return all_rounds(problem)

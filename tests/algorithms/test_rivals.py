"""Every method against its oracle, to the bit of its messages."""

import math
from typing import Any, NamedTuple

import numpy as np
import oracle
import oracle_rivals as rivals
import pytest
from cases import METHODS
from inside import _trees
from oracles import (
    MATRICES,
    ORACLES,
    ROUNDS,
    WORKERS,
    Setting,
    draws_of,
    library,
    natural,
    optimizer_of,
    perm_k,
    problem_of,
    qsgd,
    random_k,
    top_k,
)

import gdsec_jax
from gdsec_jax import server as servers
from gdsec_jax import worker
from gdsec_jax.federation import FederationState
from gdsec_jax.server import ServerMemoryState


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
    "diana": Case("diana", {"compressor": random_k(6)}, sparse=True, only="digits"),
    "diana, qsgd": Case(
        "diana", {"compressor": qsgd(4)}, sparse=True, only="breast_cancer"
    ),
    "diana, natural": Case("diana", {"compressor": natural()}, only="digits"),
    "marina": Case(
        "marina", {"compressor": random_k(6)}, sparse=True, only="breast_cancer"
    ),
    "marina, qsgd": Case("marina", {"compressor": qsgd(4)}, sparse=True, only="digits"),
    "marina, natural": Case("marina", {"compressor": natural()}, only="breast_cancer"),
    "clag": Case("clag", {"k": 16, "zeta": 3.0}, skips=True, sparse=True),
    "ef_bv": Case("ef_bv", {"compressor": random_k(6)}, sparse=True),
    "ef_bv, top-k": Case(
        "ef_bv", {"compressor": top_k(6), "nu": 0.9, "beta": 0.8}, sparse=True
    ),
    "ef_bv, running": Case(
        "ef_bv",
        {"compressor": qsgd(4), "server": servers.running()},
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
    "dasha": Case("dasha", {"compressor": random_k(6)}, sparse=True),
    "dasha, perm-k": Case("dasha", {"compressor": perm_k()}, sparse=True),
    "sign_majority": Case("sign_majority", {}),
    "demo": Case("demo", {"k": 4, "chunk": 16, "decay": 0.9}, sparse=True),
    "ef21_p": Case("ef21_p", {"k": 6}),
    "ef21_muon": Case("ef21_muon", {"k": 6, "eta": 0.3}, sparse=True),
    "one_bit_adam": Case("one_bit_adam", {"warmup": 40, "b1": 0.9, "b2": 0.99}),
}
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


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("case", "name"), RUNS)
def test_equals_the_oracle_for_200_rounds(case, name):
    problem, gradient = problem_of(name, case.name)
    arguments = dict(case.arguments)
    if arguments.get("xi") == "3 / L^i":
        arguments["xi"] = 3.0 / np.maximum(problem.coordinate_smoothness, 1e-3)
    optimizer, theory = optimizer_of(case.name, arguments, problem)
    state, thetas, sent = library(problem, optimizer)

    shape = problem.init_params.shape
    length = math.prod(shape)
    start = rivals.Start(
        gradient, np.zeros(shape), theory.learning_rate, ROUNDS, WORKERS
    )
    given = theory.parameters | arguments
    own = ORACLES[case.name]
    setting = Setting(start, given, draws_of(length), shape)
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


def test_every_method_has_an_oracle_and_its_rows():
    shared = {method.name for method in METHODS}
    # Those whose workers train have modules of their own.
    ours = {name for name, each in gdsec_jax.METHODS.items() if not each.trains}
    for names in ({case.name for case in CASES.values()}, set(ORACLES), shared):
        assert names == ours

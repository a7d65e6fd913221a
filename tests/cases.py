"""What the shared tests run over: every method, with what is particular to it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdsec_jax
from gdsec_jax import data, problems, worker


class Method(NamedTuple):
    """A method, with arguments that make it do its work."""

    name: str
    arguments: dict[str, Any]
    as_gd: dict[str, Any] | None  # arguments that make it gradient descent, if any do
    memory: bool = True  # keeps one that state_dtype concerns
    draws: bool = False  # takes a key
    code: str = "float"  # how its values are written
    dense: bool = False  # every entry of a message is sent
    whole_first: bool = False  # the first message is the gradient itself

    def make(self, num_workers, **options):
        return getattr(gdsec_jax, self.name)(num_workers, **self.arguments, **options)

    def make_gd(self, num_workers, **options):
        assert self.as_gd is not None
        return getattr(gdsec_jax, self.name)(num_workers, **self.as_gd, **options)


METHODS = (
    Method("gd", {}, {}, memory=False, dense=True, whole_first=True),
    Method(
        "gdsec", {"xi": 5.0, "beta": 0.1}, {"xi": 0.0, "beta": 0.1}, whole_first=True
    ),
    Method(
        "gdsoec", {"xi": 0.5, "beta": 0.1}, {"xi": 0.0, "beta": 0.1}, whole_first=True
    ),
    Method(
        "qsgdsec",
        {"xi": 5.0, "beta": 0.1, "levels": 8},
        None,
        draws=True,
        code="levels",
    ),
    Method("cgd", {"xi": 2.0}, {"xi": 0.0}, dense=True, whole_first=True),
    Method(
        "lag",
        {"learning_rate": 0.05},
        {"learning_rate": 0.05, "zeta": 0.0},
        dense=True,
        whole_first=True,
    ),
    Method("laq", {"learning_rate": 0.05}, None, code="grid", dense=True),
    Method("iag", {}, None, draws=True, dense=True),
    Method("top_j", {"k": 3}, {"k": 10_000}),
    Method("sign_ef", {}, None, code="grid", dense=True),
    Method("low_rank", {"rank": 1}, {"rank": 10_000}, draws=True, dense=True),
    Method("power_sgd", {"rank": 1}, {"rank": 10_000}, draws=True, dense=True),
    Method("qgd", {"levels": 8}, None, memory=False, draws=True, code="levels"),
    Method("natural", {}, None, memory=False, draws=True, code="power"),
    Method("terngrad", {}, None, memory=False, draws=True, code="ternary"),
    Method("rand_k", {"k": 0.5}, {"k": 1.0}, memory=False, draws=True),
    Method("ef21", {"k": 3}, {"k": 10_000}, whole_first=True),
    Method(
        "ef21_sgdm", {"k": 3, "eta": 0.5}, {"k": 10_000, "eta": 1.0}, whole_first=True
    ),
    Method(
        "diana",
        {"compressor": worker.random_k(3)},
        {"compressor": worker.whole()},
        draws=True,
    ),
    Method(
        "marina",
        {"compressor": worker.random_k(3)},
        {"compressor": worker.random_k(3), "probability": 1.0},
        draws=True,
        whole_first=True,
    ),
    Method("clag", {"k": 3, "zeta": 0.5}, {"k": 10_000, "zeta": 0.0}, whole_first=True),
    Method(
        "ef_bv",
        {"compressor": worker.random_k(3)},
        {"compressor": worker.whole()},
        draws=True,
    ),
    Method(
        "threepc",
        {"k": 3, "variant": "v2"},
        {"k": 10_000, "variant": "v2"},
        draws=True,
        whole_first=True,
    ),
    Method("econtrol", {"k": 3, "eta": 0.1}, {"k": 10_000, "eta": 0.1}),
    Method(
        "dasha",
        {"compressor": worker.random_k(3)},
        {"compressor": worker.whole()},
        draws=True,
    ),
    Method("sign_majority", {}, None, memory=False, code="grid", dense=True),
    Method("demo", {"k": 2, "chunk": 4, "decay": 0.9}, None),
    Method("ef21_p", {"k": 3}, {"k": 10_000}, memory=False, dense=True),
    Method("ef21_muon", {"k": 3, "eta": 0.5}, None),
    Method("one_bit_adam", {"warmup": 2, "eps": 1.0}, None, code="grid", dense=True),
)
IDS = [method.name for method in METHODS]


# One of each kind of state and message: enough for what federate does alike for all.
KINDS = ("gd", "gdsec", "qsgdsec", "low_rank", "ef21", "marina")

# Where a test is dear, these alone are run each time, and some of other kinds as slow
# ones; each method's own iterates and messages are held against the oracles.
CORE = ("gdsec", "marina")
DEAR = (*CORE, "qsgdsec", "low_rank")


def methods(where=lambda method: True, *, dear=False, core=CORE, fast=None):
    """Parametrise a test by the methods that fulfil a condition.

    Args:
      dear: only those of each kind, and as slow tests but for the `core`.
      fast: all of them, and as slow tests but for these.
    """
    quick = core if dear else fast
    return pytest.mark.parametrize(
        "method",
        [
            pytest.param(
                method,
                id=method.name,
                marks=[]
                if quick is None or method.name in quick
                else [pytest.mark.slow],
            )
            for method in METHODS
            if where(method) and (not dear or method.name in DEAR)
        ],
    )


def slow_but(fast, values):
    """Values for a parametrised test, of which those not among `fast` are slow."""
    return [
        pytest.param(value, marks=[] if value in fast else [pytest.mark.slow])
        for value in values
    ]


def real_problem(name, **options):
    """A problem on embedded data, with the samples' split: (problem, x, y, parts)."""
    return _real_problem(name, jax.config.jax_enable_x64, **options)


@functools.cache
def _real_problem(name, wide, **options):
    kind = {"digits": problems.ridge, "breast_cancer": problems.logistic}[name]
    loaded = data.load(name)
    parts = data.split(loaded.targets, 5, seed=1)
    problem = kind(loaded.features, loaded.targets, 5, split=parts, **options)
    targets = loaded.targets.astype(float)
    if name == "breast_cancer":
        targets = 2 * targets - 1
    return problem, loaded.features, targets, parts


def tree_params(dtype=jnp.float32):
    """Parameters of several shapes, nested, with a scalar."""
    return {
        "layers": [jnp.asarray(np.ones((3, 2)), dtype), jnp.asarray([0.5] * 2, dtype)],
        "scale": jnp.asarray(2.0, dtype),
    }


def random_gradients(params, num_workers, seed, rounds=None):
    """Normal numbers with the axes [rounds,] M before the parameters' shapes."""
    rng = np.random.default_rng(seed)
    lead = (num_workers,) if rounds is None else (rounds, num_workers)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.standard_normal((*lead, *p.shape)), p.dtype), params
    )


def mutated(rng, data, words=()):
    """Bytes with one to four changes such as damage and malice make."""
    result = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        start, end = sorted(rng.integers(0, len(result) + 1, 2).tolist())
        match rng.integers(0, 8):
            case 0:
                result[start : start + 1] = rng.bytes(1)
            case 1 if start < len(result):
                result[start] ^= 1 << int(rng.integers(8))
            case 2:
                result[start : start + 8] = b"\xff" * 8
            case 3:
                result[start : start + 8] = bytes(8)
            case 4:
                del result[start : start + int(rng.integers(1, 5))]
            case 5:
                result[start:start] = result[start:end]
            case 6:
                result[start:start] = rng.bytes(int(rng.integers(1, 9)))
            case _:
                if len(words):
                    result[start:start] = words[rng.integers(len(words))]
                else:
                    del result[end:]
    return bytes(result)


@functools.partial(jax.jit, static_argnums=0)
def run(optimizer, params, gradients):
    """Scan over the rounds of `gradients`: final params, state, and each LastRound.

    One program for an optimizer and shapes: hand over the same object again.
    """

    def one(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (gdsec_jax.last_round(state), updates)

    carry = params, optimizer.init(params)
    (params, state), (sent, updates) = jax.lax.scan(one, carry, gradients)
    return params, state, sent, updates


def made_history(bits, errors, outcome="completed", initial=10.0, **attributes):
    """The History of one worker's run, evaluated after every round."""
    bits, errors = np.array(bits)[:, None], np.array(errors, float)
    rounds = len(errors)
    return gdsec_jax.History(
        initial_error=initial,
        eval_rounds=np.arange(1, rounds + 1),
        objective_error=errors,
        entries=bits // 32,
        bits=bits,
        broadcast_bits=np.full(rounds, 320),
        gradient_evaluations=np.full(rounds, 100),
        participants=np.ones((rounds, 1), bool),
        dropped=np.zeros(rounds, int),
        params=np.zeros(1),
        outcome=outcome,
        attributes=attributes,
    )

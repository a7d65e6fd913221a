"""Runs that go on from their checkpoints, as if nothing had happened."""

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_simulate import assert_same_course

import gdsec_jax
from gdsec_jax import _checkpoint, broadcast, problems, simulate, worker

WORKERS, EVERY = 4, 20


@functools.cache
def problem():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6))
    return problems.ridge(x, x @ rng.standard_normal(6), WORKERS, dtype="float32")


@functools.cache
def optimizer(name="gdsec", scale=0.5):
    method = next(method for method in cases.METHODS if method.name == name)
    options = {"key": 5} if method.draws else {}
    return optax.chain(
        method.make(WORKERS, wire="rle", **options),
        optax.sgd(scale / problem().smoothness),
    )


def run(folder=None, num_rounds=50, chain=None, on=None, **options):
    """A run, with checkpoints if there is a folder."""
    if folder is not None:
        options = {"checkpoint": folder, "checkpoint_every": EVERY} | options
    return simulate(on or problem(), chain or optimizer(), num_rounds, **options)


class KilledError(Exception):
    pass


def killed_at(rounds):
    """A log that ends a run by force once so many rounds are computed."""

    def log(rows):
        if rows["round"][-1] >= rounds:
            raise KilledError

    return log


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def half(key):
    return jax.random.bernoulli(key, 0.5, (WORKERS,))


# The same to the last bit


@cases.methods(dear=True)
def test_a_run_that_goes_on_is_the_undisturbed_one(method, tmp_path):
    chain = optimizer(method.name)
    expected = run(chain=chain)
    assert_same_course(run(tmp_path / "undisturbed", chain=chain), expected)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", chain=chain, log=killed_at(45))
    assert steps(tmp_path / "killed") == [20, 40]
    assert_same_course(run(tmp_path / "killed", chain=chain), expected)


def draws_of_every_kind():
    """Minibatches, absences, and a broadcast with a memory and numbers of its own."""
    piece = worker.error_feedback(worker.top_k(2))
    chain = optax.chain(optimizer("gd"), broadcast(piece))
    on = problems.minibatch(problem(), 3)
    return {"on": on, "chain": chain, "participation": half, "key": 7}


def numbers_in_the_state():
    """Injected ones, whose types are weak, a typed random key, halves."""
    static = ("num_workers", "wire", "reduction", "state_dtype")
    make = optax.inject_hyperparams(gdsec_jax.gdsec, static_args=static)
    schedule = optax.cosine_decay_schedule(0.5 / problem().smoothness, 50)
    chain = optax.chain(
        make(WORKERS, xi=5.0, state_dtype="bfloat16"),
        optax.add_noise(0.1, 0.5, jax.random.key(3)),
        optax.inject_hyperparams(optax.sgd)(schedule),
    )
    return {"chain": chain}


def a_tree_of_halves():
    data = {"at": jnp.arange(8, dtype=jnp.bfloat16).reshape(WORKERS, 2)}
    start = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros((), jnp.bfloat16)}

    def loss(params, own):
        return 0.5 * jnp.sum((params["a"] - own["at"]) ** 2) + 0.5 * params["b"] ** 2

    on = problems.from_loss(loss, data, start)
    chain = optax.chain(gdsec_jax.gdsec(WORKERS, xi=0.1), optax.sgd(0.01))
    return {"on": on, "chain": chain}


@pytest.mark.parametrize(
    "kind",
    [
        draws_of_every_kind,
        pytest.param(numbers_in_the_state, marks=pytest.mark.slow),
        pytest.param(a_tree_of_halves, marks=pytest.mark.slow),
    ],
)
def test_whatever_a_run_carries_is_saved(kind, tmp_path, compiled):
    options = {"norms": True, "eval_every": 7} | kind()
    with jax.numpy_dtype_promotion("standard"):
        expected = run(**options)
        run(tmp_path, 40, **options)
        compiled()
        history = run(tmp_path, **options)
    assert "jit(_run_chunk)" not in compiled()  # the very same loop
    for name, norm in expected.norms.items():
        np.testing.assert_array_equal(history.norms[name], norm, err_msg=name)
    jax.tree.map(
        functools.partial(np.testing.assert_array_equal, strict=True),
        history.params,
        expected.params,
    )
    for name in ("objective_error", "bits", "participants", "broadcast_bits"):
        np.testing.assert_array_equal(getattr(history, name), getattr(expected, name))

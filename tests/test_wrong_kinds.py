"""What is of the wrong kind is told of in one sentence, whatever it is."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdsec_jax
from gdsec_jax import channel, data, participation, problems, robust, server

X = np.random.default_rng(0).normal(size=(12, 3))
Y, SIGNS, CLASSES = X.sum(1), np.sign(X.sum(1)), np.arange(12) % 3
SAMPLES = {"features": X, "targets": Y, "num_workers": 3}
RIDGE = problems.ridge(X, Y, 3)
CHAIN = optax.chain(gdsec_jax.gd(3), optax.sgd(0.01))
PARTS = [np.arange(6), np.arange(6, 12)]


class Thing:
    """An object that nothing expects."""


WRONG = {
    **{"a word": "x", "none": None, "three": 3, "minus one": -1, "half": 0.5},
    **{"list": [1, 2], "words": ["a", "b"], "nothing": [], "dict": {"a": 1}},
    **{"object": Thing(), "function": lambda *_: 0, "bytes": b"a", "nan": np.nan},
    **{"matrix": np.ones((2, 2)), "scalar": jnp.ones(()), "complex": 1j, "true": True},
    **{"problem": RIDGE, "samples": data.Dataset("toy", X, SIGNS)},
}


def loss(params, x):
    return 0.5 * jnp.sum((params - x) ** 2)


def chain(rate):
    return optax.chain(gdsec_jax.gd(3), optax.sgd(rate))


def lower_run(what, problem, optimizer, num_rounds, on):
    return gdsec_jax.lower(what, problem, optimizer, num_rounds, on=on)


def lower_sweep(problem, make_optimizer, grid):
    return gdsec_jax.lower(gdsec_jax.sweep, problem, make_optimizer, grid)


def lower_update(updates, state, params):
    return gdsec_jax.lower(gdsec_jax.gd(3).update, updates, state, params)


# By the function: arguments that are right.
RIGHT = {
    problems.ridge: SAMPLES,
    problems.lasso: SAMPLES,
    problems.logistic: SAMPLES | {"targets": SIGNS},
    problems.softmax: SAMPLES | {"targets": CLASSES},
    problems.nonlinear_least_squares: SAMPLES | {"targets": SIGNS > 0},
    problems.from_loss: {
        "worker_loss": loss,
        "worker_data": np.ones((2, 1)),
        "init_params": np.zeros(1),
    },
    problems.minibatch: {"problem": RIDGE, "batch_size": 2},
    problems.proximal_l1: {"strength": 0.1},
    data.split: {"targets": CLASSES, "num_workers": 3},
    data.stack: {"features": X, "targets": Y, "parts": PARTS},
    data.spread: {
        "load": lambda m: np.ones(2),
        "num_workers": 3,
        "mesh": jax.make_mesh((1,), ("workers",)),
    },
    data.sparse_binary: {"num_samples": 9, "num_features": 5, "density": 0.5},
    data.heterogeneous: {},
    data.characters: {},
    server.total: {},
    server.sparse: {"capacity": 2},
    server.late: {"max_delay": 2},
    server.robust: {"rule": robust.median},
    robust.trimmed_mean: {"share": 0.1},
    participation.bernoulli: {"num_workers": 3, "probability": 0.5},
    participation.uniform: {"num_workers": 3, "share": 0.5},
    channel.Radio: {},
    channel.Channel: {},
    channel.at_snr: {"radio": channel.Radio(), "num_workers": 3, "snr_db": 9.0},
    channel.conditions: {"channel": channel.Channel(), "num_workers": 3, "key": 0},
    gdsec_jax.clock: {"num_workers": 3},
    gdsec_jax.check: {"optimizer": CHAIN, "params": np.zeros(3), "num_workers": 3},
    gdsec_jax.gdsec: {"num_workers": 3, "xi": 1.0},
    gdsec_jax.theory: {"method": "gdsec", "problem": RIDGE},
    gdsec_jax.simulate: {"problem": RIDGE, "optimizer": CHAIN, "num_rounds": 1},
    gdsec_jax.sweep: {
        "problem": RIDGE,
        "make_optimizer": chain,
        "grid": {"rate": [0.1]},
        "num_rounds": 1,
    },
    lower_run: {
        **{"what": gdsec_jax.simulate, "problem": RIDGE, "optimizer": CHAIN},
        **{"num_rounds": 1, "on": None},
    },
    lower_sweep: {"problem": RIDGE, "make_optimizer": chain, "grid": {"rate": [0.1]}},
    lower_update: {
        **{"updates": np.ones((3, 2)), "params": np.ones(2)},
        "state": gdsec_jax.gd(3).init(np.ones(2)),
    },
    data.read: {"path": "toy.csv"},
    data.read_csv: {"path": "toy.csv"},
    data.read_npz: {"path": "toy.npz"},
    data.read_libsvm: {"path": "toy.svm"},
    data.read_idx: {"path": "toy.svm"},
    data.write_libsvm: {"path": "toy.svm", "data": data.Dataset("toy", X, Y)},
}
# A function of the user's is called, and may say anything.
OWN = ("worker_loss", "load", "log", "observe", "make_optimizer", "weights", "progress")


@pytest.mark.parametrize("function", RIGHT, ids=lambda function: function.__name__)
def test_what_is_of_the_wrong_kind(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("toy.npz", X=X, y=Y)
    np.savetxt("toy.csv", X, delimiter=",")
    data.write_libsvm("toy.svm", data.Dataset("toy", X, Y))
    for name in inspect.signature(function).parameters:
        for kind, value in WRONG.items():
            own = name in OWN and (callable(value) or name in OWN[-2:])
            tree = name == "init_params" and kind == "problem"
            if own or tree or name == "parameters":
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    function(**RIGHT[function] | {name: value})
            except FileNotFoundError:
                continue
            except ValueError as error:
                text = str(error)
                assert "expected" in text or "neither" in text, (name, kind, text)
                assert len(text) < 900, (name, kind, text)
            except Exception as error:
                raise AssertionError((name, kind)) from error

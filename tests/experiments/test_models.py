"""The networks of the figures, behind everything that a chain can be made of."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdsec_jax
from gdsec_experiments import _models as models
from gdsec_jax import data, federate, problems, simulate, worker
from gdsec_jax.server import server_memory

M = 3
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def problem_of(name, dtype=None):
    """A network on a few samples: 8 x 8 digits, or windows of 12 characters."""
    if name == "transformer":
        windows = data.characters(12)
        x, y, classes = windows.features[:60], windows.targets[:60], 96
    else:
        digits = data.load("digits")
        x, y, classes = digits.features[:60], digits.targets[:60], 10
        x = x.astype(np.float32)
    model = models.make(name, x.shape[1], classes, dtype=dtype)
    return problems.flax_problem(
        model, cross_entropy, (x, y), M, batch_size=8, statistics_size=60, name=name
    )


def dense_bits(params):
    """What all workers send of all entries in a round."""
    return M * 32 * sum(leaf.size for leaf in jax.tree.leaves(params))


def learns(problem, optimizer, rounds, share, saves=True):
    """The loss falls to this share of its start, and bits are counted."""
    history = simulate(problem, optimizer, rounds, key=0, eval_every=rounds)
    assert history.objective_error[-1] < share * history.initial_error
    assert history.outcome == "completed"
    assert not history.dropped.any()
    assert (history.bits.sum(axis=1) > 0).all()
    whole = dense_bits(problem.init_params) * rounds
    assert history.bits.sum() < whole if saves else history.bits.sum() == whole


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(
            name, dtype, marks=[] if name == "multinomial" else [pytest.mark.slow]
        )
        for name, dtype in (
            *((name, None) for name in ("multinomial", "mlp", "lenet")),
            # resnet learns in test_everything_composes.
            ("transformer", jnp.bfloat16),
        )
    ],
)
def test_every_network_learns(name, dtype):
    optimizer = optax.chain(
        gdsec_jax.gdsec(M, xi=1.0, beta=0.01, wire="rle"), optax.adam(0.02)
    )
    learns(problem_of(name, dtype), optimizer, 30, 0.85)


def thresholds_by_layer(params):
    """A tree that is a prefix of the parameters'."""
    return {name: 0.1 if name == "head" else 1.0 for name in params}


def warm_up(count):
    """xi grows to 2 over 20 rounds."""
    return 2.0 * jnp.minimum(count / 20, 1.0)


def noisy(scale):
    """Gaussian noise of each worker's own, as privacy asks for."""

    def update(updates, state, params=None, *, key, **extra_args):
        del params, extra_args
        return optax.tree.add(
            updates,
            optax.tree.scale(scale, optax.tree.random_like(key, updates)),
        ), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def clipped_and_noisy(params):
    """GD-SEC behind what a worker does to its gradient first."""
    del params
    xi, beta = 1.0, 0.01
    piece = worker.gradient_difference(
        worker.error_feedback(worker.censor(xi / M)), beta
    )
    chain = optax.chain(optax.clip_by_global_norm(0.5), noisy(1e-4), piece)
    return federate(chain, M, server=server_memory(beta), wire="rle", key=0)


def by_layer(params):
    """Another algorithm for each layer."""
    return optax.partition(
        {
            "sparse": gdsec_jax.gdsec(M, xi=1.0, beta=0.01, wire="rle"),
            "few": gdsec_jax.top_j(M, 0.05, wire="rle"),
        },
        {name: "few" if name == "head" else "sparse" for name in params},
    )


ALGORITHMS = {
    "tree of xi": lambda p: gdsec_jax.gdsec(M, thresholds_by_layer(p), wire="rle"),
    "warm-up of xi": lambda p: gdsec_jax.gdsec(M, warm_up, wire="rle"),
    "partition": by_layer,
    "clipping and noise": clipped_and_noisy,
    "quantised": lambda p: gdsec_jax.qsgdsec(M, 1.0, 0.01, levels=63, key=1),
    "ef21_sgdm": lambda p: gdsec_jax.ef21_sgdm(M, 0.05, 0.3, wire="rle"),
}
STEPS = {
    "adam": optax.adam(0.02),
    "momentum": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "schedule": optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.03, 5, 40)),
}


def combinations():
    """All of one network, some of others; slow are those whose like others compile."""
    fast = {("mlp", "partition", "schedule")}
    steps = {"partition": "schedule", "tree of xi": "momentum"}
    of_one = [("mlp", name, steps.get(name, "adam")) for name in ALGORITHMS]
    for each in (*of_one, ("resnet", "partition", "adam")):
        marks = [] if each in fast else [pytest.mark.slow]
        yield pytest.param(*each, marks=marks, id="-".join(each))


@pytest.mark.parametrize("name, algorithm, step", [*combinations()])
def test_everything_composes(name, algorithm, step):
    problem = problem_of(name)
    made = ALGORITHMS[algorithm](problem.init_params)
    learns(problem, optax.chain(made, STEPS[step]), 40, 0.9)


@pytest.mark.slow
def test_dense_uploads_are_all_of_them():
    optimizer = optax.chain(gdsec_jax.gd(M), optax.sgd(0.5))
    learns(problem_of("multinomial"), optimizer, 20, 0.8, saves=False)


def test_the_transformer_sees_no_character_that_is_to_come():
    model = models.make("transformer", 12, 96)
    x = jnp.asarray(data.characters(12).features[:2])
    other = x.at[:, 7].set((x[:, 7] + 1) % 96)
    difference = np.abs(model(x) - model(other)).max(axis=(0, 2))
    assert (difference[:7] == 0).all()
    assert (difference[7:] > 0).all()


def test_images_keep_their_rows():
    x = jnp.arange(32.0).reshape(2, 16)
    assert models.images(x).shape == (2, 4, 4, 1)
    assert models.images(x)[1, 2, 3, 0] == x[1, 2 * 4 + 3]
    assert math.isqrt(x.shape[1]) == 4

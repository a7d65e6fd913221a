"""The problem of a config that trains a network."""

import importlib
import math

import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import data, problems
from gdsec_jax.study.config._problem import ProblemConfig


def split_of(config: ProblemConfig, targets: np.ndarray) -> list[np.ndarray]:
    """Which samples are each worker's."""
    return data.split(
        targets,
        config.num_workers,
        config.split,
        seed=config.seed,
        sizes=config.sizes,
        concentration=config.concentration,
    )


def make_network(config: ProblemConfig, samples: data.Dataset) -> problems.Problem:
    """A model of gdsec_experiments/_models.py, with the accuracy as its metric.

    Features are divided by their largest magnitude, but for characters, which are
    codes. Samples are put in an order that the seed draws: a share `held_out`, the
    first of them, belongs to no worker, and a contiguous split of the others is random.

    Raises:
      ImportError: flax is not installed.
      ValueError: the data do not fit the model.
    """
    try:
        models = importlib.import_module("gdsec_experiments._models")
    except ImportError as error:
        raise ImportError(
            "flax is missing, expected for a problem of kind network: "
            "pip install 'gdsec-jax[flax]'."
        ) from error
    features, targets, text = _checked(config, samples)
    num_classes = data.NUM_CHARACTERS
    if not text:
        features = (features / (np.abs(features).max() or 1.0)).astype(config.dtype)
        labels, targets = np.unique(targets, return_inverse=True)
        num_classes = len(labels)
    order = np.random.default_rng(config.seed).permutation(len(targets))
    first = round((config.held_out or 0.0) * len(targets))
    left = len(targets) - first
    if config.held_out is not None and not (first and left >= config.num_workers):
        raise ValueError(
            f"problem.held_out is {config.held_out:g} of {len(targets)} samples, "
            "expected at least one, and one a worker left."
        )
    kept, held = order[first:], order[:first]
    return problems.flax_problem(
        models.make(
            *(config.model, features.shape[1], num_classes),
            *(config.seed, jnp.dtype(config.dtype)),
        ),
        optax.softmax_cross_entropy_with_integer_labels,
        (features[kept], targets[kept]),
        config.num_workers,
        config.batch_size,
        held_out=(features[held], targets[held]) if first else None,
        metrics={"accuracy": accuracy},
        split=split_of(config, np.zeros(len(kept)) if text else targets[kept]),
        seed=config.seed,
        name=config.model or "network",
    )


def _checked(
    config: ProblemConfig, samples: data.Dataset
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Features, targets, and whether they are of text, if the model can take them."""
    features, targets = samples.features, samples.targets
    if not isinstance(features, np.ndarray):
        raise ValueError(
            f"problem.data {samples.name!r} is sparse, expected dense features for a "
            "network."
        )
    text = features.dtype.kind == "i"
    if text != (config.model == "transformer"):
        raise ValueError(
            f"problem.model is {config.model!r} for {samples.name!r}, expected the "
            "transformer for characters, and another for features."
        )
    if text and config.split in ("sorted", "dirichlet"):
        raise ValueError(
            f"problem.split is {config.split!r}, expected shuffled or contiguous for "
            "characters, which have no labels."
        )
    side = math.isqrt(features.shape[1])
    if config.model in ("lenet", "resnet") and side**2 != features.shape[1]:
        raise ValueError(
            f"problem.model is {config.model!r} for {features.shape[1]} features, "
            "expected square images."
        )
    if np.any(targets != np.round(targets)):
        raise ValueError(
            f"problem.data {samples.name!r} has targets that are no classes, expected "
            "whole numbers for a network."
        )
    return features, targets, text


def accuracy(logits, labels):
    """Whether the most likely class, or character, is the right one."""
    return logits.argmax(-1) == labels

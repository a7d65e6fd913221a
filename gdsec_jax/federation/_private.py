"""What must hold of a federation for a guarantee by noise to hold of its messages."""

from typing import Any

import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.server import Server
from gdsec_jax.worker import GaussianNoiseState, Piece, chain
from gdsec_jax.worker._noise import adds_nothing
from gdsec_jax.worker._piece import as_piece


def with_noise(noise: Any, worker: Any) -> Piece:
    """A worker's pipeline behind its noise, if there is some to add."""
    worker = as_piece(worker)
    if noise is None:
        return worker
    if getattr(noise, "noise", None) is None:
        raise ValueError(
            f"noise is {_checks.shown(noise)}, expected "
            "worker.gaussian_noise(multiplier, sensitivity)."
        )
    if worker.noise is not None:
        raise ValueError("noise is given, and the pipeline has its own: expected one.")
    # Without any a run is what it was, bit for bit, however it is laid out.
    return worker if adds_nothing(noise) else chain(noise, worker)


def fits(worker: Piece, server: Server, weights: Any, key: Any) -> None:
    """Nothing sees the gradient, or changes its size, before the noise is added."""
    if worker.noise is None or adds_nothing(worker):
        return
    if key is None:
        raise ValueError(
            "key is None, expected an int or a random key: gaussian_noise draws, so "
            "hand federate a key."
        )
    if weights is not None:
        raise ValueError(
            "weights are given beside noise, expected None: they scale the gradients, "
            "and so what a sample can change of them."
        )
    if server.max_norm_ratio is not None:
        raise ValueError(
            f"max_norm_ratio is {server.max_norm_ratio!r} beside noise, expected None: "
            "it looks at the gradients' norms before noise is added."
        )
    if server.capacity is not None and worker.most_entries is None:
        raise ValueError(
            f"capacity is {server.capacity} beside noise, expected a pipeline that "
            "never sends more: that a message is left out tells of it."
        )
    central = worker.noise.trust == "central"
    if central and not server.batches:
        raise ValueError(
            'the noise is of "central" trust and the server does not add up the '
            'messages, expected a sum, or trust="local".'
        )
    if central and server.max_delay:
        raise ValueError(
            'the noise is of "central" trust and the server is late, expected one that '
            'adds up a round at a time, or trust="local": a sum of those who are in '
            "time has less noise than is counted."
        )


def first(worker: Piece, behind: Any, state: Any, params: Any) -> None:
    """Noise is added to the gradient itself, and not behind what remembers or drops.

    Args:
      worker: the whole pipeline.
      behind: what was given of it beside `noise`.
      state: of one worker.
      params: the parameters.
    """
    if _trees.of_type(state, optax.AddNoiseState):
        raise ValueError(
            "optax.add_noise draws the same noise for all workers, expected "
            "noise=worker.gaussian_noise(multiplier, sensitivity)."
        )
    found = len(_trees.of_type(state, GaussianNoiseState))
    if found > (worker.noise is not None):
        raise ValueError(
            "worker.gaussian_noise stands behind another piece, or inside one, "
            "expected it first: what a compressor or a memory makes of a gradient is "
            "not bounded as the gradient is, and no guarantee would hold."
        )
    if worker.noise is None or worker.noise.trust != "central":
        return
    alone = isinstance(state, GaussianNoiseState)
    variance = as_piece(behind).variance
    if not alone and (worker is behind or variance is None or variance(params) != 0):
        raise ValueError(
            'the noise is of "central" trust and something is compressed behind it, '
            'expected worker.whole() alone, as in gd, or trust="local": of the other '
            "workers' noise, which protects a sample, a compressor drops a part."
        )


def nothing_granted(worker: Piece, grant: Any) -> None:
    """Nobody is chosen by messages that were offered and are not counted."""
    if grant is not None and worker.noise is not None:
        raise ValueError(
            "grant is given beside noise, expected None: an offer that is not granted "
            "tells of a gradient, and no guarantee counts it."
        )


def noised(state: Any) -> bool:
    """Whether an optimizer of this state adds noise to what workers send."""
    return bool(_trees.of_type(state, GaussianNoiseState))


def alone(trains: bool, asks: bool) -> None:
    """Gradients are told to the noise alone, and no losses to anybody."""
    if trains:
        untouched(False)
    if asks:
        raise ValueError(
            "the algorithm adds noise and a stage asks for value, grad or value_fn, "
            "expected one that goes by the update alone: the loss is that of the data, "
            "without noise."
        )


def untouched(handed: bool) -> None:
    """What adds noise is handed the gradients as they are."""
    if not handed:
        raise ValueError(
            "a stage stands in front of an algorithm that adds noise, or around it, "
            "expected it first: what is made of a gradient is not bounded as the "
            "gradient is. Let the stage stand behind it."
        )

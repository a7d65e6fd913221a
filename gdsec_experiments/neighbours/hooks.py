"""What PyTorch's DDP hooks hand to gloo, beside our count of the same message."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gdsec_jax
from gdsec_experiments import neighbours
from gdsec_experiments.neighbours import _public
from gdsec_experiments.neighbours._matrix import DENSE, RANK, ROUNDS, SHAPE
from gdsec_jax import federate, worker

_NONE = "\N{EN DASH}"
_DENSE_BYTES = 4 * SHAPE[0] * SHAPE[1]
HEADER = (
    "hook",
    "over gloo on CPUs",
    "bytes a round",
    "compression of all rounds",
    "what its statistics say",
    "the paper's, for this matrix",
    "ours",
    "bytes a round",
)
# Compression by the papers' formulas: 16 bits a value; n m / (r (n + m)) of PowerSGD.
_LOW_RANK = SHAPE[0] * SHAPE[1] / (RANK * sum(SHAPE))
_PAPERS = {
    "fp16_compress_hook": 2.0,
    "bf16_compress_hook": 2.0,
    "powerSGD_hook": _LOW_RANK,
    "fp16_compress_wrapper(powerSGD_hook)": 2 * _LOW_RANK,
    "quantization_pertensor_hook": 4.0,
    "quantization_perchannel_hook": 4.0,
}
_OURS = {
    "allreduce_hook": ("`gd`", gdsec_jax.gd),
    "fp16_compress_hook": ('`worker.cast("float16")`', worker.cast("float16")),
    "bf16_compress_hook": ('`worker.cast("bfloat16")`', worker.cast("bfloat16")),
    "powerSGD_hook": (f"`power_sgd(rank={RANK})`", gdsec_jax.power_sgd),
    "quantization_pertensor_hook": ("`worker.grid(8)`", worker.grid(8)),
    "quantization_perchannel_hook": (_NONE, None),
}
# Of those that fail a piece of the error, and how the table says it.
_WHY = {
    "bf16_compress_hook": ("required CUDA", "refused: it asks for CUDA or XPU"),
    "batched_powerSGD_hook": ("AssertionError", "fails in an assertion"),
    "quantization_pertensor_hook": (
        "invalid index of a 0-dim tensor",
        "fails: it indexes a scalar",
    ),
    "quantization_perchannel_hook": (
        "too many indices for tensor of dimension 2",
        "fails: it indexes one axis too many",
    ),
}


def caption() -> str:
    """The setting."""
    return (
        f"Two processes, one matrix of {SHAPE[0]} x {SHAPE[1]} float32, {ROUNDS} "
        f"rounds, PowerSGD of rank {RANK} after {DENSE} dense ones, which its "
        "statistics leave out. Bytes are of the tensors that a process hands to "
        "collectives, or that a worker uploads; "
        + neighbours.versions("torch", "flwr", "gdsec-jax", "jax")
        + f"; DeMo's and SparseLoCo's code of {_public.DATES}."
    )


def seen(*names: str) -> dict[str, dict[str, Any]]:
    """What `_ddp.py` says of hooks, all by default."""
    if importlib.util.find_spec("torch") is None:
        raise neighbours.Skipped("torch is not installed")
    return neighbours.told([sys.executable, "-m", f"{__package__}._ddp", *names])


def ours(name: str) -> tuple[str, str]:
    """Our spelling of a hook, and the bytes of one upload."""
    if name not in _OURS or _OURS[name][1] is None:
        return _NONE, _NONE
    said, made = _OURS[name]
    if callable(made):
        options: dict[str, Any] = {"rank": RANK, "key": 0} if "power" in name else {}
        method = made(2, **options)
    else:
        method = federate(made, 2, wire="dense", key=0)
    return _of(said, method)


def _of(said: str, method: Any) -> tuple[str, str]:
    params = jnp.zeros(SHAPE)
    grads = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    _, state = jax.jit(method.update)(grads, method.init(params), params)
    bits = int(gdsec_jax.last_round(state).bits[0])
    return said, f"{bits / 8:,.0f}"


def _flower() -> tuple[str, ...]:
    """Its parameters, as it puts them into a message."""
    common = neighbours.needed("flwr.common")
    zeros = np.zeros(SHAPE, np.float32)
    number = sum(map(len, common.ndarrays_to_parameters([zeros]).tensors))
    words = "not over gloo; zeros are sent", f"{number:,}"
    return ("Flower's `ndarrays_to_parameters`", *words, *4 * (_NONE,), _NONE)


def _chunked(name: str, paper: float, seen: Sequence[str], spelling: str, piece: Any):
    """A method of chunks: what its public code does, its paper counts, and we do."""
    return (name, *seen, f"{paper:.2f}", *_of(spelling, federate(piece, 2)))


def demo() -> tuple[str, ...]:
    """How DeMo's public code runs over gloo."""
    if _public.DEMO not in os.environ:
        return ("not over gloo", *3 * (_NONE,))
    found = seen("DeMo")["DeMo"]
    rate = ROUNDS * _DENSE_BYTES / found["all_bytes"]
    said = f"{found['said']:.2f}"
    return (ran("DeMo", found["error"]), f"{found['bytes']:,}", f"{rate:.2f}", said)


def sparse_loco() -> tuple[str, ...]:
    """What templar, SparseLoCo's public code, makes of the matrix."""
    if _public.TEMPLAR not in os.environ:
        return ("not over gloo", *3 * (_NONE,))
    number = neighbours.told([sys.executable, "-m", f"{__package__}._public"])
    rate = f"{_DENSE_BYTES / number:.2f}"
    return ("not over gloo: it uploads files", f"{number:,}", rate, _NONE)


def rows() -> list[tuple[str, ...]]:
    """A row a hook, and one each for others that send."""
    return [
        *_hooks(),
        _flower(),
        _chunked(
            "DeMo's public code, 32 of 4,096",
            32 * 4096 / (32 * (32 + 16)),  # indices of 16 bits
            demo(),
            "`worker.chunk_top_k(32, dct=True)`",
            worker.chunk_top_k(32, dct=True),
        ),
        _chunked(
            "SparseLoCo's public code, 64 of 4,096",
            32 * 4096 / (64 * (2 + 12)),
            sparse_loco(),
            "`worker.chunk_top_k(64, bits=2)`",
            worker.chunk_top_k(64, bits=2),
        ),
    ]


def ran(name: str, error: str) -> str:
    """Whether a hook runs over gloo, or why not, given its error, empty if it runs.

    Raises:
      ValueError: the error is another than the one that is known, or there is none.
    """
    piece, words = _WHY.get(name, ("", "runs"))
    if piece not in error or (error and not piece):
        seen = error or "runs"
        raise ValueError(f"{name}: {seen!r}, expected {piece or 'no error'!r}.")
    return words


def _hooks() -> list[tuple[str, ...]]:
    made = []
    for name, found in seen().items():
        if name == "none":
            continue
        words = ran(name, found["error"])
        works = not found["error"]
        rate = ROUNDS * _DENSE_BYTES / found["all_bytes"] if works else 0.0
        made.append(
            (
                f"`{name}`",
                words,
                f"{found['bytes']:,}" if works else _NONE,
                f"{rate:.2f}" if works else _NONE,
                f"{found['said']:.2f}" if found["said"] else _NONE,
                f"{_PAPERS[name]:.2f}" if name in _PAPERS else _NONE,
                *ours(name),
            )
        )
    return made

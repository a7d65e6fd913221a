"""What PyTorch's DDP hooks hand to gloo, beside our count of the same message."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gdsec_jax
from gdsec_experiments import neighbours
from gdsec_jax import federate, worker

SHAPE, ROUNDS, DENSE, RANK = (256, 128), 12, 2, 4  # as in _ddp.py
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
_WHY = {
    "bf16_compress_hook": "refused: it asks for CUDA or XPU",
    "batched_powerSGD_hook": "fails in an assertion",
    "quantization_pertensor_hook": "fails: it indexes a scalar",
    "quantization_perchannel_hook": "fails: it indexes one axis too many",
}


def caption() -> str:
    """The setting."""
    return (
        f"Two processes, one matrix of {SHAPE[0]} x {SHAPE[1]} float32, {ROUNDS} "
        f"rounds, PowerSGD of rank {RANK} after {DENSE} dense ones, which its "
        "statistics leave out. Bytes are of the tensors that a process hands to "
        "collectives, or that a worker uploads; "
        + neighbours.versions("torch", "flwr", "gdsec-jax", "jax")
        + "; of DeMo and SparseLoCo what their papers count."
    )


def seen(*names: str) -> dict[str, dict[str, Any]]:
    """What `_ddp.py` says of hooks, all by default."""
    if importlib.util.find_spec("torch") is None:
        raise neighbours.Skipped("torch is not installed")
    command = [sys.executable, "-m", f"{__package__}._ddp", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


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


def _chunked(name: str, paper: float, spelling: str, piece: Any) -> tuple[str, ...]:
    """A method of chunks: what its paper counts, and what we do."""
    said, number = _of(spelling, federate(piece, 2))
    return (name, "not over gloo", *3 * (_NONE,), f"{paper:.2f}", said, number)


def rows() -> list[tuple[str, ...]]:
    """A row a hook, and one each for others that send."""
    return [
        *_hooks(),
        _flower(),
        _chunked(
            "DeMo, 32 of 4,096",
            32 * 4096 / (32 * (32 + 16)),  # indices of 16 bits
            "`worker.chunk_top_k(32, dct=True)`",
            worker.chunk_top_k(32, dct=True),
        ),
        _chunked(
            "SparseLoCo, 64 of 4,096",
            32 * 4096 / (64 * (2 + 12)),
            "`worker.chunk_top_k(64, bits=2)`",
            worker.chunk_top_k(64, bits=2),
        ),
    ]


def _hooks() -> list[tuple[str, ...]]:
    made = []
    for name, found in seen().items():
        if name == "none":
            continue
        ran = not found["error"]
        if ran == (name in _WHY):
            raise ValueError(f"{name}: {found['error'] or 'runs, expected an error'}")
        rate = ROUNDS * _DENSE_BYTES / found["all_bytes"] if ran else 0.0
        made.append(
            (
                f"`{name}`",
                "runs" if ran else _WHY[name],
                f"{found['bytes']:,}" if ran else _NONE,
                f"{rate:.2f}" if ran else _NONE,
                f"{found['said']:.2f}" if found["said"] else _NONE,
                f"{_PAPERS[name]:.2f}" if name in _PAPERS else _NONE,
                *ours(name),
            )
        )
    return made

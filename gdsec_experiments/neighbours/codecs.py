"""Our bytes of a message beside those of general compressors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_experiments import neighbours
from gdsec_jax import wire, worker

ENTRIES = 100_000
LEVELS = (1, 3, 9, 19, 22)  # of zstandard
FILTERS = ("SHUFFLE", "BITSHUFFLE")  # of Blosc2
FORMATS = ("bitmap", "rle", "golomb")
HEADER = (
    "message",
    "non-zeros",
    "ours, the shortest format",
    *(f"zstandard {level}" for level in LEVELS),
    *(f"Blosc2 {name.lower()}, zstd 9" for name in FILTERS),
    "zstandard 19 of ours",
)


def caption() -> str:
    """What was measured, with what."""
    return (
        f"Bytes of one worker's message of {ENTRIES:,} float32 entries, "
        f"{4 * ENTRIES:,} as they lie in memory, which is what the others are given; "
        + neighbours.versions("gdsec-jax", "zstandard", "blosc2", "numpy")
        + f", libzstd {'.'.join(map(str, _zstandard().ZSTD_VERSION))}."
    )


def messages() -> dict[str, wire.Message]:
    """Messages by name, the same in every call."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(ENTRIES).astype(np.float32)
    spread = np.where(rng.random(ENTRIES) < 0.01, normal, np.float32(0))
    rows = np.repeat(rng.random(ENTRIES // 100) < 0.01, 100)
    rare = np.where(rng.random(ENTRIES) < 1e-4, normal, np.float32(0))
    pieces = {
        "all entries as float16": worker.cast("float16"),
        "natural compression": worker.natural(),
        "QSGD, 15 levels": worker.qsgd(15),
        "TernGrad": worker.terngrad(),
        "signs": worker.sign(),
        "largest 64 of 4,096, 2 bits": worker.chunk_top_k(64, bits=2),
    }
    sparse = {
        "all entries": normal,
        "1 % of the entries": spread,
        "1 % of the rows, whole": np.where(rows, normal, np.float32(0)),
        "one entry of 10,000": rare,
    }
    made = {name: wire.Message(values) for name, values in sparse.items()}
    return made | {name: _of(piece, normal) for name, piece in pieces.items()}


def _of(piece: Any, values: np.ndarray) -> wire.Message:
    given = jnp.asarray(values)
    update, state = piece.update(given, piece.init(given), key=jax.random.key(0))
    return wire.message_of(update, state)


def ours(message: wire.Message) -> tuple[str, bytes]:
    """The format that makes the fewest bytes, and they."""
    forms = {name: wire.encode(message, name) for name in ("dense", "coo", *FORMATS)}
    name = min(forms, key=lambda name: len(forms[name]))
    if len({*map(len, forms.values())}) == 1:
        name = "any format"
        return name, forms["dense"]
    return name, forms[name]


def rows() -> list[tuple[str, ...]]:
    """A row a message."""
    zstandard, blosc2 = _zstandard(), neighbours.needed("blosc2")
    made = []
    for name, message in messages().items():
        values = np.asarray(message.values)
        form, own = ours(message)
        packed = zstandard.ZstdCompressor(level=19).compress(own)
        sizes = [
            len(zstandard.ZstdCompressor(level=level).compress(values.tobytes()))
            for level in LEVELS
        ]
        for filter in FILTERS:
            sizes.append(
                len(
                    blosc2.compress2(
                        values,
                        codec=blosc2.Codec.ZSTD,
                        clevel=9,
                        filters=[blosc2.Filter[filter]],
                        nthreads=1,
                    )
                )
            )
        row = (f"{np.count_nonzero(values):,}", f"{form} **{len(own):,}**")
        sizes.append(len(packed))
        made.append((name, *row, *(f"{size:,}" for size in sizes)))
    return made


def _zstandard() -> Any:
    return neighbours.needed("zstandard")

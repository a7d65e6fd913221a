"""The largest entries of every chunk, of the vector or of its cosine transform."""

from numbers import Integral
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax.wire import Code, Packing
from gdsec_jax.worker._piece import Piece
from gdsec_jax.worker._rounding import over
from gdsec_jax.worker._select import mask_of_largest
from gdsec_jax.worker._vectors import lengths, tree_of, vectors

SIGMAS = 6  # the width of all bins together, in standard deviations


class _Chunks(NamedTuple):
    """How a leaf is cut. Static."""

    length: int  # of a chunk
    number: int


def chunk_top_k(
    k: float, *, chunk: int = 4096, bits: int | None = None, dct: bool = False
) -> Piece:
    r"""Send the k entries of largest magnitude of every chunk of every leaf.

    .. math:: C(v) = T^{-1} Q(\text{top}_k(T v)) \text{ of each chunk}, \quad
       \|C(v) - v\|^2 \le (1 - k / \text{chunk}) \|v\|^2 \text{ without Q}

    with T the identity, or the orthonormal cosine transform. A chunk is so many
    neighbours in the leaf as a vector; a leaf that is shorter is one chunk, and the
    last one of a leaf may be shorter. Of equal magnitudes the lower index wins. Biased:
    it wants a memory around it.

    k entries of each chunk are written, zeros too: their places in the chunk, 12 bits
    each where a chunk has 4,096, and their values. The bits of a message do not depend
    on the format. On a mesh values are exchanged as floats, and what was transformed
    densely.

    Args:
      k: how many of a chunk, or a fraction of it, as in `top_k`.
      chunk: entries of a chunk, at least 1.
      bits: b, from 1 to 8, of a value: Q sorts the values kept of a leaf into
        :math:`2^b` bins of equal width, over six standard deviations around their mean,
        and what lies beyond into the outer ones; a bin stands for the mean of what is
        in it, and these means travel as float32, :math:`2^b` for each leaf. None:
        values travel as they are.
      dct: whether the entries are those of the cosine transform of type II, by chunks;
        the last chunk of a leaf is filled with zeros then. A message has any number of
        entries where its transform has few.

    Raises:
      ValueError: k is more than a chunk.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import wire, worker
      >>> piece = worker.chunk_top_k(1, chunk=4)
      >>> v = jnp.array([1.0, -3.0, 2.0, 0.0, 0.5, 0.25])
      >>> message, state = piece.update(v, piece.init(v))
      >>> message
      Array([ 0. , -3. ,  0. ,  0. ,  0.5,  0. ], dtype=float32)
      >>> len(wire.encode(wire.message_of(message, state), "rle"))  # 2 (2 + 32) bits
      9

    References: Peng, Quesnelle, Kingma, DeMo, 2024, https://arxiv.org/abs/2411.19870;
      Sarfi, Thérien, Lidin, Belilovsky, SparseLoCo, 2025,
      https://arxiv.org/abs/2508.15706. Their public codes differ: DeMo's cuts a matrix
      into squares of 64 x 64, transforms both axes, and sends indices of 64 bits;
      SparseLoCo's has bins half a width further down, of 8 bits unless it is told 2.
    """
    _checks.number_or_share(k)
    _checks.integer("chunk", chunk, 1, 2**24)
    if isinstance(k, Integral) and k > chunk:
        raise ValueError(f"k is {k}, expected at most the chunk's {chunk} entries.")
    if bits is not None:
        _checks.integer("bits", bits, 1, 8)
    _checks.of_kind("dct", dct, bool, "True or False")
    kept = _checks.number_of(k, chunk)
    code = Code(chunk=chunk, kept=kept)
    if bits is not None:
        code = code._replace(kind="bins", size=bits)

    def cut(size: int) -> _Chunks:
        length = max(1, min(chunk, size))
        return _Chunks(length, -(-size // length))

    def init(params):
        if _trees.stand_in(params):
            return 0
        leaves = jax.tree.leaves(params)
        scales, payload = (), None
        if bits is not None and leaves:
            scales = jnp.zeros(len(leaves) * 2**bits, jnp.float32)
        if dct:
            payload = [
                jnp.zeros(chunks.length * chunks.number, jnp.result_type(leaf))
                for leaf, chunks in zip(leaves, map(cut, lengths(params, "leaf")))  # noqa: B905
            ]
        said = code._replace(num_scales=len(scales))
        return Packing(said, scales, payload)

    def one(v, dtype):
        """Message and, of a transform, what travels, [D]; the bins' means."""
        chunks = cut(v.size)
        rows = jnp.pad(v, (0, chunks.length * chunks.number - v.size))
        rows = rows.reshape(chunks.number, chunks.length)
        if dct:
            rows = jax.scipy.fft.dct(rows, norm="ortho", axis=-1)
        most = min(kept, chunks.length)
        chosen = jax.vmap(lambda row: mask_of_largest(row, most))(rows)
        means, sent = (), rows
        if bits is not None:
            real = jnp.arange(rows.size).reshape(rows.shape) < v.size
            means, sent = _binned(rows, chosen if dct else chosen & real, bits)
        sent = jnp.where(chosen, sent, 0)
        if not dct:
            return sent.ravel()[: v.size], (), means
        # What travels is what was used.
        travels = _trees.flush(sent.astype(dtype))
        back = jax.scipy.fft.idct(travels.astype(v.dtype), norm="ortho", axis=-1)
        return back.ravel()[: v.size], travels.ravel(), means

    def update(updates, state, params=None, **extra_args):
        like = extra_args.get("like") if params is None else params
        like = updates if like is None else like
        dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(like)]
        made = [one(*x) for x in zip(vectors(updates, "leaf"), dtypes)]  # noqa: B905
        messages = tree_of([message for message, _, _ in made], updates, "leaf")
        payload = [travels for _, travels, _ in made] if dct else None
        scales = state.scales
        if len(scales):
            scales = jnp.concatenate([jnp.asarray(means) for _, _, means in made])
        return messages, Packing(state.code, scales, payload)

    def most_entries(params):
        return sum(map(code.written, lengths(params, "leaf")))

    def contraction(params):
        sizes = filter(None, lengths(params, "leaf"))
        return min((min(1.0, kept / min(chunk, size)) for size in sizes), default=1.0)

    return Piece(
        init,
        update,
        most_entries=None if dct else most_entries,
        keeps_zeros=bits is None and not dct,
        contraction=contraction if bits is None else None,
    )


def _binned(values, chosen, bits: int):
    """The bins' means, float32 [2^bits], and values as the means of their bins."""
    number = 2**bits
    # Of sizes around 1: squares neither overflow nor vanish.
    largest = jnp.abs(jnp.where(chosen, values, 0)).max(initial=0)
    unit = jnp.where(largest > 0, largest, 1)
    x = jnp.where(chosen, over(values, unit), 0)
    count = jnp.maximum(chosen.sum(), 1).astype(x.dtype)
    mean = x.sum() / count
    apart = jnp.where(chosen, x - mean, 0)
    sigma = jnp.sqrt(jnp.square(apart).sum() / jnp.maximum(count - 1, 1))
    width = jnp.where(sigma > 0, SIGMAS * sigma / number, 1)
    bins = jnp.clip(jnp.floor(apart / width) + number // 2, 0, number - 1)
    # A NaN is in no bin; its leaf is none of numbers then.
    bins = jnp.where(jnp.isfinite(bins), bins, 0).astype(jnp.int32)
    zeros = jnp.zeros(number, x.dtype)
    sums = zeros.at[bins.ravel()].add(x.ravel())
    counts = zeros.at[bins.ravel()].add(chosen.ravel().astype(x.dtype))
    means = sums / jnp.maximum(counts, 1) * unit
    means = jnp.where(jnp.isfinite(mean), means, jnp.nan)
    means = _trees.flush(jax.lax.reduce_precision(means, 8, 23).astype(jnp.float32))
    # Or XLA may sum twice, in other orders: what is sent is what was used.
    means = jax.lax.optimization_barrier(means)
    return means, means.astype(x.dtype)[bins]

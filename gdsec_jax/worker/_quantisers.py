"""Compressors that round values to few levels, multiples of a scale in float32."""

import functools
import math
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees
from gdsec_jax._devices import unless_on_tpu
from gdsec_jax.wire import Code, Packing
from gdsec_jax.worker import _vectors
from gdsec_jax.worker._piece import Measured, Part, Piece, some_normal
from gdsec_jax.worker._rounding import (
    as_float32,
    as_written,
    largest,
    norm,
    over,
    positive,
    round_up,
    to_power_of_two,
    uniform,
)
from gdsec_jax.worker._vectors import (
    Place,
    Scope,
    by_vector,
    groups,
    lengths,
    needed,
    tree_of,
    vectors,
)


def qsgd(levels: int, *, scope: Scope = "message") -> Piece:
    r"""Round to s levels of the norm, up or down at random: unbiased.

    .. math:: C(v)_i = \text{sign}(v_i) \, c \, l_i, \quad c = \|v\|_2 / s, \quad
       l_i = \lfloor |v_i| / c + u_i \rfloor, \quad u_i \sim U[0, 1)

    with :math:`\omega = \min(D/s^2, \sqrt D/s)`. The scale c travels as float32,
    rounded up, so that no level exceeds s.

    Args:
      levels: s, at least 1.
      scope: "message", one norm, or "leaf", a norm for each leaf.

    Returns:
      An unbiased `worker.Piece`. Its update needs the extra argument `key`.

    Raises:
      ValueError: the message's dtype cannot tell so many levels apart.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.qsgd(2)
      >>> v = jnp.array([3.0, 0.0, -4.0])
      >>> message, _ = piece.update(v, piece.init(v), key=jax.random.key(0))
      >>> (message / 2.5).tolist()
      [1.0, 0.0, -2.0]

    References: Alistarh et al., QSGD, 2017, https://arxiv.org/abs/1610.02132
    """
    _checks.integer("levels", levels, 1, 2**30)

    def omega(length):
        return min(length / levels**2, math.sqrt(length) / levels)

    return _dither("qsgd", Code("levels", levels), levels, norm, omega, scope)


def terngrad(*, scope: Scope = "message") -> Piece:
    r"""Round to 0 or to plus or minus the largest magnitude, at random: unbiased.

    .. math:: C(v)_i = \text{sign}(v_i) \, c \, b_i, \quad c = \|v\|_\infty, \quad
       b_i \sim \text{Bernoulli}(|v_i| / c)

    with :math:`\omega \le \sqrt D - 1`. The scale travels as float32, rounded up.

    Args:
      scope: "message", one scale, or "leaf", a scale for each leaf, as its paper has.

    Returns:
      An unbiased `worker.Piece`. Its update needs the extra argument `key`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.terngrad()
      >>> v = jnp.array([4.0, 0.0, -4.0])
      >>> piece.update(v, piece.init(v), key=jax.random.key(0))[0]
      Array([ 4.,  0., -4.], dtype=float32)

    References: Wen et al., TernGrad, 2017, https://arxiv.org/abs/1705.07878
    """

    def omega(length):
        return math.sqrt(length) - 1

    return _dither("terngrad", Code("ternary"), 1, largest, omega, scope)


def natural() -> Piece:
    r"""Round to a power of two, up or down at random: unbiased.

    .. math:: C(v)_i = \text{sign}(v_i) \, 2^{\lfloor \log_2 |v_i| \rfloor + b_i}, \quad
       b_i \sim \text{Bernoulli}(|v_i| 2^{-\lfloor \log_2 |v_i| \rfloor} - 1)

    with :math:`\omega = 1/8`. Nine bits a value: its sign, and an exponent from -126 to
    127; what is smaller becomes 0 or :math:`2^{-126}`, unbiased too.

    Returns:
      An unbiased `worker.Piece`. Its update needs the extra argument `key`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.natural()
      >>> v = jnp.array([0.25, -1.0, 0.0])
      >>> piece.update(v, piece.init(v), key=jax.random.key(0))[0]
      Array([ 0.25, -1.  ,  0.  ], dtype=float32)

    References: Horváth et al., Natural Compression for Distributed Deep Learning, 2019,
      https://arxiv.org/abs/1905.10988
    """

    def init(params):
        del params
        return Packing(Code("power"))

    def update(updates, state, params=None, **extra_args):
        del params
        key = needed(extra_args, "key", "natural")

        def of_vector(updates, key):
            rounded = [
                to_power_of_two(v, jax.random.uniform(key, v.shape, v.dtype))
                for v in vectors(updates, "message")
            ]
            return tree_of(rounded, updates, "message")

        def of_leaves(updates, key):  # a TPU would lay matrices out anew
            leaves, structure = jax.tree.flatten(updates)
            sizes, rounded = [x.size for x in leaves], []
            for n, leaf in enumerate(leaves):
                v = leaf.astype(_trees.norm_dtype(updates))
                u = uniform(key, v, sum(sizes[:n]), sum(sizes))
                # As bfloat16, which has all powers of two that float32 has.
                rounded.append(as_written(to_power_of_two(v, u), 0, jnp.bfloat16))
            return jax.tree.unflatten(structure, rounded)

        if not jax.tree.leaves(updates):
            return updates, state
        message = unless_on_tpu(updates, key, tpu=of_leaves, default=of_vector)
        return message, state

    return Piece(init, update, variance=lambda params: 1 / 8, keeps_zeros=True)


def sign(*, scope: Scope = "message", scaled: bool = True) -> Piece:
    r"""Send the signs alone, and the mean magnitude.

    .. math:: C(v) = (\|v\|_1 / D) \, \text{sign}(v), \quad \text{sign}(0) = 1

    Biased: it wants a memory around it. The scale travels as float32. Every entry is
    written, one bit each, whatever the format.

    Args:
      scope: "message", one scale, or "leaf", a scale for each leaf.
      scaled: False leaves the scale out, C(v) = sign(v), or 0 for v = 0, which is not
        sent: for a server that counts votes.

    Raises:
      ValueError: there is no scale, and the scope is "leaf".

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.sign()
      >>> v = jnp.array([3.0, -1.0])
      >>> piece.update(v, piece.init(v))[0]
      Array([ 2., -2.], dtype=float32)

    References: Karimireddy et al., Error Feedback Fixes SignSGD, 2019,
      https://arxiv.org/abs/1901.09847
    """
    if not scaled and scope == "leaf":
        raise ValueError("scope is 'leaf', expected 'message' where there is no scale.")

    def scale_of(parts):
        total = functools.reduce(jnp.add, (jnp.abs(v).sum() for v in parts))
        if not scaled:
            return as_float32(jnp.sign(total))
        return as_float32(total / max(sum(v.size for v in parts), 1))

    def multiples_of(v, scale, u):
        del scale, u
        return jnp.where(v < 0, -1, 1).astype(v.dtype)

    def contraction(params):  # |v|_1 is |v|_2 at least
        return 1 / max([1, *lengths(params, scope)])

    return _scaled(
        Code("grid", 1),
        scale_of,
        multiples_of,
        scope,
        contraction=contraction if scaled else None,
        sends=scaled,
    )


def grid(bits: int, *, scope: Scope = "message") -> Piece:
    r"""Round to the nearest of :math:`2^b` values, evenly from -R to R.

    .. math:: C(v) = 2 \tau R q - R, \quad R = \|v\|_\infty, \quad
       \tau = 1 / (2^b - 1), \quad q = \lfloor (v + R) / (2 \tau R) + 1/2 \rfloor

    The quantiser of LAQ. :math:`\tau R` travels as float32, rounded up. Every entry is
    written, b bits each, whatever the format.

    Args:
      bits: b, from 1 to 30.
      scope: "message", one R, or "leaf", an R for each leaf.

    Raises:
      ValueError: the message's dtype cannot tell so many values apart.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.grid(bits=2)
      >>> v = jnp.array([3.0, 0.5, -2.5])
      >>> piece.update(v, piece.init(v))[0]
      Array([ 3.,  1., -3.], dtype=float32)

    References: Sun et al., Communication-Efficient Distributed Learning via Lazily
      Aggregated Quantized Gradients, 2019, https://arxiv.org/abs/1909.07588
    """
    _checks.integer("bits", bits, 1, 30)
    most = 2**bits - 1

    def step_of(parts):
        return round_up(largest(parts) / most)

    def multiples_of(v, step, u):
        del u
        unit = positive(step).astype(v.dtype)
        q = jnp.floor(over(v, unit) / 2 + 2 ** (bits - 1))  # R = most * unit
        return 2 * jnp.clip(q, 0, most) - most

    return _scaled(Code("grid", bits), step_of, multiples_of, scope)


def _dither(name, code, levels, norm, omega, scope):
    """sign(v) l c, with c the norm over the levels and l rounded at random."""
    variance = _vectors.variance_by(omega, scope)

    def step_of(parts):
        return round_up(norm(parts) / levels)

    def multiples_of(v, step, u):
        x = over(jnp.abs(v), positive(step).astype(v.dtype))
        low = jnp.floor(x)
        up = u < x - low
        # The norm is rounded: it may lie below the largest entry by as much.
        return jnp.sign(v) * jnp.minimum(low + up.astype(v.dtype), levels)

    return _scaled(code, step_of, multiples_of, scope, name, variance)


def _scaled(
    code: Code,
    scale_of: Callable,
    multiples_of: Callable,
    scope: Scope,
    draws: str | None = None,
    variance=None,
    contraction=None,
    sends: bool = True,
) -> Piece:
    """A scale of a vector, and of each entry an integer multiple of it.

    `scale_of` takes the vector's parts; `multiples_of` one of them, the scale, and
    random numbers in [0, 1) if it `draws`. A scale that all know is not sent.
    """
    _checks.one_of("scope", scope, get_args(Scope))
    most = code.size if code.kind == "levels" else 2**code.size

    def init(params):
        if _trees.stand_in(params):
            return 0
        number = len(lengths(params, scope)) if sends else 0
        scales = jnp.zeros(number, jnp.float32) if number else ()
        return Packing(code._replace(num_scales=number), scales)

    def one(parts, key):
        """The scale of a vector, and its message, part by part."""
        # Or XLA may sum twice, in other orders: what is sent is what was used.
        scale = jax.lax.optimization_barrier(scale_of(parts))
        sizes = [v.size for v in parts]
        starts = [sum(sizes[:n]) for n in range(len(parts))]
        return scale, sent_by(scale, parts, key, starts, sum(sizes))

    def sent_by(scale, parts, key, starts, length):
        """The message's parts, which start at these entries of so many."""
        sent = []
        for v, start in zip(parts, starts, strict=True):
            u = None
            if draws is not None:
                u = uniform(key, v, start, length)
            multiples = multiples_of(v, scale, u)
            if most != 2:  # the compiler keeps signs as flags by itself
                multiples = as_written(multiples, most)
            # One product of two numbers: the same on any machine that decodes it.
            sent.append(scale.astype(v.dtype) * multiples)
        return sent

    def update(updates, state, params=None, **extra_args):
        like = extra_args.get("like") if params is None else params
        _check_levels(code, updates if like is None else like)
        number = len(lengths(updates, scope))
        keys: Any = [None] * number
        if draws is not None:
            key = needed(extra_args, "key", draws)
            keys = jax.random.split(key, number) if scope == "leaf" else [key]
        if not number:
            return updates, Packing(state.code, ())
        if "measured" in extra_args:
            scales = extra_args["measured"].facts
            made = of_measured(updates, scales, keys, extra_args["place"])
            return made, Packing(state.code, scales if sends else ())

        def of_vectors(updates, keys):
            pieces = vectors(updates, scope)
            made = [one([v], key) for v, key in zip(pieces, keys, strict=True)]
            scales, sent = zip(*made, strict=True)
            return scales, tree_of([parts[0] for parts in sent], updates, scope)

        def of_leaves(updates, keys):  # a TPU would lay matrices out anew
            cut = zip(groups(updates, scope), keys, strict=True)
            scales, sent = zip(*(one(parts, key) for parts, key in cut), strict=True)
            return scales, by_vector(sent, updates)

        scales, message = unless_on_tpu(
            updates, keys, tpu=of_leaves, default=of_vectors
        )
        scales = jnp.asarray(scales, jnp.float32) if sends else ()
        return message, Packing(state.code, scales)

    def measure(parts: list[Part]) -> Measured:
        cut = [groups(part.updates, scope) for part in parts]
        vectors = zip(*cut, strict=True)  # each of parts, of leaves
        entries = [[x for own in vector for x in own] for vector in vectors]
        scales = jax.lax.optimization_barrier(jnp.stack(list(map(scale_of, entries))))
        # The largest multiple of a scale that may be sent.
        times = jnp.float32(most if code.kind == "levels" else max(1, most - 1))
        finite = jnp.isfinite(times * scales).all()
        some = some_normal([x for vector in entries for x in vector])
        return Measured(scales, finite, some)

    def of_measured(updates, scales, keys, place: Place):
        each = zip(
            *(scales, groups(updates, scope), keys, place.of_vectors(scope)),
            place.vector_lengths(scope),
            strict=True,
        )
        return by_vector([sent_by(*vector) for vector in each], updates)

    return Piece(
        init,
        update,
        measure=measure,
        variance=variance,
        contraction=contraction,
        keeps_zeros=not code.always_dense,
    )


def _check_levels(code: Code, like) -> None:
    """Rounded to the message's dtype, no two values may fall together."""
    levels = code.size if code.kind == "levels" else 2**code.size
    for leaf in jax.tree.leaves(like):
        dtype = jnp.result_type(leaf)
        most = 2 ** jnp.finfo(dtype).nmant
        if levels > most:
            raise ValueError(
                f"{'levels' if code.kind == 'levels' else '2**bits'} is {levels}, "
                f"expected at most {most}: {dtype} tells no more apart."
            )

"""Compressors that look at three points: the gradient, the last one, and the memory."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.wire import Packing, Whole
from gdsec_jax.worker._piece import Piece, as_piece, check_unbiased, variance_of
from gdsec_jax.worker._vectors import needed

Variant = Literal["v1", "v2", "v4", "v5"]


@_trees.state
class ThreePointState(NamedTuple):
    """State of `three_point` and `dasha`."""

    gradient: optax.Updates  # y: the previous gradient, in the state's dtype
    begun: jax.Array  # bool []: whether a gradient was seen
    whole: Whole | tuple[()]  # whether the last message was whole, if one may be
    compressors: tuple[optax.OptState, ...]


def three_point(
    variant: Variant,
    compressor: optax.GradientTransformation,
    second: optax.GradientTransformation | None = None,
    *,
    probability=0.1,
    state_dtype=None,
) -> Piece:
    r"""3PC: a compressor of the gradient x by the last one, y, and the memory h.

    It stands in a `gradient_difference`, whose memory h it makes into

    ====  =========================================================================
    v1    y + C(x - y)
    v2    b + C(x - b) with b = h + Q(x - y), Q unbiased
    v4    b + C(x - b) with b = h + C'(x - h)
    v5    x with probability p, one coin for all workers, else h + C(x - y)
    ====  =========================================================================

    What is sent is the difference from h. In v1 that is a whole vector, as h is unlike
    y. In v2 and v4 two compressed vectors are added up and sent as one. Its
    update needs `gradient`, which a `gradient_difference` hands on. The first message,
    and in v5 those of the coin, are x - h as it is.

    Args:
      variant: which.
      compressor: C, which contracts.
      second: Q of v2 and C' of v4.
      probability: p of v5, in (0, 1]; may be traced.
      state_dtype: dtype of y; by default the parameter's, but at least float32.

    Raises:
      ValueError: a second compressor is missing or not of the variant's; one is not
        known to contract, or Q to be unbiased; of two, one has a code of its own.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> two = worker.three_point("v4", worker.top_k(1), worker.top_k(1))
      >>> piece, g = worker.gradient_difference(two), jnp.array([3.0, 1.0, 2.0])
      >>> _, state = piece.update(g, piece.init(g), g)
      >>> piece.update(2 * g, state, g)[0]
      Array([3., 0., 2.], dtype=float32)

    References: Richtárik et al., 3PC: Three Point Compressors, 2022,
      https://arxiv.org/abs/2202.00998
    """
    _checks.one_of("variant", variant, get_args(Variant))
    _contracts("compressor", compressor)
    if (second is None) == (variant in ("v2", "v4")):
        raise ValueError(
            f"second is {_checks.shown(second)}, expected a compressor for v2 and v4, "
            f"and None for v1 and v5: the variant is {variant}."
        )
    if variant == "v2":
        check_unbiased(second)
    if variant == "v4":
        _contracts("second", second)
    _checks.number_in_range("probability", probability, 1e-9, 1.0)

    def message(v, change, hand, begun, extra_args):
        # v = x - h and change = x - y.
        if variant == "v1":  # y + C(x - y) - h
            return _trees.add(_trees.sub(v, change), hand(0, change)), True
        whole = ~begun
        if variant == "v5":
            key = needed(extra_args, "round_key", "three_point")
            whole |= jax.random.uniform(key) < probability
            sent = hand(0, change)
        else:
            first = hand(1, change if variant == "v2" else v)
            sent = _trees.add(first, hand(0, _trees.sub(v, first)))
        return optax.tree.where(whole, v, sent), whole

    given = [compressor] if second is None else [compressor, second]
    return _of_the_last(given, message, state_dtype)


def dasha(
    compressor: optax.GradientTransformation, momentum=None, *, state_dtype=None
) -> Piece:
    r"""DASHA: compress the gradient's change, and a part of what the memory lacks.

    .. math:: u = C(x - y - a (h - y)), \quad y \leftarrow x

    with x the gradient, y the last one, and h the memory of the `gradient_difference`
    that it stands in, which hands it `gradient`. In the first round y is x. No message
    is whole.

    Args:
      compressor: C, unbiased.
      momentum: a in (0, 1]; may be traced; by default :math:`1/(2 \omega + 1)`. Or a
        function of the parameters' shapes.
      state_dtype: dtype of y; by default the parameter's, but at least float32.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece = worker.gradient_difference(worker.dasha(worker.whole(), momentum=0.5))
      >>> g = jnp.array([4.0])
      >>> first, state = piece.update(g, piece.init(g), g)
      >>> first, piece.update(g, state, g)[0]
      (Array([2.], dtype=float32), Array([1.], dtype=float32))

    References: Tyurin, Richtárik, DASHA, 2022, https://openreview.net/forum?id=VA1YpcNr7ul
    """
    check_unbiased(compressor)
    if momentum is None:
        momentum = lambda params: 1 / (2 * variance_of(compressor, params) + 1)  # noqa: E731
    part = _trees.by_shapes("momentum", momentum, 1e-9)

    def message(v, change, hand, begun, extra_args):
        # x - y - a (h - y) = (1 - a) (x - y) + a (x - h)
        a: Any = part(v)
        mixed = jax.tree.map(lambda d, v: (1 - a) * d + a * v, change, v)
        return hand(0, _trees.cast_like(mixed, v)), None

    return _of_the_last([compressor], message, state_dtype, whole=False)


def _of_the_last(given, message: Callable, state_dtype, *, whole: bool = True) -> Piece:
    """A piece that knows the last gradient; `whole`: its messages may be that."""
    _checks.state_dtype(state_dtype)
    given = [as_piece(compressor) for compressor in given]

    def init(params):
        states = tuple(compressor.init(params) for compressor in given)
        if len(given) > 1 and _trees.of_type(states, Packing):
            raise ValueError(
                "a compressor has a code of its own, expected two of floats, since "
                "their messages are added up: top_k, random_k or chunk_top_k without "
                "bits and dct."
            )
        return ThreePointState(
            gradient=_trees.zero_memory(params, state_dtype),
            begun=jnp.zeros((), bool),
            whole=Whole(jnp.zeros((), bool)) if whole else (),
            compressors=states,
        )

    def update(updates, state, params=None, **extra_args):
        gradient = needed(extra_args, "gradient", "three_point")
        known = _trees.cast_like(gradient, state.gradient)
        last = optax.tree.where(state.begun, state.gradient, known)
        change = _trees.cast_like(_trees.sub(gradient, last), updates)
        inner = list(state.compressors)

        def hand(number, v):
            u, inner[number] = given[number].update(
                v, state.compressors[number], params, **extra_args
            )
            return _trees.cast_like(u, updates)

        sent, flag = message(updates, change, hand, state.begun, extra_args)
        delivered = jnp.asarray(extra_args.get("delivered", True))
        return sent, ThreePointState(
            gradient=optax.tree.where(delivered, known, state.gradient),
            begun=state.begun | delivered,
            whole=Whole(jnp.asarray(flag)) if whole else (),
            compressors=tuple(inner),
        )

    def most_entries(params):
        return sum(piece.most_entries(params) for piece in given)  # pyright: ignore

    sums = {piece.sums_over_workers for piece in given}
    limited = all(piece.most_entries is not None for piece in given)
    return Piece(
        init,
        update,
        sums_over_workers=True if True in sums else None if None in sums else False,
        most_entries=most_entries if limited else None,
    )


def _contracts(name: str, compressor) -> None:
    if getattr(compressor, "contraction", None) is None:
        raise ValueError(
            f"{name} is {_checks.shown(compressor)}, expected a worker.Piece that "
            "declares its contraction: top_k, chunk_top_k, sign or whole."
        )

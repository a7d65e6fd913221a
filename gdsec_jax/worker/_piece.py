"""What a piece says of itself, beside its two functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import _checks

# Of optax: what treats every component alike and by itself, by its factory's name, if
# it was made with numbers alone.
_COMPONENT_WISE_OF_OPTAX = frozenset(
    (
        *("add_decayed_weights", "clip", "ema", "identity", "scale", "scale_by_adam"),
        *("scale_by_rms", "scale_by_sign", "set_to_zero", "trace"),
    )
)


class Censored(NamedTuple):
    r"""What a pipeline that censors single entries is made of.

    That of :math:`u = C(g - h + e)`, with the memories of `gradient_difference` around
    `error_feedback` around `censor`, of which each but the last may be missing.
    """

    xi: Callable[[dict[str, Any]], Any] | None  # from the extra arguments to censor's
    k: float | None = None  # in its place, if C is `top_k`
    error: bool = False  # whether there is a memory e
    beta: Any = None  # of the memory h; None: there is none


class Noise(NamedTuple):
    """What a piece adds to the gradient before anything else is done to it."""

    trust: str  # "local": each message is private; "central": the sum of all
    deviation: Any  # of what a guarantee counts on; may be traced


class Part(NamedTuple):
    """The arguments of an update, for a part of the components.

    Leaves are vectors where the components are cut; where they are measured at once,
    all of them are the part, and leaves are shaped as they are.
    """

    updates: Any
    state: Any
    params: Any
    extra_args: dict[str, Any]  # and "place", a `Place`


class Measured(NamedTuple):
    """What one worker's update has to know of all components."""

    facts: Any
    finite: jax.Array  # bool [], whether all entries are, and the message will be
    some: jax.Array  # bool [], whether an entry is neither 0 nor subnormal


class Piece(optax.GradientTransformationExtraArgs):
    r"""A transformation for one worker that declares what holds of it.

    A round asks the pieces how it may be laid out, and does not look into their code. A
    fact that is declared and does not hold gives wrong results.

    Attributes:
      component_wise: each component of the message and of the state depends on that
        component alone of the gradient, the state and the parameters, by the same rule
        for all; numbers in the state that belong to no component depend on none. The
        state is made by optax's rules: its parameter-like parts are trees of the
        parameters' structure.
      sums_over_workers: whether it sums over `worker.WORKER_AXIS`, so that all workers
        must be computed together; None if that is not known.
      travels: whether its message has the parameters' dtype and no subnormal numbers
        already, as a memory's has.
      variance: from the parameters, or their shapes, to :math:`\omega`, a float, with
        :math:`E C(v) = v` and :math:`E \|C(v) - v\|^2 \le \omega \|v\|^2`; None if C
        has a bias or nothing is known.
      joint_variance: from the same to :math:`\bar\omega` with
        :math:`E \|\sum_m C(v_m) - v_m\|^2 \le \bar\omega \sum_m \|v_m\|^2`, which is
        :math:`\omega` where workers draw apart, as is understood by None.
      contraction: from the same to :math:`\alpha` in (0, 1], a float, with
        :math:`E \|C(v) - v\|^2 \le (1 - \alpha) \|v\|^2`; None if none is known.
      most_entries: from the parameters, or their shapes, to the most non-zeros that a
        message has, an int, unless it is said to be `wire.Whole`; None for any number.
      keeps_zeros: whether an entry that is 0 is 0 in the message.
      shared: from the state after a round to what of it all workers have in common,
        whoever is there: sums that the piece has formed, draws with `round_key`; None
        where nothing is.
      measure: from the arguments of `update` for each `Part` of the components to what
        is `Measured` of all. Handed that, as the extra argument `measured`, and where a
        part lies, `place`, it works on every component by itself, as if it were
        `component_wise`. None where that is not known, or nothing needs be measured.
      censored: of what numbers it is made, if it is censoring in memories, or the k
        largest in a memory: a compiled kernel then does a round in one pass, where
        gdsec-jax-native is installed.
      noise: what it adds to the gradient first, that makes it private; None: nothing.

    Examples:
      >>> from gdsec_jax import worker
      >>> worker.censor(xi=1.0).component_wise, worker.top_k(3).component_wise
      (True, False)
      >>> worker.power_sgd(2).sums_over_workers
      True
    """

    # What holds of a copy that optax or jax makes, of which nothing is known.
    component_wise: bool = False
    sums_over_workers: bool | None = None
    travels: bool = False
    variance: Callable[[Any], float] | None = None
    joint_variance: Callable[[Any], float] | None = None
    contraction: Callable[[Any], float] | None = None
    most_entries: Callable[[Any], int] | None = None
    keeps_zeros: bool = False
    shared: Callable[[Any], Any] | None = None
    measure: Callable[[list[Part]], Measured] | None = None
    censored: Censored | None = None
    noise: Noise | None = None

    def __new__(
        cls,
        init,
        update,
        *,
        component_wise: bool = False,
        sums_over_workers: bool | None = False,
        travels: bool = False,
        variance: Callable[[Any], float] | None = None,
        joint_variance: Callable[[Any], float] | None = None,
        contraction: Callable[[Any], float] | None = None,
        most_entries: Callable[[Any], int] | None = None,
        keeps_zeros: bool = False,
        shared: Callable[[Any], Any] | None = None,
        measure: Callable[[list[Part]], Measured] | None = None,
        censored: Censored | None = None,
        noise: Noise | None = None,
    ):
        self = super().__new__(cls, init, update)
        self.component_wise = component_wise
        self.sums_over_workers = sums_over_workers
        self.travels = travels
        self.variance = variance
        self.joint_variance = joint_variance
        self.contraction = contraction
        self.most_entries = most_entries
        self.keeps_zeros = keeps_zeros
        self.shared = shared
        self.measure = measure
        self.censored = censored
        self.noise = noise
        return self


def no_state(params: Any) -> tuple[()]:
    """The `init` of a piece without a state: of no library's type."""
    del params
    return ()


def declare(
    piece: optax.GradientTransformation,
    *,
    component_wise: bool = False,
    sums_over_workers: bool | None = False,
    variance: Callable[[Any], float] | None = None,
) -> Piece:
    """A piece of one's own, or of another library, with what holds of it.

    Without a declaration all workers and components are computed at once, which is
    always right. Of optax these are known, if they are made of numbers alone:
    add_decayed_weights, clip, ema, identity, scale, scale_by_adam, scale_by_rms,
    scale_by_sign, set_to_zero and trace.

    Args:
      piece: a transformation for one worker.
      component_wise, sums_over_workers, variance: see `Piece`.

    Returns:
      The same transformation, as a `Piece`.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gdsec_jax import worker
      >>> halves = optax.stateless(lambda g, _: g / 2)
      >>> worker.declare(halves, component_wise=True).component_wise
      True
    """
    piece = optax.with_extra_args_support(piece)
    return Piece(
        piece.init,
        piece.update,
        component_wise=component_wise,
        sums_over_workers=sums_over_workers,
        variance=variance,
    )


def chain(*pieces: optax.GradientTransformation) -> Piece:
    """`optax.chain` of pieces for one worker, with what holds of all of them.

    Args:
      pieces: transformations for one worker, the first one first.

    Examples:
      >>> import optax
      >>> from gdsec_jax import worker
      >>> worker.chain(optax.clip(1.0), worker.censor(xi=1.0)).component_wise
      True
    """
    declared = [as_piece(piece) for piece in pieces]
    whole = optax.chain(*declared)
    sums = [piece.sums_over_workers for piece in declared]
    return Piece(
        whole.init,
        whole.update,
        component_wise=all(piece.component_wise for piece in declared),
        sums_over_workers=True if True in sums else None if None in sums else False,
        travels=bool(declared) and declared[-1].travels,
        most_entries=_most_of(declared),
        keeps_zeros=all(piece.keeps_zeros for piece in declared),
        shared=_shared_by_last(declared),
        measure=_measure_by_last(declared),
        noise=declared[0].noise if declared else None,
    )


def _most_of(pieces: list[Piece]) -> Callable[[Any], int] | None:
    """The most entries behind the last piece that limits them."""
    for piece in reversed(pieces):
        if piece.most_entries is not None:
            return piece.most_entries
        if not piece.keeps_zeros:
            return None
    return None


def _shared_by_last(pieces: list[Piece]) -> Callable[[Any], Any] | None:
    last = pieces[-1].shared if pieces else None
    return None if last is None else lambda state: last(state[-1])


def _measure_by_last(pieces: list[Piece]) -> Callable[[list[Part]], Measured] | None:
    if not pieces:
        return None
    *first, last = pieces
    measure = last.measure
    if measure is None or not all(piece.component_wise for piece in first):
        return None

    def of_last(parts: list[Part]) -> Measured:
        entries = jax.tree.leaves([part.updates for part in parts])
        for n, piece in enumerate(first):
            parts = [
                part._replace(
                    updates=piece.update(
                        part.updates, part.state[n], part.params, **part.extra_args
                    )[0]
                )
                for part in parts
            ]
        made = measure([part._replace(state=part.state[-1]) for part in parts])
        if not first:
            return made
        # The first pieces may hide it.
        finite = jnp.stack([jnp.isfinite(x).all() for x in entries]).all()
        return Measured(made.facts, made.finite & finite, some_normal(entries))

    return of_last


def some_normal(entries: list[jax.Array]) -> jax.Array:
    """Whether one of them is neither 0 nor subnormal, bool []."""
    normal = (jnp.abs(x) >= jnp.finfo(x.dtype).tiny for x in entries)
    return jnp.stack([x.any() for x in normal]).any()


def as_piece(transformation: optax.GradientTransformation) -> Piece:
    """A transformation with what is declared, or known, of it."""
    if isinstance(transformation, Piece):
        return transformation
    if not hasattr(transformation, "init"):
        raise ValueError(
            f"the transformation is {_checks.shown(transformation)}, expected one of "
            "optax or gdsec_jax.worker; optax.stateless makes one of a function."
        )
    known = _is_known(transformation)
    return declare(
        transformation, component_wise=known, sums_over_workers=False if known else None
    )


def _is_known(transformation: Any) -> bool:
    """Whether it is one of optax's, as optax made it, of numbers alone."""
    init, update = transformation
    names = (getattr(f, "__qualname__", "") for f in (update, init))
    factory, start = (name.partition(".")[0] for name in names)
    if factory not in _COMPONENT_WISE_OF_OPTAX or hasattr(update, "__wrapped__"):
        return False
    if start not in (factory, "init_empty_state"):
        return False  # it starts from something of its own
    if not all((f.__module__ or "").startswith("optax.") for f in transformation):
        return False
    given = [x.cell_contents for f in transformation for x in f.__closure__ or ()]
    return all(isinstance(x, type) or not callable(x) for x in given) and all(
        jnp.ndim(x) == 0 for x in given if isinstance(x, jax.Array | np.ndarray)
    )


def check_unbiased(compressor: Any) -> None:
    """Raise a ValueError unless a compressor is known to be unbiased.

    Examples:
      >>> from gdsec_jax import worker
      >>> worker.check_unbiased(worker.natural())
    """
    if getattr(compressor, "variance", None) is None:
        raise ValueError(
            f"compressor is {_checks.shown(compressor)}, expected a worker.Piece that "
            "declares its variance: random_k, perm_k, qsgd, natural, terngrad or whole."
        )


def variance_of(compressor: optax.GradientTransformation, params: Any) -> float:
    r""":math:`\omega` of an unbiased compressor.

    Raises:
      ValueError: it is not known to be unbiased.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> worker.variance_of(worker.natural(), jnp.zeros(20))
      0.125
    """
    check_unbiased(compressor)
    return float(as_piece(compressor).variance(params))  # pyright: ignore


def joint_variance_of(compressor: optax.GradientTransformation, params: Any) -> float:
    r""":math:`\bar\omega` of an unbiased compressor: see `Piece.joint_variance`.

    Raises:
      ValueError: it is not known to be unbiased.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> piece, params = worker.perm_k(5), jnp.zeros(20)
      >>> worker.variance_of(piece, params), worker.joint_variance_of(piece, params)
      (4.0, 5.0)
    """
    check_unbiased(compressor)
    joint = as_piece(compressor).joint_variance
    return variance_of(compressor, params) if joint is None else float(joint(params))


def contraction_of(compressor: optax.GradientTransformation, params: Any) -> float:
    r""":math:`\alpha` of a compressor that contracts: see `Piece.contraction`.

    Raises:
      ValueError: it is not known to contract.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import worker
      >>> worker.contraction_of(worker.top_k(5), jnp.zeros(20))
      0.25
    """
    known = getattr(compressor, "contraction", None)
    if known is None:
        raise ValueError(
            f"compressor is {_checks.shown(compressor)}, expected a worker.Piece that "
            "declares its contraction: top_k, chunk_top_k, random_k(scaled=False), "
            "sign or whole."
        )
    return float(known(params))

"""What all algorithms have in common: their options, and the server's memory."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, get_type_hints

import jax
from jax.typing import DTypeLike
from optax.experimental import aggregating

from gdsec_jax import _checks
from gdsec_jax.algorithms._pages import page
from gdsec_jax.federation import Axis, OnNonfinite, OnStandstill, Reduction, federate
from gdsec_jax.federation._halves import Federated
from gdsec_jax.server import Server
from gdsec_jax.server._old import old_options
from gdsec_jax.server._server import as_server
from gdsec_jax.wire import Format
from gdsec_jax.worker import Piece, chain, gradient_difference, top_k

Aggregator = aggregating.Aggregator
_Factory = TypeVar("_Factory", bound=Callable[..., Aggregator])


class Options(TypedDict, total=False):
    """Of every algorithm."""

    reduction: Reduction
    weights: Any
    wire: str | Format
    server: Server | None
    noise: Piece | None
    on_nonfinite: OnNonfinite
    on_standstill: OnStandstill
    axis: Axis | None
    within: Axis | None


class MemoryOptions(Options, total=False):
    """Of an algorithm with a memory."""

    state_dtype: DTypeLike | None


def algorithm(options: type) -> Callable[[_Factory], _Factory]:
    """Name the common options in an algorithm's signature, and describe them.

    optax.inject_hyperparams and the configs read signatures, which `**options` hides.
    The function's page, its docstring, gets the description of every argument that it
    shares with other methods, so that `help` and documentation show all of them.

    Args:
      options: `Options` or one of those made of it; their defaults are those
        of `federate` and of the memories.

    Returns:
      A decorator of a factory with `**options`.

    Examples:
      >>> import inspect, gdsec_jax
      >>> from gdsec_jax import algorithms
      >>> @algorithms.algorithm(algorithms.Options)
      ... def mine(num_workers, **options):
      ...     return gdsec_jax.gd(num_workers, **options)
      >>> inspect.signature(mine).parameters["wire"].default
      'coo'
    """
    of_federate = dict(inspect.signature(federate).parameters)
    defaults = of_federate | dict(inspect.signature(difference_memory).parameters)

    def decorate(factory):
        signature = inspect.signature(factory)
        own = [p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]
        common = [
            defaults[name].replace(annotation=hint)
            for name, hint in get_type_hints(options).items()
            if name not in signature.parameters
        ]
        names = [p.name for p in own + common]
        # Those of `federate` that few need, too, unless the method chooses them.
        known = {*names, *(of_federate if "reduction" in names else ())}

        @functools.wraps(factory)
        def checked(*arguments, **given):
            if "server" not in known and given.get("server") is None:
                given.pop("server", None)  # which `old_options` hands on
            for name in given:
                if name not in known:
                    raise TypeError(
                        f"{factory.__name__} has no option {name!r}"
                        f"{_checks.expected(name, names)} one of "
                        f"{', '.join(names)}."
                    )
            values = (*arguments, *given.values())
            if any(type(x) is str and x == "adaptive" for x in values):
                raise ValueError(
                    f"{factory.__name__} is given 'adaptive', a config's word for xi, "
                    "expected gdsec_jax.adaptive_xi(), or a number."
                )
            result = factory(*arguments, **given)
            if isinstance(result, Federated):
                result.name = factory.__name__
            return result

        made: Any = old_options(checked)
        made.__signature__ = signature.replace(parameters=own + common)
        made.__doc__ = page(made)
        return made

    return decorate


def difference_memory(
    compressor,
    num_workers: int,
    beta: Any = 1.0,
    *,
    weight: Any = 1.0,
    before=None,
    acknowledged: bool = False,
    state_dtype=None,
    server: Server | None = None,
    **options,
) -> Aggregator:
    r"""Federate pieces inside a gradient-difference memory, kept on both sides.

    .. math:: u_m = C(g_m - h_m), \quad h_m \leftarrow h_m + \beta u_m, \quad
       \text{update} = \sum_m (h_m + \nu u_m)

    What the methods of this package with such a memory are made of.

    Args:
      compressor: C, a transformation for one worker.
      num_workers: M.
      beta: :math:`\beta` in [0, 1], or a function of the parameters' shapes.
      weight: :math:`\nu` in [0, 1], or a function of the parameters' shapes; of every
        method but `ef_bv` it is 1.
      before: a piece that the gradient passes first, such as `worker.momentum`.
      acknowledged: whether h_m may wait until a message has arrived, if the server
        acknowledges: `server.late`.
      state_dtype, server, options: see the package, and `federate`.

    Examples:
      >>> import gdsec_jax
      >>> from gdsec_jax import algorithms, worker
      >>> algorithm = algorithms.difference_memory(worker.top_k(10), num_workers=5)
    """
    server = as_server(server)
    if options.get("axis") is not None:  # then what travels is the messages alone
        server = server._replace(estimates=False)
    worker = gradient_difference(
        compressor,
        beta,
        state_dtype=state_dtype,
        max_delay=server.max_delay if acknowledged and server.acknowledges else 0,
    )
    return federate(
        chain(before, worker) if before else worker,
        num_workers,
        server=server.with_memories(beta, state_dtype, weight),
        **options,
    )


def short(compressor, server: Server | None):
    """The compressor, whose messages have no more entries than the server takes."""
    capacity = as_server(server).capacity
    return compressor if capacity is None else chain(compressor, top_k(capacity))


def share(x, num_workers: int, options: Any, power: int = 1):
    """A worker's part of x, M^-power of it if f is a sum, all of it for a mean."""
    _checks.number_of_workers(num_workers)
    if callable(x):
        return lambda round: share(x(round), num_workers, options, power)
    if str(options.get("reduction", "sum")) != "sum":
        return x
    return jax.tree.map(lambda leaf: leaf / num_workers**power, x)

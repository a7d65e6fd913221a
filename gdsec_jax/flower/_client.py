"""The client: a ClientApp around a function from parameters to a gradient."""

import functools
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gdsec_jax import _checks, _plain
from gdsec_jax.flower import _protocol as protocol
from gdsec_jax.flower._kept import read_state, write_state
from gdsec_jax.flower._need import flwr, record_of
from gdsec_jax.numpy_worker import METHODS
from gdsec_jax.wire import FORMATS

_LOG = logging.getLogger("flwr")
KEPT = "gdsec_jax"  # the record of a context's state
INDEX = "partition-id"  # of a node's configuration: which of the workers it is


def client(
    algorithm: Any,
    params: Any,
    gradient: Callable[[Any, Any], Any],
    *,
    wire: str | None = None,
    folder: str | os.PathLike | Callable[[Any], str | os.PathLike | None] | None = None,
    mods: Any = None,
) -> Any:
    r"""A Flower ClientApp that sends what a method makes of the user's gradient.

    A node says which worker it is by `partition-id` in its configuration, 0 to M - 1:
    ``flower-supernode --node-config "partition-id=0"``.

    The worker's memories lie in the context's state, which a SuperNode keeps between
    the rounds of a run, and loses when it restarts; or in a folder, which outlives it.

    Args:
      algorithm: that of the server, or a method of `gdsec_jax.numpy_worker`: then the
        client needs NumPy alone.
      params: the parameters, or others of their shapes and dtypes.
      gradient: from the parameters and Flower's context to the gradient
        :math:`\nabla f_m(\theta^k)`; or, with local training, to how far it went,
        :math:`\theta^k - \theta_m^H`. A tree like the parameters, or a pair of that and
        a dict of numbers, metrics of its own.
      wire: the format of the server's algorithm, for a method in NumPy; others know it.
      folder: where the worker's memories lie, or a function of the context that says
        so. None: in the context's state.
      mods: Flower's, see the page on Flower for which of them are of use.

    Returns:
      A `flwr.clientapp.ClientApp`.

    Raises:
      ModuleNotFoundError: Flower is not installed.
      ValueError: the algorithm's halves cannot be apart; gradient is no function; there
        is no such wire format, or the algorithm knows it; a mod changes arrays; in a
        round, the node's configuration has no partition-id.

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> from gdsec_jax import flower
      >>> def gradient(params, context):  # of the client's own data
      ...     return params - context.node_config["partition-id"]
      >>> app = flower.client(  # doctest: +SKIP
      ...     gdsec_jax.gdsec(3, xi=4.0, wire="rle"), jnp.zeros(2), gradient)
    """
    needed = flwr()
    _check(algorithm, gradient, wire)
    for mod in mods or ():
        _check_mod(mod)
    app = needed.ClientApp(mods=mods)

    @functools.cache
    def worker_of(index):
        return _worker(algorithm, params, index, wire)

    @app.train()
    def train(message, context):
        index = index_of(context)
        place = _place(folder, context, index)
        told = message.content[KEPT]["bytes"]
        reply = answer(worker_of(index), index, gradient, told, context, place)
        content = needed.RecordDict({KEPT: record_of(reply)})
        return needed.Message(content=content, reply_to=message)

    return app


def answer(
    worker: protocol.Worker,
    index: int,
    gradient: Callable[[Any, Any], Any],
    told: Any,
    context: Any,
    place: Path | None = None,
) -> bytes:
    """A client's reply to the server's bytes; what it keeps is put down before.

    Args:
      worker: the method's half.
      index: which of the workers.
      gradient: the user's function.
      told: the instructions.
      context: Flower's, whose state keeps the client's if there is no place.
      place: the file that does.
    """
    instructions = protocol.read_instructions(told)
    state = _remembered(worker, index, _read(place, context), instructions.run)

    def own(params):
        made = gradient(params, context)
        if _has_metrics(made, params):
            return made[0], {str(name): float(x) for name, x in made[1].items()}
        return made, None

    reply, state = protocol.respond(worker, state, instructions, index, own)
    if state is not None:
        _write(place, context, write_state(worker, state))
    return protocol.write_reply(reply)


def _remembered(
    worker: protocol.Worker, index: int, kept: bytes | None, run: int
) -> protocol.ClientState | None:
    """What it kept of this run; else it begins anew, and its log says why."""
    if kept is None:
        return None
    try:
        state = read_state(worker, kept)
    except ValueError as error:
        why = str(error)
    else:
        if state.run == run:
            return state
        why = "what it keeps is of another run."
    _LOG.warning("worker %d begins anew with a whole message: %s", index, why)
    return None


def _in_numpy(algorithm: Any) -> bool:
    return type(algorithm) in METHODS.values()


def _check(algorithm: Any, gradient: Any, wire: str | None) -> None:
    """What can be said before a node is known."""
    if not callable(gradient):
        raise ValueError(
            f"gradient is {_checks.shown(gradient)}, expected a function of parameters "
            "and Flower's context."
        )
    if _in_numpy(algorithm):
        if wire is not None:
            _checks.one_of("wire", wire, FORMATS)
        return
    from gdsec_jax.federation._halves import parts_of

    parts_of(algorithm)
    if wire is not None:
        raise ValueError(f"wire is {wire!r}, expected None: the algorithm knows it.")


def _has_metrics(made: Any, params: Any) -> bool:
    """Whether it is a pair of a gradient and metrics: parameters may be a pair too."""
    if not (isinstance(made, tuple) and len(made) == 2):
        return False
    alike = _plain.flatten(made)[1] == _plain.flatten(params)[1]
    return isinstance(made[1], Mapping) and not alike


def _check_mod(mod: Any) -> None:
    """Flower's mods for privacy change arrays, of which there are none."""
    name = getattr(mod, "__name__", type(mod).__name__)
    of = getattr(mod, "__module__", "")
    if of.endswith(("secagg_mod", "secaggplus_mod")):
        raise ValueError(
            f"mods has {name}, which masks dense vectors of integers, expected none "
            "that does: messages are bytes here, and masks would hide what is censored."
        )
    if of.endswith(("centraldp_mods", "localdp_mod")):
        raise ValueError(
            f"mods has {name}, which clips an ArrayRecord, expected none that does: "
            "messages are bytes here, so clip, and add noise, where the gradient is "
            "made, or by a piece in front of the method's."
        )


def index_of(context: Any) -> int:
    """Which of the workers a node is."""
    found = context.node_config.get(INDEX)
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise ValueError(
            f"the node's {INDEX} is {found!r}, expected the number of a worker, 0 to "
            f'M - 1: flower-supernode --node-config "{INDEX}=0".'
        )
    return found


def _worker(algorithm: Any, params: Any, index: int, wire: str | None):
    if _in_numpy(algorithm):
        from gdsec_jax.flower import _numpy

        return _numpy.worker_of(algorithm, params, wire or "coo")
    from gdsec_jax.flower import _worker

    return _worker.worker_of(algorithm, params, index)


def _place(folder: Any, context: Any, index: int) -> Path | None:
    found: Any = folder(context) if callable(folder) else folder
    return None if found is None else Path(found) / f"worker-{index}.state"


def _read(place: Path | None, context: Any) -> bytes | None:
    if place is not None:
        return place.read_bytes() if place.is_file() else None
    found = context.state.get(KEPT)
    return None if found is None else found["bytes"]


def _write(place: Path | None, context: Any, data: bytes) -> None:
    if place is None:
        context.state[KEPT] = record_of(data)
        return
    from gdsec_jax.files import _whole

    with _whole.whole(place) as temporary:
        temporary.write_bytes(data)

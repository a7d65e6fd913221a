"""What a round leaves behind: one table, which histories, logs and sweeps read.

A new quantity is a row of `TABLE` and a field of `History`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from gdsec_jax.federation._broadcast import LastBroadcast
from gdsec_jax.federation._counts import LastRound
from gdsec_jax.problems import Problem
from gdsec_jax.uplink import Uplink
from gdsec_jax.uplink._uplink import Costs

if TYPE_CHECKING:
    import xarray as xr

PARAMS, TOTAL = "params", "total_"
# Names that files of runs and sweeps have for other things.
_OTHERS = (
    *("round", "worker", "eval_round", "setting", "place", "mark"),
    *("initial_error", "outcome", "rounds"),
)


class Record(NamedTuple):
    """What a round leaves behind; in the loop's buffers rounds are the first axis."""

    error: jax.Array  # NaN where it was not evaluated
    sent: LastRound
    broadcast: LastBroadcast
    observed: dict[str, jax.Array]  # by name, what the caller wants to see
    metrics: dict[str, jax.Array]  # the problem's, NaN where it was not evaluated
    conditions: Any  # of the channel, or () without one


class Rounds(NamedTuple):
    """Rounds on the host, and what their records mean."""

    record: Any  # a `Record`; leaves [K, ...] of a run, [K, S, ...] of a sweep
    evaluations: np.ndarray  # int64 [M], sample gradients that a worker computes
    costs: Costs | None

    @classmethod
    def of(cls, record: Record, problem: Problem, uplink: Uplink) -> "Rounds":
        """The rounds of a run of this problem over this uplink."""
        costs = uplink.costs(record.conditions, record.sent)
        return cls(record, problem.evaluations, costs)


class Quantity(NamedTuple):
    """A kind of number that rounds leave behind."""

    name: str  # the field of `History`, and the column's name
    of: Callable[[Rounds], Any]  # [..., K]; None, or nothing by name, if there is none
    dtype: Any = np.int64  # None: float64 of floats, and as it is of all else
    adds_up: bool = True  # over rounds: a sweep keeps the total so far, else the value
    by_worker: bool = False  # [..., K, M]; a column is the sum over the workers
    measured: bool = False  # known where the error is evaluated alone
    column: bool = True  # whether logs and sweeps have it
    optional: bool = False  # files of some runs have none
    prefix: str | None = None  # of several, by name: in front of each one's name

    def __call__(self, rounds: Rounds) -> Any:
        """Its values, by name if there are several; None if there are none."""
        value = self.of(rounds)
        if self.prefix is not None:
            return {name: self.cast(each) for name, each in value.items()}
        return None if value is None else self.cast(value)

    def named(self, value: Any) -> dict[str, np.ndarray]:
        """Its values by the names that they have among all others."""
        if self.prefix is not None:
            return {f"{self.prefix}{name}": each for name, each in value.items()}
        return {} if value is None else {self.name: value}

    def has(self, column: str) -> bool:
        """Whether a column of this name is its."""
        return column.startswith(self.prefix) if self.prefix else column == self.name

    def cast(self, value) -> np.ndarray:
        value = np.asarray(value)
        own = value.dtype if value.dtype.kind in "iub" else np.float64
        dtype = own if self.dtype is None else self.dtype
        return value.astype(dtype, copy=False)


def _broadcast_bits(rounds: Rounds) -> np.ndarray:
    """What the server sends each round: all of theta, or what a piece says."""
    record = rounds.record
    if record.broadcast.bits is not None:
        return record.broadcast.bits
    dense = sum(part.uploads.layout.whole_bits for part in record.sent.parts)
    return np.full(record.error.shape, dense, np.int64)


def _format_bits(rounds: Rounds) -> dict[str, np.ndarray]:
    """In the formats and conventions that were counted beside an algorithm's own."""
    sent = rounds.record.sent
    formats = [part.uploads.layout.format for part in sent.parts]
    names = [  # that every part can answer
        name
        for name in formats[0].also
        if all(name in (form.name, *form.also) for form in formats)
    ]
    return {name: sent.bits_in(name).sum(-1) for name in names}


def _cost(name: str) -> Callable[[Rounds], Any]:
    return lambda rounds: None if rounds.costs is None else getattr(rounds.costs, name)


def _sent(name: str) -> Callable[[Rounds], Any]:
    return lambda rounds: getattr(rounds.record.sent, name)


TABLE = (
    Quantity(
        "objective_error", lambda r: r.record.error, float, adds_up=False, measured=True
    ),
    Quantity("bits", _sent("bits"), by_worker=True),
    Quantity("entries", _sent("entries"), by_worker=True),
    Quantity("broadcast_bits", _broadcast_bits),
    Quantity(
        "gradient_evaluations",
        lambda r: (np.asarray(r.record.sent.computed) * r.evaluations).sum(-1),
    ),
    Quantity("participants", _sent("participants"), bool, by_worker=True),
    Quantity("dropped", _sent("dropped")),
    Quantity("lost", lambda r: r.record.sent.lost.sum(-1), optional=True),
    Quantity("time_s", _cost("time_s"), float, optional=True),
    Quantity("energy_j", _cost("energy_j"), float, optional=True),
    Quantity(
        "worker_time_s", _cost("worker_time_s"), float,
        by_worker=True, column=False, optional=True,
    ),
    Quantity("format_bits", _format_bits, prefix="bits_"),
    Quantity("observed", lambda r: r.record.observed, None, adds_up=False, prefix=""),
    Quantity(
        "metrics", lambda r: r.record.metrics, float,
        adds_up=False, measured=True, prefix="metric_",
    ),
)  # fmt: skip


def arrays(rounds: Rounds, evaluated: np.ndarray) -> dict[str, Any]:
    """The fields of a run's `History` that the table has, of rounds bool [K]."""

    def known(quantity):
        rows = evaluated if quantity.measured else slice(None)
        return jax.tree.map(lambda x: x[rows], quantity(rounds))

    return {each.name: known(each) for each in TABLE}


def columns(rounds: Rounds) -> dict[str, np.ndarray]:
    """What rounds left behind, by column, summed over the workers."""
    found = {}
    for quantity in TABLE:
        if not quantity.column:
            continue
        for name, value in quantity.named(quantity(rounds)).items():
            found[name] = value.sum(-1) if quantity.by_worker else value
    return found


def adds_up(column: str) -> bool:
    """Whether a column's values add up over rounds."""
    return any(each.adds_up and each.has(column) for each in TABLE)


def is_taken(name: str) -> bool:
    """Whether histories and sweeps have this name for something else."""
    prefixes = (PARAMS, TOTAL, *(each.prefix for each in TABLE if each.prefix))
    names = (*_OTHERS, *(each.name for each in TABLE))
    return name in names or name.startswith(prefixes)


def to_variables(history: Any) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """A history's fields as a dataset's variables: dimensions and values."""
    found = {}
    for quantity in TABLE:
        dims = ("eval_round",) if quantity.measured else ("round",)
        dims += ("worker",) if quantity.by_worker else ()
        for name, value in quantity.named(getattr(history, quantity.name)).items():
            more = (f"{name}:{axis}" for axis in range(value.ndim - len(dims)))
            found[name] = ((*dims, *more), value)
    return found


def from_dataset(dataset: "xr.Dataset") -> dict[str, Any]:
    """The fields of a history from a dataset; a KeyError if one is missing."""
    names = [str(name) for name in dataset.data_vars]

    def belongs(quantity, name):
        if quantity.prefix != "":
            return quantity.has(name)
        return dataset[name].dims[0] == "round" and not is_taken(name)

    found: dict[str, Any] = {}
    for quantity in TABLE:
        own: Mapping[str, np.ndarray] = {
            name.removeprefix(quantity.prefix or ""): quantity.cast(dataset[name])
            for name in names
            if dataset[name].ndim and belongs(quantity, name)
        }
        if quantity.prefix is not None:
            found[quantity.name] = own
        elif quantity.name in own or not quantity.optional:
            found[quantity.name] = own[quantity.name]
    return found


def joined(chunks: list[Any]) -> Any:
    """The records of consecutive chunks as those of one."""
    return jax.tree.map(lambda *x: np.concatenate(x), *chunks)

"""What a round leaves behind: one table, which histories, logs and sweeps read.

A new quantity is a row of `TABLE` and a field of `History`. What a caller wants to see
beside it is a function of the `Round`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _trees
from gdsec_jax.federation import FederationState
from gdsec_jax.federation._broadcast import LastBroadcast
from gdsec_jax.federation._counts import LastRound
from gdsec_jax.federation._train import coming_steps
from gdsec_jax.privacy import _accounting
from gdsec_jax.problems import Private, Problem
from gdsec_jax.uplink import Uplink
from gdsec_jax.uplink._uplink import Costs
from gdsec_jax.worker import ErrorFeedbackState, GradientDifferenceState

if TYPE_CHECKING:
    import xarray as xr

PARAMS, TOTAL = "params", "total_"
NORMS = ("gradient_norm", "h_norm", "e_norm")
# Names that files of runs and sweeps have for other things.
_OTHERS = (
    *("round", "worker", "eval_round", "setting", "place", "mark"),
    *("initial_error", "outcome", "rounds"),
)


class Record(NamedTuple):
    """What a round leaves behind; in the loop's buffers rounds are the first axis."""

    error: jax.Array  # on the host NaN where it was not evaluated
    sent: LastRound
    broadcast: LastBroadcast
    observed: dict[str, jax.Array]  # by name, what the caller wants to see
    metrics: dict[str, jax.Array]  # the problem's, just so
    conditions: Any  # of the channel, or () without one
    steps: jax.Array  # int32 [], of workers that train; 1 of others
    spent: Any = ()  # `Spent`, of noise that makes gradients private, or ()


class Rounds(NamedTuple):
    """Rounds on the host, and what their records mean."""

    record: Any  # a `Record`; leaves [K, ...] of a run, [K, S, ...] of a sweep
    evaluations: np.ndarray  # int64 [M], samples of a gradient that a worker computes
    costs: Costs | None
    private: Private | None = None  # how the problem bounds what a sample is worth

    @classmethod
    def of(cls, record: Record, problem: Problem, uplink: Uplink) -> "Rounds":
        """The rounds of a run of this problem over this uplink."""
        costs = uplink.costs(record.conditions, record.sent)
        return cls(record, problem.evaluations, costs, problem.private)


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
        own = value.dtype if value.dtype.kind in "iubc" else np.float64
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


def _epsilon(rounds: Rounds) -> np.ndarray | None:
    """What rounds so far give away of a sample, as far as anybody counts."""
    record, private = rounds.record, rounds.private
    if private is None:
        return None
    if not record.spent:
        return np.full(np.shape(record.error), np.inf)
    if not _accounting.known():
        return None
    multipliers = np.asarray(record.spent.deviation, np.float64) / private.sensitivity
    return _accounting.spent_of(multipliers, np.asarray(record.spent.rounds), private)


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
        lambda r: (
            (np.asarray(r.record.sent.computed) * r.evaluations).sum(-1)
            * np.asarray(r.record.steps, np.int64)
        ),
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
    Quantity("epsilon", _epsilon, float, adds_up=False, optional=True),
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
    return {
        name: value.sum(-1) if quantity.by_worker else value
        for quantity in TABLE
        if quantity.column
        for name, value in quantity.named(quantity(rounds)).items()
    }


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


# What a caller wants to see, and what a log is told


class Round(NamedTuple):
    """One round of a run, as `observe` is shown it; traced."""

    number: jax.Array  # int32 [], the first is 0
    params: Any  # theta^k, at which the workers compute
    gradients: Any  # of all workers, leaves [M, *param]; None if never there at once
    state: Any  # the optimizer's, before the round
    updates: Any  # what was added to theta^k
    new_params: Any  # theta^{k+1}
    new_state: Any  # the optimizer's, after the round: for `last_round`, say


Observe = Callable[[Round], Mapping[str, Any]]


def observed(observe: Observe | None, now: Round) -> dict[str, jax.Array]:
    """What a function sees in a round, arrays by name, once they are checked."""
    seen = {} if observe is None else observe(now)
    if not isinstance(seen, Mapping):
        raise ValueError(
            f"observe returns {seen!r}, expected a dict from names to arrays."
        )
    for name in seen:
        word = isinstance(name, str) and name.isidentifier()
        if not word or is_taken(name):
            raise ValueError(
                f"observe returns the name {name!r}, expected a word of letters, "
                "digits and _ that no other record has."
            )
    return {name: jnp.asarray(value) for name, value in seen.items()}


def norms(now: Round) -> dict[str, jax.Array]:
    r"""Norms of a round's gradient and of the workers' memories, for `observe`.

    Args:
      now: the round.

    Returns:
      gradient_norm, :math:`|\sum_m \nabla f_m|` at theta^k, which workers that train do
      not compute; and after the round, of the memories that the algorithm keeps,
      h_norm, :math:`\sqrt{\sum_m |h_m|^2}`, and e_norm, :math:`\sqrt{\sum_m |e_m|^2}`.

    Raises:
      ValueError: with a worker_batch; all gradients are never there at once.

    Examples:
      >>> import numpy as np, optax
      >>> import gdsec_jax
      >>> from gdsec_jax import problems
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), num_workers=2)
      >>> optimizer = optax.chain(gdsec_jax.gd(2), optax.sgd(1.0))
      >>> history = gdsec_jax.simulate(
      ...     problem, optimizer, 3, observe=gdsec_jax.norms)
      >>> {name: norm.shape for name, norm in history.observed.items()}
      {'gradient_norm': (3,)}
    """
    gradients = now.gradients
    if gradients is None and coming_steps(now.state) is None:
        raise ValueError(
            "observe is norms, expected another function with a worker_batch: the "
            "gradients of all workers are never there at once."
        )
    workers = [each.workers for each in _trees.of_type(now.new_state, FederationState)]
    h = [each.memory for each in _trees.of_type(workers, GradientDifferenceState)]
    e = [each.error for each in _trees.of_type(workers, ErrorFeedbackState)]
    found = {}
    if gradients is not None:
        found["gradient_norm"] = _norm(_trees.over_workers(gradients))
    return found | {
        name: _norm(memory) for name, memory in (("h_norm", h), ("e_norm", e)) if memory
    }


def _norm(tree) -> jax.Array:
    return jnp.sqrt(_trees.squares(tree, _trees.norm_dtype(tree)))


def log_columns(
    columns: Mapping[str, Any], numbers: Any, observe: Observe | None
) -> dict[str, Any]:
    """What a log is told of some rounds of one run: single numbers alone.

    With `norms` they are the same columns whatever memories an algorithm keeps, so that
    one file can have several.
    """
    unknown = {}
    if observe is norms:
        unknown = {name: np.full(numbers.size, np.nan) for name in NORMS}
    single = {name: x for name, x in columns.items() if x.ndim == 1}
    return {"round": numbers} | unknown | single

"""What a run did: errors, uploads and parameters, in one object and one file."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks
from gdsec_jax.files import _netcdf
from gdsec_jax.simulation import _records

if TYPE_CHECKING:
    import xarray as xr

Outcome = Literal["completed", "target", "diverged", "worsened"]
OUTCOMES: tuple[Outcome, ...] = ("completed", "target", "diverged")


def outcome_of(number, last: float, initial: float, resolution: float) -> Outcome:
    """How a run ended: by the loop's number, and whether it ended above its start."""
    outcome = OUTCOMES[int(number)]
    higher = last > max(initial, resolution)
    return "worsened" if outcome == "completed" and higher else outcome


class Cost(NamedTuple):
    """What a run had cost at some round, by all workers together."""

    rounds: int
    bits: int  # uploaded
    broadcast_bits: int
    gradient_evaluations: int
    seconds: float | None = None  # None without a channel
    joules: float | None = None  # None without a channel


def _old_cost(name: str) -> Callable[..., Any]:
    def total(self: "History", error: float, wire: str | None = None) -> Any:
        _checks.deprecated(f"{name}_to(error)", f"cost_to(error).{name}")
        return getattr(self.cost_to(error, wire), name, None)

    total.__doc__ = f"Deprecated: `cost_to(error).{name}`."
    return total


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """The course of one run of K rounds with M workers; arrays are NumPy's.

    Attributes:
      initial_error: the problem's error before the first round.
      eval_rounds: int64 [J], after how many rounds the error was evaluated.
      objective_error: [J], the problem's error then: f - f*, or what `measure` says.
      entries: int64 [K, M], the values each worker uploaded in each round.
      bits: int64 [K, M], what they cost, in the algorithm's `wire` format.
      broadcast_bits: int64 [K], the server's broadcast of theta^k, counted once.
      gradient_evaluations: int64 [K], the gradients of single samples that all workers
        together computed; of a loss of the user's own, those of whole workers.
      participants: bool [K, M], who took part.
      dropped: int64 [K], workers left out for a gradient or a message that was not
        finite, or a gradient of excessive norm.
      lost: int64 [K], uploads that did not arrive.
      epsilon: [K], of a private problem, what the rounds so far give away of a sample,
        by `privacy.epsilon`, infinite if they are not noised; None of others, and where
        the accountant is not installed.
      params: theta after the last round.
      outcome: "completed", "target" (the target error was reached), "diverged", or
        "worsened": all rounds were run, to an error above the initial one.
      attributes: what the run was: problem, error_name, wire, seconds, versions; how
        good its optimum is, optimum_gap and optimum_note, and the least error that can
        be told from 0, resolution; of a private problem how it is, private; and what
        the caller adds, config and seed say. Values that JSON can hold.
      format_bits: by name, int64 [K], what all workers' uploads of a round cost in the
        further formats that the algorithm's `wire.Format(also=...)` names.
      observed: by name, [K, ...], what `observe` returned in each round; of
        `gdsec_jax.norms` say gradient_norm, h_norm and e_norm.
      metrics: by name, float64 [J], what the problem measures beside its error.
      time_s: float64 [K], the seconds that each round lasted; None without a channel.
      energy_j: float64 [K], the joules that its uploads took; None without.
      worker_time_s: float64 [K, M], the seconds that each worker computed and sent, if
        it did compute; None without.
    """

    initial_error: float
    eval_rounds: np.ndarray
    objective_error: np.ndarray
    entries: np.ndarray
    bits: np.ndarray
    broadcast_bits: np.ndarray
    gradient_evaluations: np.ndarray
    participants: np.ndarray
    dropped: np.ndarray
    params: Any
    outcome: Outcome
    attributes: Mapping[str, Any]
    format_bits: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    observed: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    lost: np.ndarray | None = None
    time_s: np.ndarray | None = None
    energy_j: np.ndarray | None = None
    worker_time_s: np.ndarray | None = None
    epsilon: np.ndarray | None = None

    @property
    def num_rounds(self) -> int:
        """K, the rounds that were run."""
        return self.bits.shape[0]

    @property
    def total_bits(self) -> np.ndarray:
        """int64 [J], what all workers together had uploaded at each evaluation."""
        return np.cumsum(self.bits.sum(axis=1))[self.eval_rounds - 1]

    def cost_to(self, error: float, wire: str | None = None) -> Cost | None:
        """What the run had cost when the error was first at most `error`.

        Args:
          error: to reach. What cannot be told from 0, below the run's "resolution",
            is never reached: what looks like it may be rounding.
          wire: a name of `format_bits`, in which bits are counted; by default the
            algorithm's own format.

        Returns:
          A `Cost` of rounds, bits, broadcast_bits, gradient_evaluations, seconds and
          joules; None if the error was never reached.
        """
        if error < self.attributes.get("resolution", -np.inf):
            return None
        reached = np.flatnonzero(self.objective_error <= error)
        if not reached.size:
            return None
        rounds = int(self.eval_rounds[reached[0]])
        bits = self.bits.sum(axis=1) if wire is None else self.format_bits[wire]

        def total(each: np.ndarray | None) -> Any:
            return None if each is None else each[:rounds].sum().item()

        return Cost(
            rounds,
            bits=total(bits),
            broadcast_bits=total(self.broadcast_bits),
            gradient_evaluations=total(self.gradient_evaluations),
            seconds=total(self.time_s),
            joules=total(self.energy_j),
        )

    def in_words(self, error: float, form: str = ".3g") -> str:
        """An error; below what can be told from 0 the bound on it that is known."""
        floor = self.attributes.get("resolution", -np.inf)
        if not error < floor:
            return f"{error:{form}}"
        return f"≤ {max(error, 0.0) + floor:{form}}"

    @property
    def norms(self) -> Mapping[str, np.ndarray]:
        """Deprecated: `observed`."""
        _checks.deprecated("norms", "observed")
        return self.observed

    rounds_to, bits_to = _old_cost("rounds"), _old_cost("bits")
    seconds_to, joules_to = _old_cost("seconds"), _old_cost("joules")

    def summary(self) -> str:
        """One sentence: how the run ended, and what it cost."""
        name = self.attributes.get("error_name", "error")
        last = self.objective_error[-1] if self.objective_error.size else np.nan
        end = {
            "completed": "completed",
            "target": "reached the target after",
            "diverged": "diverged: stopped after",
            "worsened": "ended above where it began, after",
        }[self.outcome]
        text = (
            f"{end} {self.num_rounds} rounds, {name} {self.initial_error:.3g} -> "
            f"{self.in_words(last)}, {int(self.bits.sum()):,} bits uploaded"
        )
        if self.dropped.any():
            rounds = np.count_nonzero(self.dropped)
            text += (
                f"; {int(self.dropped.sum())} uploads in {rounds} rounds were dropped "
                "for gradients or messages that were not finite or excessive"
            )
        if self.lost is not None and self.lost.any():
            text += f"; {int(self.lost.sum())} uploads were lost"
        if self.time_s is not None and self.energy_j is not None:
            text += f"; {self.time_s.sum():.3g} s, {self.energy_j.sum():.3g} J"
        text += self._guarantee()
        return text + "."

    def _guarantee(self) -> str:
        """What the run gives away of a sample, in words; nothing of a public one."""
        private = self.attributes.get("private")
        if private is None:
            return ""
        if self.epsilon is None:
            return "; epsilon is not known without gdsec-jax[privacy]"
        last = self.epsilon[-1] if self.epsilon.size else 0.0
        if last == np.inf:
            return "; nothing is private"
        return f"; epsilon {last:.3g} at delta {private['delta']:g}"

    def to_xarray(self) -> "xr.Dataset":
        """The same as a labelled dataset, over round, worker and eval_round."""
        import xarray as xr

        variables: dict[str, Any] = dict(_records.to_variables(self))
        leaves = jax.tree_util.tree_leaves_with_path(self.params)
        for number, (path, leaf) in enumerate(leaves):
            name = f"{_records.PARAMS}{number}"
            array = np.asarray(leaf)
            dtype = array.dtype.name
            if array.dtype.kind == "V" or dtype == "bfloat16":  # NetCDF has no bfloat16
                array = array.astype(np.float32)
            axes = [f"{name}:{axis}" for axis in range(array.ndim)]
            own = {"path": jax.tree_util.keystr(path), "dtype": dtype}
            variables[name] = (axes, array, own)
        own = {"initial_error": self.initial_error, "outcome": self.outcome}
        own["attributes"] = json.dumps(dict(self.attributes))
        rounds = np.arange(1, self.num_rounds + 1)
        coords = {"eval_round": self.eval_rounds, "round": rounds}
        return xr.Dataset(variables, coords=coords, attrs=own)

    def save(self, path: str | os.PathLike) -> None:
        """Write one NetCDF file, whole or not at all; a checksum stands at its end.

        Raises:
          FileExistsError: a file is there that is no History or sweep of this package.

        Examples:
          >>> import tempfile, pathlib, numpy as np, optax
          >>> from gdsec_jax import History, gd, problems, simulate
          >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
          >>> optimizer = optax.chain(gd(2), optax.sgd(1.0))
          >>> history = simulate(problem, optimizer, 3)
          >>> with tempfile.TemporaryDirectory() as folder:
          ...     path = pathlib.Path(folder) / "gd.nc"
          ...     history.save(path)
          ...     History.load(path).bits.tolist()
          [[128, 128], [128, 128], [128, 128]]
        """
        _netcdf.write(self.to_xarray(), Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike, *, params_like: Any = None) -> "History":
        """Read what `save` wrote.

        Args:
          path: of the file.
          params_like: a tree of the run's structure, to rebuild its parameters. Without
            it a tree comes back as a dict of its paths, a single array as itself.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: it is no file that `save` wrote, was changed since, or has other
            parameters.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist, expected a saved History.")
        try:
            history = from_xarray(_netcdf.read(Path(path)))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a saved History: {error}.") from error
        if params_like is None:
            return history
        return dataclasses.replace(history, params=_rebuild(history, params_like))


def from_xarray(dataset: "xr.Dataset") -> History:
    leaves = {
        x.attrs["path"]: x.values.astype(jnp.dtype(x.attrs["dtype"]))
        for name, x in dataset.data_vars.items()
        if str(name).startswith(_records.PARAMS)
    }
    return History(
        initial_error=float(dataset.attrs["initial_error"]),
        eval_rounds=dataset["eval_round"].values,
        params=leaves[""] if set(leaves) == {""} else leaves,
        outcome=dataset.attrs["outcome"],
        attributes=json.loads(dataset.attrs["attributes"]),
        **_records.from_dataset(dataset),
    )


def _rebuild(history: History, params_like):
    """The loaded parameters in the structure of `params_like`."""
    found = history.params
    leaves = found if isinstance(found, dict) else {"": found}
    paths, structure = jax.tree_util.tree_flatten_with_path(params_like)
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    if set(names) != set(leaves):
        raise ValueError(
            f"params_like has the leaves {names}, the file {sorted(leaves)}."
        )
    for name, (_, like) in zip(names, paths, strict=True):
        if leaves[name].shape != np.shape(like):
            raise ValueError(
                f"params_like{name} has shape {np.shape(like)}, the file "
                f"{leaves[name].shape}."
            )
    return jax.tree.unflatten(structure, [leaves[name] for name in names])

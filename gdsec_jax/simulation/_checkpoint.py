"""A run in a folder, from which it goes on after it was killed.

    FOLDER/states/200/              the run after round 200, as orbax writes it
    FOLDER/rounds/0000000200-*.npz  what the rounds since the save before left behind,
                                    which run it is, checksums of the state's files

The second is written once the first was forced onto the disk: only with it a save
counts, and the state of the save before is still there. So a run may be killed at any
moment, and a power loss costs one save at most. Of old saves the records stay. What is
not as it was written is moved into a folder of its own, FOLDER/damaged-200 say.
"""

import contextlib
import dataclasses
import functools
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gdsec_jax import _checks
from gdsec_jax.files import _whole, logs
from gdsec_jax.simulation import _records, _run, _saves
from gdsec_jax.simulation._saves import Part

# All that may be in the folder, folders with a slash: what runs left, or hidden files.
_OURS = re.compile(
    r"states/|rounds/|rounds/\d{10}-\w{32}\.npz|damaged-\d+(-\d+)?/.*"
    r"|states/\d+(\.orbax-checkpoint-tmp)?/"
    r"(_CHECKPOINT_METADATA|commit_success\.txt|default(\.orbax-checkpoint-tmp)?/.*)?"
    r"|(.*/)?\..*"
)
_PARTS = "rounds/[0-9]*.npz"


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where a run is kept, so that it goes on from there after it was killed.

    Args:
      path: a folder of this run alone, made if it is not there.
      every: rounds; the run is saved after each multiple, and at its end.
      on_resume: called with the number of rounds that are there once the run goes on
        from them: `print`, say. Without it only the progress bar says so.

    Raises:
      ValueError: the path is none, the number of rounds no positive integer, or
        on_resume no function.

    Examples:
      >>> import gdsec_jax
      >>> gdsec_jax.Checkpoints("results/digits", every=200)
      Checkpoints(path='results/digits', every=200)
    """

    path: str | os.PathLike
    every: int
    on_resume: Callable[[int], None] | None = dataclasses.field(
        default=None, kw_only=True, repr=False, compare=False
    )

    def __post_init__(self):
        if not isinstance(self.path, str | os.PathLike):
            raise ValueError(f"path is {self.path!r}, expected the path of a folder.")
        _checks.integer("every", self.every, 1, 2**31 - 1)
        _checks.function("on_resume", self.on_resume)


class Saved(NamedTuple):
    """A run as far as it went."""

    run: _run.Run
    records: _records.Record  # of all its rounds, on the host
    seconds: float  # that they took


@dataclasses.dataclass(frozen=True)
class Store:
    """The folder of one run."""

    folder: Path
    every: int  # rounds from one save to the next
    fingerprint: dict[str, str]  # of what is run
    on_resume: Callable[[int], None] | None = None

    @classmethod
    def at(cls, checkpoints: Checkpoints, fingerprint: dict[str, str]) -> "Store":
        """The store in a folder, made if need be; refused if it holds anything else."""
        expected = f"checkpoint is {os.fspath(checkpoints.path)!r}, expected"
        if jax.process_count() > 1:
            raise ValueError(
                f"{expected} None: a run of {jax.process_count()} processes is not "
                "saved."
            )
        folder = _whole.folder(checkpoints.path).absolute()
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if not _OURS.fullmatch(f"{name}/" if path.is_dir() else name):
                raise ValueError(f"{expected} a folder of its own: {name} is in it.")
        store = cls(folder, checkpoints.every, fingerprint, checkpoints.on_resume)
        expected += " a new folder or that of this run:"
        theirs = [part.fingerprint.items() for part in store._parts.values() if part]
        differs = {name for own in theirs for name, _ in own ^ fingerprint.items()}
        if "method or options" not in differs:
            # Another JAX makes the same program of it.
            differs.discard("jax")
        if differs:
            names = ", ".join(sorted(differs))
            raise ValueError(f"{expected} the one there differs in {names}.")
        if store._parts and not theirs:
            raise ValueError(
                f"{expected} nothing that can be read says whose the one there is."
            )
        return store

    @functools.cached_property
    def states(self) -> Any:
        """Orbax's manager of the states, as they are when it is first asked for."""
        return _saves.manager(self.folder / "states")

    @functools.cached_property
    def _parts(self) -> dict[int, Part | None]:
        """What each save left of its rounds, as found, by its number; oldest first."""
        paths = sorted(self.folder.glob(_PARTS))
        return {int(path.name[:10]): _saves.read_part(path) for path in paths}

    def newest(self, start: Saved, eval_every: int, num_rounds: int) -> Saved:
        """The run as it was saved last; as it starts where nothing sound is saved.

        What was saved later, and is damaged, is set aside with a warning. The run lies
        on the devices of `start`, which is before its first round.
        """
        parts, damage = self._parts, {}
        for number in list(parts)[: -_saves.KEPT - 1 : -1]:
            why = self._damage({n: part for n, part in parts.items() if n <= number})
            if why is None:
                break
            damage[number] = why
        older = [n for n in parts if n < min(damage, default=n + 1)]
        sound = older if len(damage) < _saves.KEPT else []  # whose states are gone
        rounds = sound[-1] if sound else 0
        for number, why in damage.items():
            warnings.warn(
                f"the checkpoint of round {number} in {self.folder} is damaged, {why}: "
                f"the run goes on from round {rounds}.",
                RuntimeWarning,
                stacklevel=5,  # the caller of `simulate`, behind its old spellings
            )
        for number in parts.keys() - sound:
            self._set_aside(number)
        self._remove_broken_off(sound)
        if not sound:
            return start
        if rounds > num_rounds:
            raise ValueError(
                f"num_rounds is {num_rounds}, expected at least {rounds}, the rounds "
                f"that the checkpoint {self.folder} has."
            )
        kept: list[Any] = [parts[number] for number in sound]
        leaves, structure = jax.tree.flatten(start.records)
        records = structure.unflatten(
            np.concatenate([part.records[i].view(x.dtype) for part in kept])
            for i, x in enumerate(leaves)
        )
        run = _saves.read_state(self.states, rounds, start.run)
        saved = Saved(run, records, kept[-1].seconds)
        return _as_if_on_the_way(saved, eval_every, num_rounds)

    def save(self, saved: Saved) -> None:
        """Keep a run; of its records those since it was kept before."""
        number, records = int(saved.run.rounds), jax.tree.leaves(saved.records)
        states, state = self.states, self.folder / "states" / str(number)
        # What another run is writing: orbax would write over it.
        taken = any(state.parent.glob(f"{number}.*")) or state.exists()
        if taken or not state.parent.exists():
            raise OSError(
                f"{state} cannot be saved, expected one run at a time in this folder: "
                "another one writes to it, or removed it."
            )
        _saves.write_state(states, number, saved.run)
        _whole.sync(*state.rglob("*"), state, state.parent, self.folder)
        files = _saves.sums_of_files(state)
        begin = number - records[0].shape[0]
        part = Part(begin, number, saved.seconds, self.fingerprint, files, records)
        _saves.write_part(self.folder / "rounds", part)

    def _damage(self, parts: dict[int, Part | None]) -> str | None:
        """What is wrong with the last of these saves; None if nothing is.

        A file that cannot be read now, for the network say, is an OSError: no damage.
        """
        end, files = 0, {}
        for number, part in parts.items():
            if part is None:
                return f"rounds/{number:010}-*.npz is not what was written"
            if part.begin != end:
                return f"the rounds from {end + 1} to {part.begin} are missing"
            end, files = number, part.files
        found = _saves.sums_of_files(self.folder / "states" / str(end))
        for name, digest in files.items():
            if found.get(name) != digest:
                what = "not what was written" if name in found else "missing"
                return f"states/{end}/{name} is {what}"
        return None

    def _set_aside(self, number: int) -> None:
        """Move what a save left out of the way."""
        aside, again = self.folder / f"damaged-{number}", 2
        while aside.exists():
            aside, again = self.folder / f"damaged-{number}-{again}", again + 1
        aside.mkdir()
        # The records first: a state without them is what a broken-off save leaves.
        for pattern in (f"rounds/{number:010}-*", f"states/{number}"):
            for path in self.folder.glob(pattern):
                path.rename(aside / path.name)

    def _remove_broken_off(self, numbers: list[int]) -> None:
        """Remove what belongs to no save, these being all that there are."""
        for path in self.folder.glob("states/*.orbax-checkpoint-tmp"):
            shutil.rmtree(path)
        for path in self.folder.glob("rounds/.*.npz"):
            path.unlink()
        for number in {*self.states.all_steps()} - {*numbers}:
            self.states.delete(number)


def _as_if_on_the_way(saved: Saved, eval_every: int, num_rounds: int) -> Saved:
    """A run that goes to num_rounds; where it ended before says nothing any more."""
    run, records, seconds = saved
    numbers = np.arange(1, records.error.size + 1)
    evaluated = _run.evaluates(numbers, eval_every, num_rounds)
    records = _run.unknown_as_nan(records, numbers, eval_every, num_rounds)
    if not evaluated[-1]:  # the end's evaluation, and what came of it
        run = run._replace(outcome=run.outcome.at[...].set(_run.RUNNING))
    return Saved(run, records, seconds)


# The log of a run with checkpoints, which is told of all rounds again


@contextlib.contextmanager
def own_log(path: Path, checkpoints: Path) -> Iterator[logs.Log]:
    """A log as `logs.open_log` makes it; that of the run that goes on is replaced.

    A note in the run's folder of checkpoints, made if need be, says which file that is.
    """
    note = _whole.folder(checkpoints) / ".log"
    again = note.is_file() and path.exists()
    again = again and note.read_text("utf-8", "replace") == _identity(path)
    aside = path.with_name(f".{path.name}.before")
    if again and path.is_file():
        path.replace(aside)
    try:
        with logs.open_log(path, append=again) as log:
            _write_note(note, path)
            yield log
    except (ValueError, OSError):  # a run that is refused gets its old log back
        if again and aside.is_file():
            aside.replace(path)
            _write_note(note, path)
        raise
    finally:
        if again:
            aside.unlink(missing_ok=True)


def _write_note(note: Path, path: Path) -> None:
    with _whole.whole(note) as temporary:
        temporary.write_text(_identity(path), "utf-8")


def _identity(path: Path) -> str:
    """Of this very file: another one may come to stand at the path."""
    return f"{path.stat().st_ino} {path.resolve()}"

"""A run in a folder, from which it goes on after it was killed.

    FOLDER/round-0000000200/    what it did up to round 200, from the folder before
      records.npz               what each of these rounds left behind
      state/                    the run after them
      manifest.json             which run, from which round on, a checksum of each file

A folder is written beside its place and then renamed: whenever a run is killed, it is
there whole or not at all. Nothing is forced onto the disk: a power loss may damage what
was written shortly before it, even both states that are kept. The checksums tell; the
run then starts anew, or is refused if no manifest is left to say whose the folder is.
Damaged ones are renamed, to damaged-round-0000000200 say. Of older ones the records
stay.
"""

import dataclasses
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gdsec_jax import _checks
from gdsec_jax.files import _whole
from gdsec_jax.simulation import _manifest, _orbax, _records, _run
from gdsec_jax.simulation._manifest import RECORDS, STATE

STATES = 2  # that are kept: the newest, and another should it be damaged
_STEP = re.compile(r"round-\d{10}")
_BROKEN_OFF = re.compile(r"\.round-\d{10}")
_DAMAGED = re.compile(r"damaged-round-\d{10}(-\d+)?")


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where a run is kept, so that it goes on from there after it was killed.

    Args:
      path: a folder of this run alone, made if it is not there.
      every: rounds; the run is saved after each multiple, and at its end.

    Raises:
      ValueError: the path is none, or the number of rounds no positive integer.

    Examples:
      >>> import gdsec_jax
      >>> gdsec_jax.Checkpoints("results/digits", every=200)
      Checkpoints(path='results/digits', every=200)
    """

    path: str | os.PathLike
    every: int

    def __post_init__(self):
        if not isinstance(self.path, str | os.PathLike):
            raise ValueError(f"path is {self.path!r}, expected the path of a folder.")
        _checks.integer("every", self.every, 1, 2**31 - 1)


class Saved(NamedTuple):
    """A run as far as it went."""

    run: _run.Run
    records: _records.Record  # of all its rounds, on the host
    seconds: float  # that they took


class Store(NamedTuple):
    """Where a run is kept, and how often it is saved."""

    folder: Path
    every: int  # rounds
    fingerprint: dict[str, str]  # of what is run

    @classmethod
    def at(cls, checkpoints: Checkpoints, fingerprint: dict[str, str]) -> "Store":
        """The store in a folder, made if it is not there; without what was broken off.

        Raises:
          ValueError: it holds another run, or something else.
          OSError: it cannot be made, read or written to.
        """
        folder = checkpoints.path
        if jax.process_count() > 1:
            raise ValueError(
                f"checkpoint is {os.fspath(folder)!r}, expected None: a run of "
                f"{jax.process_count()} processes is not saved."
            )
        every = checkpoints.every
        store = cls(_whole.folder(folder).absolute(), every, fingerprint)
        expected = f"checkpoint is {os.fspath(folder)!r}, expected a"
        for path in sorted(store.folder.iterdir()):
            if not _is_ours(path):
                raise ValueError(f"{expected} folder of its own: {path.name} is in it.")
        manifests = [_manifest.read(path) for path in store._steps()]
        if manifests and not any(manifests):
            raise ValueError(
                f"{expected} new folder or that of this run: no manifest of the one "
                "there can be read."
            )
        for manifest in filter(None, manifests):
            differs = _manifest.differences(manifest, fingerprint)
            if differs:
                raise ValueError(
                    f"{expected} new folder or that of this run: the one there differs "
                    f"in {', '.join(differs)}."
                )
        for path in store._named(_BROKEN_OFF):
            shutil.rmtree(path)
        return store

    def until_save(self, rounds: int) -> int:
        """How many rounds there are from one to the next that is saved."""
        return self.every - rounds % self.every

    def newest(self, start: Saved, eval_every: int, num_rounds: int) -> Saved:
        """The run as it was saved last; as it starts where nothing sound is saved.

        What was saved later, and is damaged, is set aside.

        Args:
          start: the run before its first round, on the devices that it shall be on.
          eval_every: as of `simulate`.
          num_rounds: to which it shall go.

        Raises:
          ValueError: it went further.

        Warns:
          RuntimeWarning: a checkpoint is damaged; the one before is used.
        """
        steps, sound, damaged = self._steps(), [], []
        for path in reversed(steps[-STATES:]):
            before = [step for step in steps if step <= path]
            why = _manifest.damage(before)
            if why is None:
                sound = before
                break
            damaged.append((path, why))
        rounds = _manifest.round_of(sound[-1]) if sound else 0
        for path, why in damaged:
            warnings.warn(
                f"the checkpoint {path} is damaged, {why}: the run goes on from round "
                f"{rounds}.",
                RuntimeWarning,
                stacklevel=5,
            )
        for path in reversed(steps[len(sound) :]):
            path.rename(_free(path.with_name(f"damaged-{path.name}")))
        if not sound:
            return start
        if rounds > num_rounds:
            raise ValueError(
                f"num_rounds is {num_rounds}, expected at least {rounds}, the rounds "
                f"that the checkpoint {self.folder} has."
            )
        parts = [_load_records(path / RECORDS, start.records) for path in sound]
        run = _orbax.load(sound[-1] / STATE, start.run)
        about: Any = _manifest.read(sound[-1])
        saved = Saved(run, _records.joined(parts), about["seconds"])
        return _as_if_on_the_way(saved, eval_every, num_rounds)

    def save(self, saved: Saved) -> None:
        """Keep a run; of its records those since it was kept before.

        Raises:
          OSError: it cannot be written, or another run is saved in the folder.
        """
        path = self.folder / f"round-{int(saved.run.rounds):010}"
        temporary = path.with_name(f".{path.name}")
        try:
            temporary.mkdir()
            self._write(temporary, saved)
            temporary.rename(path)
        except OSError as error:
            taken = isinstance(error, FileExistsError) or path.exists()
            if taken or not temporary.exists():
                raise OSError(
                    f"{path} cannot be saved, expected one run at a time in this "
                    "folder: another one writes to it, or removed it."
                ) from error
            raise
        for old in self._steps()[:-STATES]:
            shutil.rmtree(old / STATE, ignore_errors=True)

    def _write(self, step: Path, saved: Saved) -> None:
        leaves = jax.tree.leaves(saved.records)
        np.savez(step / RECORDS, *leaves)
        _orbax.save(step / STATE, saved.run)
        begin = int(saved.run.rounds) - leaves[0].shape[0]
        about = {"run": self.fingerprint, "begin": begin, "seconds": saved.seconds}
        _manifest.write(step, about)

    def _steps(self) -> list[Path]:
        """The folders, oldest first."""
        return self._named(_STEP)

    def _named(self, pattern: re.Pattern) -> list[Path]:
        return sorted(p for p in self.folder.iterdir() if pattern.fullmatch(p.name))


def _as_if_on_the_way(saved: Saved, eval_every: int, num_rounds: int) -> Saved:
    """A run that goes to num_rounds; where it ended before says nothing any more."""
    run, records, seconds = saved
    numbers = np.arange(1, records.error.size + 1)
    evaluated = _run.evaluates(numbers, eval_every, num_rounds)
    error = np.where(evaluated, records.error, np.full_like(records.error, np.nan))
    if not evaluated[-1]:  # the end's evaluation, and what came of it
        run = run._replace(outcome=run.outcome.at[...].set(_run.RUNNING))
    return Saved(run, records._replace(error=error), seconds)


def _load_records(path: Path, like: _records.Record) -> _records.Record:
    leaves, structure = jax.tree.flatten(like)
    with np.load(path) as file:  # which gives bfloat16, say, as mere bytes
        arrays = [file[f"arr_{i}"].view(x.dtype) for i, x in enumerate(leaves)]
    return structure.unflatten(arrays)


def _is_ours(path: Path) -> bool:
    """Whether a store may be beside it: what one left, or a hidden file."""
    name = path.name
    if _STEP.fullmatch(name) or _BROKEN_OFF.fullmatch(name):
        return _manifest.has_only_ours(path)
    return name.startswith(".") or _DAMAGED.fullmatch(name) is not None


def _free(path: Path) -> Path:
    """The path, with a number if it is taken."""
    free, number = path, 2
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free

"""A run in a folder, from which it goes on after it was killed.

    FOLDER/round-0000000200/    what it did up to round 200, from the folder before
      records.npz               what each of these rounds left behind
      state/                    the run after them
      manifest.json             which run, from which round on, a checksum of each file

A folder is written beside its place and then renamed: it is there whole or not at all.
Should the system itself break down, the checksums tell. Of older ones the records stay.
"""

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gdsec_jax import _checks, _files, _loop, _orbax

STATES = 2  # that are kept: the newest, and another should it be damaged
_MANIFEST, _RECORDS, _STATE = "manifest.json", "records.npz", "state"
_STEP = "round-"


class Saved(NamedTuple):
    """A run as far as it went."""

    run: _loop.Run
    records: _loop.Record  # of all its rounds, on the host
    seconds: float  # that they took


class Store(NamedTuple):
    """Where a run is kept, and how often it is saved."""

    folder: Path
    every: int  # rounds
    fingerprint: dict[str, str]  # of what is run

    @classmethod
    def at(cls, folder: Any, every: int, fingerprint: dict[str, str]) -> "Store":
        """The store in a folder, made if it is not there.

        Raises:
          ValueError: it holds another run, or something else.
          OSError: it cannot be made or written to.
        """
        store = cls(_files.folder(folder).absolute(), every, fingerprint)
        names = f"{_STEP}*", f".{_STEP}*"  # whole, and what was broken off
        ours = {path for name in names for path in store.folder.glob(name)}
        others = sorted(set(store.folder.iterdir()) - ours)
        if others:
            raise ValueError(
                f"checkpoint is {os.fspath(folder)!r}, expected a folder of its own: "
                f"{others[0].name} is in it."
            )
        for path in store._steps():
            differs = _differences(_manifest(path), fingerprint)
            if differs:
                raise ValueError(
                    f"checkpoint is {os.fspath(folder)!r}, expected a new folder or "
                    f"that of this run: the one there differs in {', '.join(differs)}."
                )
        return store

    def until_save(self, rounds: int) -> int:
        """How many rounds there are from one to the next that is saved."""
        return self.every - rounds % self.every

    def newest(self, start: Saved, eval_every: int, num_rounds: int) -> Saved:
        """The run as it was saved last; as it starts where nothing sound is saved.

        What was saved later, and is damaged, is removed.

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
            why = _damage(before)
            if why is None:
                sound = before
                break
            damaged.append((path, why))
        rounds = _round_of(sound[-1]) if sound else 0
        for path, why in damaged:
            warnings.warn(
                f"the checkpoint {path} is damaged, {why}: the run goes on from round "
                f"{rounds}.",
                RuntimeWarning,
                stacklevel=4,
            )
        for path in reversed(steps[len(sound) :]):
            shutil.rmtree(path)
        if not sound:
            return start
        if rounds > num_rounds:
            raise ValueError(
                f"num_rounds is {num_rounds}, expected at least {rounds}, the rounds "
                f"that the checkpoint {self.folder} has."
            )
        parts = [_load_records(path / _RECORDS, start.records) for path in sound]
        run = _orbax.load(sound[-1] / _STATE, start.run)
        about: Any = _manifest(sound[-1])
        saved = Saved(run, _loop.joined(parts), about["seconds"])
        return _as_if_on_the_way(saved, eval_every, num_rounds)

    def save(self, saved: Saved) -> None:
        """Keep a run; of its records those since it was kept before."""
        rounds, leaves = int(saved.run.rounds), jax.tree.leaves(saved.records)
        path = self.folder / f"{_STEP}{rounds:010}"
        temporary = path.with_name(f".{path.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        np.savez(temporary / _RECORDS, *leaves)
        _orbax.save(temporary / _STATE, saved.run)
        sums = {name: _sum(temporary / name) for name in _files_in(temporary)}
        begin = rounds - leaves[0].shape[0]
        about = {"run": self.fingerprint, "begin": begin, "seconds": saved.seconds}
        _write_manifest(temporary, about | {"files": sums})
        temporary.rename(path)
        for old in self._steps()[:-STATES]:
            shutil.rmtree(old / _STATE, ignore_errors=True)

    def _steps(self) -> list[Path]:
        """The folders, oldest first."""
        return sorted(self.folder.glob(f"{_STEP}*"))


def every_of(checkpoint: Any, every: Any) -> int | None:
    """After how many rounds a run is saved; None if it is not.

    Raises:
      ValueError: there is a folder without a number, or the other way round.
    """
    if checkpoint is None and every is None:
        return None
    if not isinstance(checkpoint, str | os.PathLike) or every is None:
        raise ValueError(
            f"checkpoint is {checkpoint!r} and checkpoint_every {every!r}, expected "
            "the path of a folder and a number of rounds, or None of both."
        )
    if jax.process_count() > 1:
        raise ValueError(
            f"checkpoint is {os.fspath(checkpoint)!r}, expected None: a run of "
            f"{jax.process_count()} processes is not saved."
        )
    return _checks.integer("checkpoint_every", every, 1, 2**31 - 1)


def _as_if_on_the_way(saved: Saved, eval_every: int, num_rounds: int) -> Saved:
    """A run that goes to num_rounds; where it ended before says nothing any more."""
    run, records, seconds = saved
    numbers = np.arange(1, records.error.size + 1)
    evaluated = _loop.evaluates(numbers, eval_every, num_rounds)
    error = np.where(evaluated, records.error, np.full_like(records.error, np.nan))
    if not evaluated[-1]:  # the end's evaluation, and what came of it
        run = run._replace(outcome=run.outcome.at[...].set(_loop.RUNNING))
    return Saved(run, records._replace(error=error), seconds)


def _load_records(path: Path, like: _loop.Record) -> _loop.Record:
    leaves, structure = jax.tree.flatten(like)
    with np.load(path) as file:  # which gives bfloat16, say, as mere bytes
        arrays = [file[f"arr_{i}"].view(x.dtype) for i, x in enumerate(leaves)]
    return structure.unflatten(arrays)


def _damage(steps: list[Path]) -> str | None:
    """What is wrong with a run that was saved in these steps; None if nothing is."""
    end = 0
    for path in steps:
        manifest = _manifest(path)
        if manifest is None:
            return f"{path.name}/{_MANIFEST} is missing or not what was written"
        if manifest["begin"] != end:
            return f"the rounds from {end + 1} to {manifest['begin']} are missing"
        end = _round_of(path)
        for name, digest in manifest["files"].items():
            if path != steps[-1] and name != _RECORDS:
                continue
            if not (path / name).is_file():
                return f"{path.name}/{name} is missing"
            if _sum(path / name) != digest:
                return f"{path.name}/{name} is not what was written"
    return None


def _differences(manifest: dict[str, Any] | None, fingerprint) -> list[str]:
    """In what a run differs from that of a manifest; of a damaged one nobody knows."""
    theirs = fingerprint if manifest is None else manifest["run"]
    names = sorted(fingerprint.keys() | theirs.keys())
    return [name for name in names if theirs.get(name) != fingerprint.get(name)]


def _manifest(step: Path) -> dict[str, Any] | None:
    """What was written, if that is still there."""
    try:
        manifest = json.loads((step / _MANIFEST).read_text("utf-8"))
        digest = manifest.pop("sum")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return manifest if digest == _sum_of_json(manifest) else None


def _write_manifest(step: Path, about: dict[str, Any]) -> None:
    text = json.dumps(about | {"sum": _sum_of_json(about)})
    (step / _MANIFEST).write_text(text, "utf-8")


def _sum_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_in(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]


def _round_of(step: Path) -> int:
    return int(step.name.removeprefix(_STEP))

"""Scores of a league that was not finished, so that the next run goes on from there."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gdsec_jax.files import _whole
from gdsec_jax.study._standings import Score
from gdsec_jax.study.config._league import LeagueConfig


class Kept:
    """The scores on one problem, in a file that is written whole after each."""

    def __init__(self, folder: Path, league: LeagueConfig, name: str):
        self.path = folder / f"{name}.json"
        self._league, self._name = league, name
        try:
            self._scores = dict(json.loads(self.path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            self._scores = {}

    def get(self, label: str) -> Score | None:
        """A method's, if it was kept of just these numbers and versions."""
        found = self._scores.get(self._key(label))
        if found is None or ":" in self._league.methods[label].name:
            return None  # a function of the user's own may have changed
        bits, words, ran = found
        return Score(self._name, label, np.array(bits, float), words, ran)

    def put(self, score: Score) -> None:
        """Keep one more."""
        kept = score.bits.tolist(), score.words, score.ran
        self._scores[self._key(score.label)] = kept
        with _whole.whole(self.path) as path:
            path.write_text(json.dumps(self._scores), "utf-8")

    @staticmethod
    def remove(folder: Path, names: Iterable[str]) -> None:
        """Forget the scores on some problems; nothing else in the folder is touched."""
        for name in names:
            (folder / f"{name}.json").unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _key(self, label: str) -> str:
        league, names = self._league, ("gdsec-jax", "jax", "jaxlib")
        said = [importlib.metadata.version(x) for x in names]
        numbers = (league.choosing, league.reporting, league.value_bits)
        said += [repr(numbers), repr(league.grid_of(label))]
        parts = league.problems[self._name], league.methods[label]
        said += [part.model_dump_json() for part in parts]
        return hashlib.sha256("\n".join([label, *said]).encode()).hexdigest()

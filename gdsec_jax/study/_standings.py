"""Who stands where in the league: ranks, ratios, their intervals, and the picture."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from gdsec_jax.study import report
from gdsec_jax.study.config._league import LeagueConfig

RESAMPLES = 1000  # of the bootstrap
CANNOT, NEVER = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


class Score(NamedTuple):
    """What came of a method on a problem."""

    problem: str
    label: str
    bits: np.ndarray  # [R], of the seeds that report; inf where it does not get there
    words: str  # how its setting was chosen, or why it cannot run
    ran: bool


class Table(NamedTuple):
    """What the page shows, of methods in the order of their mean ranks."""

    labels: list[str]
    ratios: np.ndarray  # [methods, problems], of medians; inf, NaN: cannot run
    intervals: np.ndarray  # [methods, problems, 2]
    ranks: np.ndarray  # [methods], mean over the problems
    rank_intervals: np.ndarray  # [methods, 2]


def table_of(league: LeagueConfig, scores: Sequence[Score], seed: int = 0) -> Table:
    """Ranks, ratios and their intervals."""
    labels, names = list(league.methods), list(league.problems)
    at = {(score.problem, score.label): score for score in scores}
    bits = np.array([[at[name, label].bits for name in names] for label in labels])
    ran = np.array([[at[name, label].ran for name in names] for label in labels])
    number = bits.shape[-1]
    rng = np.random.default_rng(seed)
    draws = rng.integers(number, size=(RESAMPLES, number))
    ratios, ranks = ratios_and_ranks(bits)
    several = [ratios_and_ranks(bits[..., draw]) for draw in draws]
    some = np.array([x for x, _ in several]), np.array([x for _, x in several])
    ends = [np.quantile(x, (0.025, 0.975), axis=0, method="nearest") for x in some]
    mean = ranks.mean(1)
    order = np.argsort(mean, kind="stable")
    ratios = np.where(ran, ratios, np.nan)
    means = np.quantile(some[1].mean(2), (0.025, 0.975), axis=0)
    return Table(
        [labels[i] for i in order],
        ratios[order],
        np.moveaxis(ends[0], 0, -1)[order],
        mean[order],
        means.T[order],
    )


def ratios_and_ranks(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of bits [methods, problems, seeds]: medians over the seeds, by the least, ranked.

    Ranks are from 1, the mean of those that are equal.
    """
    median = np.median(bits, axis=-1)
    there = np.isfinite(median)
    least = np.where(there.any(0), median.min(0), 1.0)
    ratios = np.where(there, np.where(there, median, 0) / least, np.inf)
    return ratios, pd.DataFrame(median).rank(method="average").to_numpy()


def section_of(
    league: LeagueConfig, scores: Sequence[Score], command: str, seconds: float
) -> report.Section:
    """The picture, the table, and what is claimed."""
    table, names = table_of(league, scores), list(league.problems)
    rows = [
        {"method": label, "mean rank": _with(rank, ends)}
        | {n: _cell(table, row, c) for c, n in enumerate(names)}
        for row, (label, rank, ends) in enumerate(
            zip(table.labels, table.ranks, table.rank_intervals, strict=True)
        )
    ]
    data = pd.DataFrame(
        {"problem": s.problem, "method": s.label, "seed": seed, "bits": bits}
        for s in scores
        for seed, bits in enumerate(s.bits, league.choosing)
    )
    words = pd.DataFrame(
        {
            "method": s.label,
            "problem": s.problem,
            "its setting, or why it cannot run": s.words
            if s.ran
            else f"{CANNOT} {s.words}",
        }
        for s in sorted(scores, key=lambda s: table.labels.index(s.label))
    )
    return report.Section(
        name="league",
        title=league.title,
        text=f"{len(table.labels)} methods, {len(names)} problems.",
        panels=(functools.partial(_draw_ratios, table, names), _ranks_of(table)),
        data=data,
        command=command,
        table=pd.DataFrame(rows),
        claims=_claims(table),
        caption="Bits to the target as multiples of the fewest; mean ranks.",
        chosen=words,
        config=league.model_dump(mode="json"),
        seconds=seconds,
        tall=max(1.0, len(table.labels) / 14),
    )


def _with(value: float, ends: np.ndarray) -> str:
    return f"{value:.1f} [{ends[0]:.1f}, {ends[1]:.1f}]"


def _cell(table: Table, row: int, column: int) -> str:
    ratio, ends = table.ratios[row, column], table.intervals[row, column]
    if np.isnan(ratio):
        return CANNOT
    if np.isinf(ratio):
        return NEVER
    return f"{ratio:.3g} [{ends[0]:.3g}, {_ends(ends[1])}]"


def _ends(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else NEVER


def _claims(table: Table) -> tuple[report.Claim, ...]:
    best = table.labels[0]
    reached = np.where(np.isfinite(table.ratios), table.ratios, np.inf)
    columns = reached.T[np.isfinite(reached).any(0)]
    firsts = [table.labels[int(np.argmin(column))] for column in columns]
    several = len(set(firsts)) > 1
    made = [
        report.Claim(
            "no method is the best on every problem",
            several if len(firsts) > 1 else None,
            f"the least mean rank has {best}, {table.ranks[0]:.1f}; the fewest bits, "
            f"problem by problem: {', '.join(firsts)}",
        )
    ]
    if {"GD", "GD-SEC"} <= set(table.labels):
        ours, dense = (table.labels.index(x) for x in ("GD-SEC", "GD"))
        apart = table.rank_intervals[ours, 1] < table.rank_intervals[dense, 0]
        made.append(
            report.Claim(
                "GD-SEC ranks before GD, their intervals apart",
                bool(apart),
                f"{_with(table.ranks[ours], table.rank_intervals[ours])} against "
                f"{_with(table.ranks[dense], table.rank_intervals[dense])}; GD-SEC is "
                f"number {ours + 1} of {len(table.labels)}",
            )
        )
    return tuple(made)


def _draw_ratios(table: Table, names: Sequence[str], axes) -> None:
    """Ratios as colours with their numbers; grey where there is none."""
    shown = np.where(np.isfinite(table.ratios), table.ratios, np.nan)
    image = np.ma.masked_invalid(np.log10(shown))
    axes.set_facecolor("0.93")
    axes.imshow(image, cmap="viridis_r", vmin=0, vmax=3, aspect="auto")
    for row, column in np.ndindex(*shown.shape):
        ratio = table.ratios[row, column]
        missing = CANNOT if np.isnan(ratio) else NEVER
        text = (
            f"{ratio:.2g}"
            if np.isfinite(ratio) and ratio < 99.5
            else (f"{ratio:.0f}" if np.isfinite(ratio) else missing)
        )
        dark = np.isfinite(ratio) and np.log10(ratio) > 1.2
        axes.text(
            column, row, text, ha="center", va="center", fontsize=6.5,
            color="white" if dark else "black",
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(len(table.labels)), table.labels, fontsize=7)
    axes.set_title("bits to the target, as a multiple of the fewest", fontsize=8)


def _ranks_of(table: Table):
    def draw(axes) -> None:
        places = np.arange(len(table.labels))
        ends = np.abs(table.rank_intervals - table.ranks[:, None]).T
        axes.errorbar(table.ranks, places, xerr=ends, fmt="o", ms=3, lw=1, color="C0")
        axes.set_yticks(places, table.labels, fontsize=7)
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.set_xlabel("mean rank over the problems, with its interval")
        axes.grid(axis="x", alpha=0.3)

    return draw

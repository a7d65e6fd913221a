"""Errors against rounds, bits or seconds."""

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.plot import _look, _runs
from gdsec_jax.simulation._history import History
from gdsec_jax.wire._formats import WORDS

if TYPE_CHECKING:
    import matplotlib.axes

    from gdsec_jax.plot._runs import Runs

_POINTS = 500  # of a curve that are drawn, at most twice as many
_TOTALS = {"bits": "total_bits", "seconds": "total_time_s"}  # of a sweep


def convergence(
    runs: "Runs",
    *,
    against: Literal["rounds", "bits", "seconds"] = "bits",
    target: float | None = None,
    wire: str | None = None,
    methods: Mapping[str, str] | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """The error of each run, from its start to its last round.

    What lies below the least error that can be told from 0, and 0 and negative errors
    where that is not known, is drawn at it, and a line is; what lies a hundred times
    above the largest initial error is divergence, and beyond the axes. An error that
    goes up to twice its least so far, and down again, is drawn pale, and over it the
    least so far, which is what a target's cost counts. The settings of a sweep are
    shades of its method's colour. Of more than seven curves six are in the legend; the
    others, pale, are counted there.

    Args:
      runs: to be drawn.
      against: what the horizontal axis counts: rounds; bits that all workers together
        have uploaded, without the start, which has none; or the channel's seconds.
      target: an error relative to the first run's initial one, to mark.
      wire: the bit format, in words for the axis, or ""; by default as the runs say.
      methods: by label, a name of `METHODS` or MODULE:FUNCTION, for the look.
      ax: where to draw; by default on new axes.

    Returns:
      The axes.

    Raises:
      ValueError: there are no runs, or no such method, or no seconds.

    Examples:
      >>> import matplotlib; matplotlib.use("agg")  # no window
      >>> import numpy as np, optax
      >>> from gdsec_jax import gd, gdsec, plot, problems, simulate
      >>> problem = problems.ridge(np.eye(4), np.arange(4.0), 2)
      >>> runs = {
      ...     label: simulate(problem, optax.chain(method, optax.sgd(2.0)), 9)
      ...     for label, method in {"GD": gd(2), "GD-SEC": gdsec(2, xi=0.1)}.items()}
      >>> axes = plot.convergence(runs, target=1e-2, wire="run lengths")
      >>> axes.get_xlabel()
      'uploaded bits, all workers (run lengths)'
      >>> axes.get_lines()[1].get_color()  # GD-SEC's blue
      '#0072B2'
    """
    _checks.one_of("against", against, ("rounds", "bits", "seconds"))
    if target is not None:
        _checks.positive("target", target)
    courses = list(_courses(runs, methods, against))
    axes = _look.axes_of(ax)
    named = _look.named([course.line for course in courses])
    for course, line in zip(courses, named, strict=True):
        course.draw(axes, line, start=against != "bits")
    first = courses[0]
    level = None if target is None else target * first.initial
    # The start has no place on a logarithmic axis of bits, but one on the other.
    starts = [course.initial for course in courses if _has_a_place(course.initial)]
    axes.update_datalim([(1, start) for start in starts], updatex=False)
    if against != "bits":  # up to the last round, though its error has no place
        last = max(np.nanmax(np.append(0, course.along)) for course in courses)
        axes.update_datalim([(last, 1)], updatey=False)
    right = against != "bits"
    _errors_upwards(axes, courses, level, right=right)
    axes.set_ylabel(first.error_name)
    if against == "bits":
        if any(np.isfinite(course.along).any() for course in courses):
            axes.set_xscale("log")
        formats = {_wire_of(course.about) for course in courses}
        several = "as each counts them"
        words = formats.pop() if len(formats) == 1 else several
        words = words if wire is None else wire
        given = f" ({words})" if words else ""
        axes.set_xlabel(f"uploaded bits, all workers{given}")
    else:
        axes.set_xlabel(against)
    return _look.finished(axes, len(courses))


class _Course(NamedTuple):
    """The curve of one run."""

    along: np.ndarray  # [J], rounds, bits or seconds; NaN without a place
    errors: np.ndarray  # [J]
    initial: float
    floor: float  # of the errors
    known: bool  # whether less than the floor cannot be told from it
    settles: bool  # whether it did not end above its start
    line: dict[str, Any]  # of matplotlib's plot
    about: Mapping[str, Any]  # the attributes of the run

    @property
    def error_name(self) -> str:
        """What the error is."""
        return str(self.about.get("error_name", "error"))

    @property
    def below(self) -> bool:
        """Whether there are errors that are drawn at the floor."""
        return bool((self.errors < self.floor).any() or self.initial < self.floor)

    def draw(self, axes: Any, line: Mapping[str, Any], *, start: bool) -> None:
        """On the axes, thinned to what the eye can see."""
        along, errors = self.along, self.errors
        if start:
            along, errors = np.append(0, along), np.append(self.initial, errors)
        errors = np.maximum(errors, self.floor)  # NaN stays
        shown = _thinned(along.size)
        if "marker" in line:  # ten of them, however long and noisy the curve is
            every = (shown.size // 20, max(1, shown.size // 10))
            line = {**line, "markevery": every}
        draw = functools.partial(_look.fall, axes) if self.settles else axes.plot
        draw(along[shown], _positive(errors[shown]), **line)


def _courses(
    runs: "Runs", methods: Mapping[str, str] | None, against: str
) -> Iterator[_Course]:
    """What is drawn of each run, and of each setting of a sweep."""
    found = _runs.by_label(runs)
    for label, line in _look.line_styles(_runs.methods_of(found, methods)).items():
        run = found[label]
        if isinstance(run, History):
            total = {"rounds": run.eval_rounds, "bits": run.total_bits}.get(against)
            if total is None and run.time_s is not None:
                total = np.cumsum(run.time_s)[run.eval_rounds - 1]
            course = (run.objective_error, run.initial_error, run.outcome)
            yield _course(total, *course, line, run.attributes)
            continue
        about = _runs.about(run)
        name = _TOTALS.get(against)
        settings = list(_runs.settings_of(run))
        for number, (words, one) in enumerate(settings):
            own = line
            if words:
                share = 0.25 + 0.75 * (number + 1) / len(settings)
                own = _look.shade(line, share) | {"label": f"{label}, {words}"}
            ran = one["eval_round"].values <= one["rounds"].item()
            total = None
            if name is None or name in one:
                total = (one["eval_round"] if name is None else one[name]).values[ran]
            errors = one["objective_error"].values[ran]
            ends = (one["initial_error"].item(), one["outcome"].item())
            yield _course(total, errors, *ends, own, about)


def _course(total, errors, initial, outcome, line, about) -> _Course:
    """A curve; what it tells of the run's end stands in its label."""
    if total is None:
        raise ValueError(
            f"{line['label']} has no seconds, expected a run over a channel with them."
        )
    settles = outcome not in ("diverged", "worsened")
    if not settles:
        line = line | {"label": f"{line['label']} ({outcome})"}
    floor = about.get("resolution", 0.0)
    known = floor > 0
    if not known:  # then a 0 is drawn at what rounding leaves of the start
        eps = np.finfo(np.asarray(errors).dtype).eps
        floor = eps * initial if 0 < initial < np.inf else 0.0
    along, errors = _positive(np.asarray(total, float)), np.asarray(errors)
    return _Course(along, errors, initial, floor, known, settles, line, about)


def _errors_upwards(
    axes: Any, courses: list[_Course], level: float | None, *, right: bool
) -> None:
    """A logarithmic axis of errors, with what divergence and rounding leave of it."""
    drawn = any(
        np.isfinite(line.get_ydata(orig=True)).any() for line in axes.get_lines()
    )
    if drawn:  # a logarithmic axis without a positive value is an error
        axes.set_yscale("log")
    if level is not None:
        _look.level(axes, level, "target", right=right)
    ceiling = 100 * max(course.initial for course in courses)
    if drawn and 0 < ceiling < axes.get_ylim()[1]:  # the rest is divergence
        axes.set_ylim(top=ceiling)
    floors = [(course.floor, course.known) for course in courses if course.below]
    if floors:
        floor, known = max(floors)
        words = "less is not known" if known else "0 or less"
        _look.level(axes, floor, words, right=right, linestyle=":")


def _wire_of(about: Mapping[str, Any]) -> str:
    """The bit format in words, if the run says it."""
    formats: Any = about.get("wire")
    config = about.get("config")
    if formats is None and isinstance(config, dict):  # of a sweep
        formats = [{"name": config.get("wire")} | config]
    if not isinstance(formats, list) or not all(isinstance(x, dict) for x in formats):
        return ""
    names = {WORDS.get(str(x.get("name")), str(x.get("name"))) for x in formats}
    bits = {x["value_bits"] for x in formats if x.get("value_bits")}
    return ", ".join([*sorted(names), *(f"{x}-bit values" for x in sorted(bits))])


def _thinned(number: int) -> np.ndarray:
    """Points to draw of so many: at equal distances for rounds, ratios for bits."""
    even = np.linspace(0, number - 1, min(number, _POINTS))
    ratios = np.geomspace(1, number, min(number, _POINTS)) - 1 if number else even
    return np.unique(np.append(even, ratios).round().astype(int))


def _has_a_place(value: float) -> bool:
    return bool(0 < value < 1e100)


def _positive(values: np.ndarray) -> np.ndarray:
    """The values a logarithmic axis has a place for; rounding makes some negative."""
    # Nor is there a place for what overflows the axis: 1e100 says "diverged" as well.
    return np.where((values > 0) & (values < 1e100), values, np.nan)

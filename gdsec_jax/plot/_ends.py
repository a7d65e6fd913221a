"""The names of curves, at their ends."""

from typing import Any

import numpy as np

_LETTER, _LINE = 5.6, 11.0  # points, of a text of 9.5


def name_ends(axes: Any, *, first: bool = False) -> None:
    """Each labelled line's name at its end, in its colour, rather than in a legend.

    Or at its first point. Of the places beside an end the one is taken that covers the
    least of curves and of names; a thin line leads to one that is far.
    """
    lines = [x for x in axes.get_lines() if not str(x.get_label()).startswith("_")]
    points = axes.figure.dpi / 72
    frame = axes.get_window_extent().get_points() / points
    if not first:
        _make_room(axes, lines, frame, points)
    axes.get_xlim()  # places depend on both limits
    axes.get_ylim()
    seen = [(line, _within(line, axes, frame, points)) for line in lines]
    seen = [(line, course) for line, course in seen if course.size]
    curves = [_dense(course) for _, course in seen]
    # Corners of other words, and of the names so far.
    taken = [text.get_window_extent().get_points() / points for text in axes.texts]
    place, boxes = 0 if first else -1, {}
    order = sorted(range(len(seen)), key=lambda number: seen[number][1][place, 1])
    for number in order * 3:  # the lowest first; then each knows where all others are
        line, course = seen[number]
        others = [box for other, box in boxes.items() if other != number]
        words = len(str(line.get_label()))
        given = (course[place], words, np.vstack(curves), taken + others, frame)
        boxes[number] = _best(*given, left=first)
    for number, box in boxes.items():
        line, course = seen[number]
        _write(axes, line, course[place], box, points)


def _write(axes: Any, line: Any, end: np.ndarray, box: np.ndarray, points: float):
    """A line's name at the lower corner of a box, led to if that is far."""
    import matplotlib.colors

    near = np.clip(end, *box)
    lead = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0}
    lead |= {"relpos": tuple((near - box[0]) / (box[1] - box[0]))}
    # Letters in a pale colour are hard to read.
    color = 0.75 * np.asarray(matplotlib.colors.to_rgb(line.get_color()))
    axes.annotate(
        str(line.get_label()),
        axes.transData.inverted().transform(end * points),
        xytext=box[0] - end,
        textcoords="offset points",
        fontsize=9.5,
        color=color,
        arrowprops=lead if np.hypot(*(near - end)) > 8 else None,
        annotation_clip=False,
        zorder=7,
    )
    line.set_label(f"_{line.get_label()}")


def _make_room(axes: Any, lines: Any, frame: np.ndarray, points: float) -> None:
    """On the right for names, not too long, of curves that end there; and below."""
    axes.get_ylim()
    left, _ = axes.get_xlim()
    width = frame[1, 0] - frame[0, 0]
    short = [x for x in lines if _LETTER * len(str(x.get_label())) < 0.3 * width]
    needed = 0.0
    for line in short:
        course = _within(line, axes, frame, points)
        if course.size:
            far = course[-1, 0] + 8 + _LETTER * len(str(line.get_label()))
            needed = max(needed, far - frame[1, 0])
    corner = [(frame[0, 0] + width * width / (width - needed)) * points, 0]
    corner[1] = (frame[0, 1] - _LINE) * points
    right, low = axes.transData.inverted().transform(corner)
    axes.set(xlim=(left, right), ylim=(low, axes.get_ylim()[1]))


def _within(line: Any, axes: Any, frame: np.ndarray, points: float) -> np.ndarray:
    """[J, 2], the points of a line that can be seen, in points of the page."""
    data = np.asarray(line.get_xydata(), float)
    place = axes.transData.transform(data[np.isfinite(data).all(1)]) / points
    return place[((place >= frame[0] - 1) & (place <= frame[1] + 1)).all(1)]


def _dense(course: np.ndarray) -> np.ndarray:
    """With points between, so that a name cannot stand on the line unseen."""
    along = np.append(0, np.cumsum(np.hypot(*np.diff(course, axis=0).T)))
    steps = np.arange(0, along[-1] + 1, 3.0)
    return np.stack([np.interp(steps, along, axis) for axis in course.T], 1)


def _best(end, letters, curves, taken, frame, *, left) -> np.ndarray:
    """The corners [2, 2] of the name at an end."""
    size = np.array([_LETTER * letters, _LINE])
    beside = (-5.0 - size[0],) if left else (5.0, -size[0] / 2, -5.0 - size[0])
    up = 6.0 * np.arange(-14, 15) - _LINE / 2
    low = end + np.stack(np.meshgrid(beside, up), -1).reshape(-1, 2)  # [C, 2]
    high = low + size

    def within(lower, upper):  # [C, N] of N boxes or points
        apart = (lower >= high[:, None] + 1) | (upper <= low[:, None] - 1)
        return ~apart.any(2)

    hidden = within(curves, curves).sum(1)
    others = np.reshape(taken, (-1, 2, 2))
    met = within(others[:, 0] + 1, others[:, 1] - 1).sum(1)
    outside = np.maximum(frame[0] - low, 0) + np.maximum(high - frame[1], 0)
    distance = np.hypot(*(np.clip(end, low, high) - end).T)
    best = (300 * met + 12 * hidden + 40 * outside.sum(1) + 1.5 * distance).argmin()
    return np.stack([low[best], high[best]])

"""Argument checks that name the argument, its value and what was expected."""

import math
import operator
from typing import Any


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int of at least ``low`` and at most ``high``."""
    bounds = f"at least {low}" if high is None else f"from {low} to {high}"
    message = f"{name} is {value!r}, expected an integer {bounds}"
    try:
        result = operator.index(value)
    except TypeError as error:
        raise ValueError(message) from error
    if result < low or (high is not None and result > high):
        raise ValueError(message)
    return result


def positive(name: str, value: Any) -> float:
    """Return ``value`` as a finite float above zero."""
    message = f"{name} is {value!r}, expected a finite number above 0"
    try:
        result = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(message) from error
    if not (math.isfinite(result) and result > 0):
        raise ValueError(message)
    return result


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a ``value`` that is not among ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")

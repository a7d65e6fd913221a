"""What is wrong with a config, in a sentence."""

import reprlib
from collections.abc import Callable, Collection
from typing import Any

import pydantic

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200
_short.maxlist = _short.maxdict = 20


def sentence(
    error: pydantic.ValidationError, fields: Callable[[tuple], Collection[str]]
) -> str:
    """The first fault of a config in one sentence: the field, its value, what to do.

    Args:
      error: of the validation.
      fields: from an unknown field's location to those that stand there.
    """
    fault = error.errors()[0]
    parts = [str(part) for part in fault["loc"] if not _of_a_union(part)]
    where = ".".join(parts)
    message = fault["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input should be ")
    if fault["type"] == "extra_forbidden":
        return (
            f"{where} is an unknown field, expected one of "
            f"{', '.join(fields(fault['loc']))}."
        )
    if fault["type"] == "missing":
        return f"{where} is missing."
    if fault["type"] == "value_error":
        between = " is" if message[0].isdigit() or message[0] == "-" else ":"
        return f"{where}{between} {message}." if where else f"{message}."
    if fault["type"].startswith("model") and is_range(fault["loc"][-1]):
        message = "a list of values, or a table of start, stop, num and scale"
    elif fault["type"].startswith(("model", "dict")):
        message = "a table of fields"
    return f"{where} is {shown(fault['input'])}, expected {message}."


def shown(value: Any) -> str:
    """A value, or the beginning and the end of what would be pages."""
    try:
        return _short.repr(value)
    except ValueError:  # Python prints no integer of thousands of digits
        return "an integer of thousands of digits"


def _of_a_union(part: str | int) -> bool:
    """Whether a part of a location is no field, but one of the types it may have."""
    types = ("int", "float", "constrained-float")
    kinds = ("tuple[", "function-before[")
    return part in types or str(part).startswith(kinds) or is_range(part)


def is_range(part: str | int) -> bool:
    """Whether a part of a location is the type `Range`."""
    return str(part).endswith("Range]")  # no label has a bracket

"""What is wrong with a config, in a sentence."""

import contextlib
import reprlib
from collections.abc import Iterator
from typing import Any

import pydantic

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200
_short.maxlist = _short.maxdict = 20


def sentence(error: pydantic.ValidationError) -> str:
    """The first fault of a config in one sentence: the field, its value, what to do."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"] if not _of_a_union(part))
    message = fault["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input should be ")
    if fault["type"] == "missing":
        return f"{where} is missing."
    if fault["type"] == "value_error":  # a sentence already, or from the value on
        between = " is" if message[0] in "-'" or message[0].isdigit() else ":"
        return f"{where}{between} {message}." if where else f"{message}."
    if fault["type"].startswith("model") and _is_range(fault["loc"][-1]):
        message = "a list of values, or a table of start, stop, num and scale"
    elif fault["type"].startswith(("model", "dict")):
        message = "a table of fields"
    return f"{where} is {shown(fault['input'])}, expected {message}."


@contextlib.contextmanager
def of_method(label: str) -> Iterator[None]:
    """What is wrong within is said of the method of this label."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"methods.{label}: {error}") from error


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
    return part in types or str(part).startswith(kinds) or _is_range(part)


def _is_range(part: str | int) -> bool:
    """Whether a part of a location is the type `Range`."""
    return str(part).endswith("Range]")  # no label has a bracket

"""Keywords of `simulate` and `sweep` that have a new spelling, for a release more."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from gdsec_jax import _checks
from gdsec_jax.uplink import Uplink

_UPLINK = ("participation", "absent", "grant", "channel")
_Function = TypeVar("_Function", bound=Callable)


def with_old_spellings(function: _Function) -> _Function:
    """The function, which takes the keywords of before too, and warns of them."""

    @functools.wraps(function)
    def call(*arguments, **options):
        _uplink(options)
        return function(*arguments, **options)

    return call  # pyright: ignore


def _merged(options: dict[str, Any], name: str, old: tuple[str, ...]) -> dict[str, Any]:
    """The old keywords that are given, taken out of the options, with a warning.

    Raises:
      ValueError: the new one is given beside them.
    """
    given = {word: options.pop(word) for word in old if word in options}
    if given and name in options:
        raise ValueError(
            f"{next(iter(given))} is given beside {name}, expected {name} alone."
        )
    return given


def _uplink(options: dict[str, Any]) -> None:
    given = _merged(options, "uplink", _UPLINK)
    if given:
        words = ", ".join(f"{name}=..." for name in given)
        _checks.deprecated(words, f"uplink=Uplink({words})", stacklevel=4)
        options["uplink"] = Uplink(**given)

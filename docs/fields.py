"""The tables of docs/config.md, made of the schema: python docs/fields.py writes them.

A test holds them equal to it.
"""

import inspect
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from gdsec_jax.algorithms import METHODS
from gdsec_jax.study import config
from gdsec_jax.study.config import _search
from gdsec_jax.study.config._method import model_of

PAGE = Path(__file__).parent / "config.md"
_TABLE = re.compile(r"(<!-- fields: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
_NONE = "\N{EN DASH}"
_NOT_HERE = (
    "problem",
    "methods",
    "channel",
    "grid",
    "search",
)  # but in tables of their own
_OF_FIGURES = ("letter", "text", "by_name", "real")


def written(page: str) -> str:
    """The page with its tables as the schema has them now."""
    tables = _tables()
    return _TABLE.sub(lambda found: found[1] + tables[found[2]] + found[3], page)


def _tables() -> dict[str, str]:
    own = {method: model_of(method).model_fields for method in METHODS}
    # Methods whose workers train have a server of their own.
    with_server = (set(own[name]) for name in METHODS if not METHODS[name].trains)
    common = set.intersection(*with_server)
    every = config.MethodConfig.model_fields
    servers = {name: own["gd"][name] for name in own["gd"] if name in common - {*every}}
    return {
        "run": _table(config.RunConfig.model_fields, _NOT_HERE + _OF_FIGURES),
        "problem": _table(config.ProblemConfig.model_fields, ("read", "grid")),
        "method": _table(every, ("grid", "channel")),
        "server": _table(servers),
        "own": _of_each_method(own, common),
        "channel": _table(config.ChannelConfig.model_fields),
        "search": _table(_search.SearchConfig.model_fields),
    }


def _table(fields: Mapping[str, Any], without: Collection[str] = ()) -> str:
    rows = ["| field | default | what it is |", "|---|---|---|"]
    for name, info in fields.items():
        if name in without:
            continue
        given = not info.is_required() and info.default not in (None, "", {})
        default = f"`{_toml(info.default)}`" if given else _NONE
        rows.append(f"| `{name}` | {default} | {_words(info)} |")
    return "\n".join(rows)


def _of_each_method(own: Mapping[str, Any], common: Collection[str]) -> str:
    rows = ["| `name` | fields, with their defaults |", "|---|---|"]
    for method, fields in own.items():
        taken = inspect.signature(METHODS[method].factory).parameters
        said = []
        for name in fields:
            default = taken[name].default if name in taken else None
            given = isinstance(default, bool | int | float | str)
            if name not in common:
                said.append(f"`{name} = {_toml(default)}`" if given else f"`{name}`")
        rows.append(f"| `{method}` | {', '.join(said) or _NONE} |")
    return "\n".join(rows)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _words(info: Any) -> str:
    kinds = (info.annotation, *get_args(info.annotation))
    literals = [kind for kind in kinds if get_origin(kind) is Literal]
    choices = ", ".join(f'`"{x}"`' for kind in literals for x in get_args(kind))
    text = " ".join((info.description or "").split())
    return f"{text} {choices}".strip().replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")

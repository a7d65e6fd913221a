"""What tyro makes of the arguments, or a sentence on what is wrong with them."""

import contextlib
import functools
import io
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from gdsec_jax import _checks

_KINDS = {"INT": "an integer", "FLOAT": "a number", "STR": "a word", "PATH": "a path"}


def later(function: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """A command whose arguments are read first, and which is called after that."""

    @functools.wraps(function)
    def bound(*arguments, **options):
        return functools.partial(function, *arguments, **options)

    return bound


def read(parse: Callable[..., Any], prog: str, arguments: Sequence[str]) -> Any:
    """What `parse`, tyro's, makes of the arguments; a ValueError if it refuses them."""
    with contextlib.redirect_stderr(io.StringIO()):  # where it draws boxes
        try:
            return parse(prog=prog, args=arguments)
        except SystemExit as error:
            if error.code != 2:  # of --help
                raise
    raise ValueError(_sentence(parse, prog, arguments))


def _sentence(parse: Callable[..., Any], prog: str, arguments: Sequence[str]) -> str:
    rows = _rows(parse, prog, arguments, width=10_000)
    box = " ".join(rows[1:]).partition("───")[0].strip()  # up to a first rule
    if found := re.match(r"Missing from (.+?): (\S+) (.+?)\.?( \(required\)|\. )", box):
        return f"{found[2]} is missing: {found[3]}; {found[1]} --help says more."
    command, rest = [], list(arguments)
    commands, options = _listed(parse, prog, command)
    while rest and rest[0] in commands:
        command.append(rest.pop(0))
        commands, options = _listed(parse, prog, command)
    lists = f"{' '.join([prog, *command])} --help lists them."
    if commands and not (rest and rest[0].startswith("-")):
        if not rest:
            return f"no command is given, expected one of {', '.join(commands)}."
        near = _near(rest[0], [*commands, "--version"])
        return f"unknown command {rest[0]}{near} {lists}"
    for word in rest:
        name = _spelt(word)
        if re.match(r"--?[a-zA-Z]", word) and _kind_of(name, options) is None:
            known = [re.split(r",| (?=[A-Z{[])", x)[0] for x in options]
            return f"unknown option {name}{_near(name, known)} {lists}"
    if found := re.search(r"(?:argument '|parsing )(--.+?)(?:'|: )", box):
        name = found[1]
        values = [
            repr(word.partition("=")[2] if "=" in word else rest[at])
            for at, word in enumerate(rest, 1)
            if _spelt(word) == _spelt(name) and ("=" in word or at < len(rest))
        ]
        given = values[-1] if values else "given without a value"
        choices = re.search(r"Expected one of \((.+?),?\)", box)
        kind = f"{{{choices[1]}}}" if choices else _kind_of(_spelt(name), options)
        words = re.findall(r"'([^']+)'", choices[1]) if choices else []
        between = _checks.expected(given.strip("'"), words)
        return f"{name} is {given}{between} {_words_of(kind or '')}."
    if found := re.match(r"Unrecognized options: (.+)", box):
        return (
            f"unknown argument {found[1]}; {lists.replace('lists them', 'says more')}"
        )
    return box


def _near(name: str, known: Sequence[str]) -> str:
    near = _checks.nearest(name, known)
    return f", did you mean {near}?" if near else ";"


def _spelt(word: str) -> str:
    """An option as tyro compares it."""
    return word.partition("=")[0].replace("_", "-")


def _kind_of(name: str, options: Sequence[str]) -> str | None:
    """Of an option's value, in tyro's letters; None if there is no such option."""
    for option in options:
        if re.match(rf"{re.escape(name)}(?![^ ,])", option.replace("_", "-")):
            return option[len(name) :].strip(" ,")
    return None


def _words_of(kind: str) -> str:
    words = re.sub(r"['{} ]", "", kind).replace(",", "|").split("|")
    *first, last = [_KINDS.get(x, x) for x in words if x != "None"]
    return f"{', '.join(first)} or {last}" if first else last


def _listed(
    parse: Callable[..., Any], prog: str, command: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The commands, and the options, on a command's page of help."""
    rows = _rows(parse, prog, [*command, "--help"], width=120)  # in one column
    first = [re.split(r"\s{2,}", row)[0] for row in rows]
    commands = [x[2:] for x in first if x.startswith("• ") and ":" not in x]
    return commands, [x for x in first if x.startswith("--")]


def _rows(parse: Any, prog: str, arguments: Sequence[str], width: int) -> list[str]:
    """The lines that tyro prints, without their frames."""
    before = os.environ.get("COLUMNS")
    text = io.TextIOWrapper(io.BytesIO(), "utf-8")  # whose frames are always the same
    out, err = contextlib.redirect_stdout(text), contextlib.redirect_stderr(text)
    try:
        os.environ["COLUMNS"] = str(width)
        with out, err, contextlib.suppress(SystemExit):
            parse(prog=prog, args=arguments)
    finally:
        del os.environ["COLUMNS"]
        os.environ.update({} if before is None else {"COLUMNS": before})
    text.seek(0)
    bare = re.sub(r"\x1b\[[\d;]*m|^│ | │$", "", text.read(), flags=re.MULTILINE)
    return [line.strip() for line in bare.splitlines()]

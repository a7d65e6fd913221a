"""Spellings that go after a release: the options that became one server."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from optax.experimental import aggregating

from gdsec_jax import _checks
from gdsec_jax.server._server import (
    Server,
    as_server,
    behind,
    late,
    robust,
    running,
    sparse,
)

_Factory = TypeVar("_Factory", bound=Callable[..., aggregating.Aggregator])
_MAKERS = {"aggregation": robust, "capacity": sparse, "max_delay": late}
_FIELDS = {
    "summand": "prepare",
    "max_norm_ratio": "max_norm_ratio",
    "participation": "asks",
}
_SAID = {  # what each of them is now
    "aggregation": "server.robust({})",
    "capacity": "server.sparse({})",
    "max_delay": "server.late({})",
    "summand": "server.Server(prepare={})",
    "participation": "server.Server(asks={})",
    "max_norm_ratio": "server.total(max_norm_ratio={})",
    "server": "server.{}()",
}
_WORDS = {"workers": Server, "running": running}


def old_options(factory: _Factory) -> _Factory:
    """Let a factory of algorithms take the options that its `server` has replaced."""

    @functools.wraps(factory)
    def made(*args, server=None, **options) -> aggregating.Aggregator:
        old = {n: options.pop(n) for n in (*_MAKERS, *_FIELDS) if n in options}
        old = {name: value for name, value in old.items() if value is not None}
        if isinstance(server, str):
            old["server"] = server
        if old:
            server = _server_of(server, old)
            said = {name: _said(value) for name, value in old.items()}
            ours = [_SAID[name].format(value) for name, value in said.items()]
            _checks.deprecated(
                ", ".join(f"{name}={value}" for name, value in said.items()),
                f"server=gdsec_jax.{' and '.join(ours)}".replace("workers", "total"),
            )
        return factory(*args, server=server, **options)

    return made  # pyright: ignore


def _said(value: Any) -> str:
    """A number or a word as it is, a function by its name."""
    return str(getattr(value, "__name__", value))


def _server_of(server: Any, old: dict[str, Any]) -> Server:
    """The server that the old options meant."""
    if isinstance(server, Server):
        raise ValueError(
            f"{next(iter(old))} is given beside a server, expected it inside of that."
        )
    ways = [name for name in (*_MAKERS, "summand") if name in old]
    if ways == ["aggregation", "summand"]:  # of what is known of each gradient
        ways = ["aggregation"]
    if len(ways) > 1:
        raise ValueError(f"{ways[0]} is given beside {ways[1]}, expected one of them.")
    if isinstance(server, str) and server in _WORDS:
        if server == "running" and "aggregation" in old:
            raise ValueError(
                "server is 'running', expected 'workers' beside an aggregation, which "
                "looks at what the server knows of each worker."
            )
        server = _WORDS[server]()
    result = as_server(server)
    for name, make in _MAKERS.items():
        if name in old:
            made = make(old[name])
            result = made._replace(step=behind(made.step, result.step))
    fields = {new: old[name] for name, new in _FIELDS.items() if name in old}
    return as_server(result._replace(**fields))  # which checks them

"""Spellings that go after a release: the options that became one server."""

import functools
from typing import Any

from optax.experimental import aggregating

from gdsec_jax import _checks
from gdsec_jax.server._server import (
    Server,
    as_server,
    late,
    robust,
    running,
    sparse,
    total,
)

_OLD = ("summand", "aggregation", "capacity", "max_delay", "max_norm_ratio")
_OLD += ("participation",)


def old_options(factory):
    """Let a factory of algorithms take the options that its `server` has replaced."""

    @functools.wraps(factory)
    def made(*args, **options) -> aggregating.Aggregator:
        old = {name: options.pop(name) for name in _OLD if name in options}
        old = {name: value for name, value in old.items() if value is not None}
        word = options.get("server")
        if old or isinstance(word, str):
            options["server"] = _server_of(word, **old)
            words = [f"{name}={value!r}" for name, value in old.items()]
            if isinstance(word, str):
                words.append(f"server={word!r}")
            _checks.deprecated(
                ", ".join(words),
                "one of gdsec_jax.server: total(), running(), sparse(capacity), "
                "late(max_delay) or robust(rule), with its max_norm_ratio and asks",
            )
        return factory(*args, **options)

    return made


def _server_of(
    server: Any,
    summand=None,
    aggregation=None,
    capacity: int | None = None,
    max_delay: int | None = None,
    max_norm_ratio=None,
    participation=None,
) -> Server:
    """The server that the old options meant.

    Raises:
      ValueError: two of them exclude each other.
    """
    made = {
        "aggregation": aggregation is not None and robust(aggregation),
        "capacity": capacity is not None and sparse(capacity),
        "max_delay": max_delay is not None and late(max_delay),
    }
    given = [name for name, value in made.items() if value]
    if len(given) > 1 or (given and summand is not None):
        both = [*given, "summand"][:2]
        raise ValueError(f"{both[0]} is given beside {both[1]}, expected one of them.")
    if isinstance(server, str):
        _checks.one_of("server", server, ("workers", "running"))
    if server == "running" and aggregation is not None:
        raise ValueError(
            "server is 'running', expected 'workers' beside an aggregation, which "
            "looks at what the server knows of each worker."
        )
    if given:
        result = made[given[0]]
    elif server == "running":
        result = running()
    else:
        result = as_server(None if server == "workers" else server)
    if not isinstance(server, str | None) and given:
        from gdsec_jax.worker import chain

        result = result._replace(step=chain(result.step, as_server(server).step))
    if summand is not None:
        result = result._replace(prepare=summand)
    total(max_norm_ratio=max_norm_ratio)  # checks it
    return result._replace(max_norm_ratio=max_norm_ratio, asks=participation)

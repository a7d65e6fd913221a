"""Flower, which is imported when it is used."""

from typing import Any, NamedTuple


class Flower(NamedTuple):
    """What is used of it."""

    ClientApp: Any
    ConfigRecord: Any
    Array: Any
    ArrayRecord: Any
    MetricRecord: Any
    RecordDict: Any
    Message: Any
    Strategy: Any


def flwr() -> Flower:
    """Flower's classes.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        from flwr.app import (  # pyright: ignore[reportMissingImports]
            Array,
            ArrayRecord,
            ConfigRecord,
            Message,
            MetricRecord,
            RecordDict,
        )
        from flwr.clientapp import ClientApp  # pyright: ignore[reportMissingImports]
        from flwr.serverapp import strategy  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "flwr":
            raise
        raise ModuleNotFoundError(
            "Flower is not installed, expected flwr: pip install 'gdsec-jax[flower]'.",
            name="flwr",
        ) from error
    return Flower(
        ClientApp, ConfigRecord, Array, ArrayRecord, MetricRecord, RecordDict,
        Message, strategy.Strategy,
    )  # fmt: skip


def record_of(data: bytes) -> Any:
    """A record of one buffer: every further object would be a request of its own."""
    return flwr().ConfigRecord({"bytes": data})

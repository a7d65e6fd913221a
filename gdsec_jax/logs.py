"""Logs of runs while they run: CSV, JSON lines, TensorBoard."""

from gdsec_jax.files.logs import Log, csv, json_lines, open_log, tensorboard

__all__ = [
    "Log",
    "csv",
    "json_lines",
    "open_log",
    "tensorboard",
]

"""Logs of runs while they run: CSV, JSON lines, TensorBoard."""

from gdsec_jax.files.logs import Log as Log
from gdsec_jax.files.logs import csv as csv
from gdsec_jax.files.logs import json_lines as json_lines
from gdsec_jax.files.logs import open_log as open_log
from gdsec_jax.files.logs import tensorboard as tensorboard

__all__ = [
    "Log",
    "csv",
    "json_lines",
    "open_log",
    "tensorboard",
]

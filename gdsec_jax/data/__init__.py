"""Data sets: readers, named sets, generators, and splits over workers."""

from gdsec_jax.data._dataset import Dataset
from gdsec_jax.data._load import Entry, available, fetch, load
from gdsec_jax.data._read import read, read_idx, read_libsvm
from gdsec_jax.data._splits import Shards, SparseRows, split, spread, stack
from gdsec_jax.data._synthetic import (
    NUM_CHARACTERS,
    characters,
    heterogeneous,
    sparse_binary,
)

__all__ = [
    "NUM_CHARACTERS",
    "Dataset",
    "Entry",
    "Shards",
    "SparseRows",
    "available",
    "characters",
    "fetch",
    "heterogeneous",
    "load",
    "read",
    "read_idx",
    "read_libsvm",
    "sparse_binary",
    "split",
    "spread",
    "stack",
]

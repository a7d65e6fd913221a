"""Data sets: readers, named sets, generators, and splits over workers."""

from gdsec_jax.data._arrays import read_idx, read_npz
from gdsec_jax.data._csv import read_csv
from gdsec_jax.data._dataset import Dataset
from gdsec_jax.data._libsvm import read_libsvm, write_libsvm
from gdsec_jax.data._load import Entry, available, fetch, load
from gdsec_jax.data._read import read
from gdsec_jax.data._scaling import scaled
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
    "read_csv",
    "read_idx",
    "read_libsvm",
    "read_npz",
    "scaled",
    "sparse_binary",
    "split",
    "spread",
    "stack",
    "write_libsvm",
]

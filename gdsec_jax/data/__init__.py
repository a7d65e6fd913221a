"""Data sets: readers, named sets, generators, and splits over workers."""

from gdsec_jax.data._dataset import Dataset as Dataset
from gdsec_jax.data._load import Entry as Entry
from gdsec_jax.data._load import available as available
from gdsec_jax.data._load import fetch as fetch
from gdsec_jax.data._load import load as load
from gdsec_jax.data._read import read as read
from gdsec_jax.data._read import read_idx as read_idx
from gdsec_jax.data._read import read_libsvm as read_libsvm
from gdsec_jax.data._splits import Shards as Shards
from gdsec_jax.data._splits import SparseRows as SparseRows
from gdsec_jax.data._splits import split as split
from gdsec_jax.data._splits import spread as spread
from gdsec_jax.data._splits import stack as stack
from gdsec_jax.data._synthetic import NUM_CHARACTERS as NUM_CHARACTERS
from gdsec_jax.data._synthetic import characters as characters
from gdsec_jax.data._synthetic import heterogeneous as heterogeneous
from gdsec_jax.data._synthetic import sparse_binary as sparse_binary

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

"""NetCDF files that end in a checksum of all that stands before it.

HDF5 ignores what follows its own end, so that other programs read such files too. Yet
of a damaged file its reader makes whatever error it likes, or hangs: it is handed none.
That is no proof against a file that somebody made to harm.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from gdsec_jax.files import _whole

if TYPE_CHECKING:
    import xarray as xr

_MARK = b"gdsec_jax sha256"
_CHUNK = 2**20


def write(dataset: "xr.Dataset", path: Path) -> None:
    """Write a dataset, whole or not at all."""
    with _whole.whole(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf")
        seal = _seal(temporary, temporary.stat().st_size)
        with temporary.open("ab") as file:
            file.write(seal)


def read(path: Path) -> "xr.Dataset":
    """The dataset that `write` wrote; a ValueError if it is not as it was written."""
    import xarray as xr

    size = path.stat().st_size - len(_MARK) - hashlib.sha256().digest_size
    with path.open("rb") as file:
        file.seek(max(size, 0))
        seal = file.read()
    if seal != _seal(path, size):
        raise ValueError("it does not end in a checksum of what stands before it")
    return xr.load_dataset(path, engine="h5netcdf")


def _seal(path: Path, size: int) -> bytes:
    """What follows the first bytes of a file, so many."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, size, _CHUNK):
            digest.update(file.read(min(_CHUNK, size - start)))
    return _MARK + digest.digest()

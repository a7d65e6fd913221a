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
_LENGTH = len(_MARK) + hashlib.sha256().digest_size
_CHUNK = 2**20


def write(dataset: "xr.Dataset", path: Path) -> None:
    """Write a dataset, whole or not at all, and over no file of anybody else's."""
    replaceable(path)
    with _whole.whole(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf")
        seal = _seal(temporary, temporary.stat().st_size)
        with temporary.open("ab") as file:
            file.write(seal)


def replaceable(path: Path) -> None:
    """A FileExistsError if `write` would replace what it has not written."""
    if path.is_file() and path.stat().st_size and (why := stranger(path)):
        raise FileExistsError(
            f"{path} is there already, and {why}: expected a new file, or one to "
            "replace that gdsec_jax has written."
        )


def read(path: Path) -> "xr.Dataset":
    """The dataset that `write` wrote; a ValueError if it is not as it was written."""
    import xarray as xr

    size = path.stat().st_size - _LENGTH
    with path.open("rb") as file:
        file.seek(max(size, 0))
        seal = file.read()
    if seal == _seal(path, size):
        return xr.load_dataset(path, engine="h5netcdf")
    damaged = "it is damaged, its end is not the checksum of what stands before it"
    raise ValueError(stranger(path) or damaged)


def stranger(path: Path) -> str | None:
    """Why a file is none of ours, in words; None of one that `write` wrote.

    That may be damaged since: it has our mark at its end, or has lost its end.
    """
    content = path.read_bytes()
    if content[-_LENGTH:].startswith(_MARK):
        return None
    if not content.startswith(b"\x89HDF"):
        return "it is no NetCDF file of gdsec_jax"
    # Where HDF5 keeps its own end, by the version of its first block.
    at = {0: 40, 1: 44}.get(int.from_bytes(content[8:9], "little"), 28)
    end = int.from_bytes(content[at : at + 8], "little")
    rest = content[end : end + len(_MARK)]
    if end > len(content) or (rest and _MARK.startswith(rest)):
        return None
    if b"initial_error" in content:
        return "another program has written it again, without the checksum of ours"
    return "gdsec_jax has not written it"


def _seal(path: Path, size: int) -> bytes:
    """What follows the first bytes of a file, so many."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, size, _CHUNK):
            digest.update(file.read(min(_CHUNK, size - start)))
    return _MARK + digest.digest()

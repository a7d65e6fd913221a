"""Public code of other people's, from checkouts that the environment names.

GDSEC_DEMO is one of github.com/bloc97/DeMo, GDSEC_TEMPLAR one of
github.com/tplr-ai/templar, whose workers send as SparseLoCo does; GDSEC_3PC one of
github.com/IgorSokoloff/3pc_experiments_source_code, GDSEC_DASHA one of
github.com/mysteryresearcher/dasha, GDSEC_PROXSKIP one of github.com/Glebzok/ProxSkip,
GDSEC_FEDNL one of github.com/Rustem-Islamov/FedNL-Public, which has ADIANA, too.
"""

import ast
import importlib.util
import json
import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any

from gdsec_experiments.benchmarks import Skipped
from gdsec_experiments.neighbours._matrix import SHAPE

DATES = "0e48145 (December 2024) and c2397ac (September 2025)"  # commits of both
DEMO, TEMPLAR = "GDSEC_DEMO", "GDSEC_TEMPLAR"
THREE_POINTS, DASHA = "GDSEC_3PC", "GDSEC_DASHA"
PROXSKIP, FEDNL = "GDSEC_PROXSKIP", "GDSEC_FEDNL"
KEPT, BINS, SIDE = 64, 4, 64  # templar's hparams.json: of 64 x 64 entries, 4 values


def module(variable: str, path: str) -> Any:
    """A file of a checkout, imported alone.

    Raises:
      Skipped: the environment names no checkout.
    """
    file = _file(variable, path)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def parts(variable: str, path: str, *names: str, **given: Any) -> Any:
    """Functions and classes of a file alone, undecorated, without what it imports.

    Of scripts, and where a library is not there that they do not need. They see each
    other, and what is given.

    Raises:
      Skipped: the environment names no checkout.
      ValueError: the file has no such name.
    """
    file = _file(variable, path)
    kinds = ast.FunctionDef | ast.ClassDef
    with warnings.catch_warnings():  # of older spellings, which are not ours
        warnings.simplefilter("ignore")
        body = ast.parse(file.read_text("utf-8")).body
    nodes: list[Any] = [x for x in body if isinstance(x, kinds) and x.name in names]
    missing = set(names) - {x.name for x in nodes}
    if missing:
        raise ValueError(f"{file} has no {', '.join(sorted(missing))}.")
    for node in nodes:
        node.decorator_list = []
    module = ast.Module(body=[*nodes], type_ignores=[])
    exec(compile(module, str(file), "exec"), given)
    return types.SimpleNamespace(**{name: given[name] for name in names})


def _file(variable: str, path: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        raise Skipped(f"{variable} names no checkout")
    file = Path(folder, path)
    if not file.exists():
        raise Skipped(f"{variable} is {folder}, where {path} is not")
    return file


def sparse_loco() -> int:
    """Bytes of the tensors that templar makes of a matrix."""
    import torch

    # It imports its package for the log alone, and that all of a chain of blocks.
    sys.modules.setdefault("tplr", types.ModuleType("tplr"))
    compress = module(TEMPLAR, "src/tplr/compress.py")
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.randn(SHAPE))
    model = torch.nn.ParameterDict({"matrix": matrix})
    chunks = compress.ChunkingTransformer(model, SIDE).encode(matrix.data)
    compressor = compress.TopKCompressor(
        use_quantization=True, quantization_bins=BINS, quantization_range=6
    )
    places, codes, _, _, (shift, _, _, values, _) = compressor.compress(chunks, KEPT)
    sent = (places, codes, shift, values)
    return sum(x.numel() * x.element_size() for x in sent)


if __name__ == "__main__":
    print(json.dumps(sparse_loco()))

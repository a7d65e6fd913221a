"""Methods under noise: loss against bits at several epsilons, an audit, an attack."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax
import pandas as pd
import xarray as xr

import gdsec_jax
from gdsec_experiments import _canaries, _inversion
from gdsec_experiments import _parts as parts
from gdsec_jax import Static, privacy, problems, wire, worker
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, figures, report, tuning

EPSILONS = (1.0, 3.0, 8.0)
PUBLIC = np.inf  # no noise, and no clip
CHOOSING, REPORTING = range(4), range(10, 20)
CLOSE = 0.02  # of SGD's last loss
DENSE = "SGD"


class Row(NamedTuple):
    """A method with what it has to choose from."""

    name: str  # of the package's function, for its colour
    make: Callable[..., Any]  # from M, one setting, and the common options
    settings: Any
    steps: tuple[float, ...]  # times 1/L


def _sec(xi, floor=0.0, **more):
    def make(num_workers, value, **options):
        own = {"xi": value} if xi is None else {"xi": xi}
        if options.get("noise") is not None and floor is None:
            own["floor"] = value
        elif floor is None:  # without noise there is nothing to stand above
            own["xi"] = 100.0 * value
        return gdsec_jax.gdsec(num_workers, **own, **more, **options)

    return make


def _qsec(num_workers, value, *, noise=None, **options):
    own = {"xi": 100.0 * value} if noise is None else {"xi": 0.0, "floor": value}
    return gdsec_jax.qsgdsec(num_workers, **own, levels=7, noise=noise, **options)


def _diana(num_workers, value, **options):
    return gdsec_jax.diana(num_workers, worker.qsgd(int(value)), **options)


def _top(method, **more):
    def make(num_workers, value, **options):
        return getattr(gdsec_jax, method)(num_workers, k=int(value), **more, **options)

    return make


STEPS = (1.0, 2.0, 4.0, 8.0)
ROWS = {
    DENSE: Row("gd", lambda m, value, **o: gdsec_jax.gd(m, **o), (0,), STEPS),
    "SGD-SEC": Row("gdsoec", _sec(None), (100.0, 300.0, 1000.0, 3000.0), STEPS),
    "SGD-SEC, floor": Row("gdsec", _sec(0.0, None), (1.0, 2.0, 4.0, 8.0), STEPS),
    "QSGD-SEC, floor": Row("qsgdsec", _qsec, (1.0, 2.0, 4.0), STEPS),
    "top-j": Row("top_j", _top("top_j"), Static([8, 16, 32, 64]), STEPS),
    "EF21-SGDM": Row(
        "ef21_sgdm", _top("ef21_sgdm", eta=0.1), Static([8, 16, 32, 64]), STEPS
    ),
    "DIANA": Row("diana", _diana, Static([2, 4, 8]), STEPS),
}

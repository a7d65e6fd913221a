"""What the settings of a sweep had cost when they got somewhere."""

import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


def resolution_of(swept: "xr.Dataset") -> float:
    """The least error of a sweep that can be told from 0."""
    about = json.loads(swept.attrs.get("attributes", "{}"))
    return about.get("resolution", -np.inf)


def cost_to(swept: "xr.Dataset", error: "float | xr.DataArray") -> "xr.Dataset":
    """What each setting had cost when its error was first at most this; inf if never.

    As in `History.cost_to`, never too if the error cannot be told from 0. The
    dataset has the grid's dimensions, and rounds, bits, broadcast_bits and
    gradient_evaluations in float64.
    """
    import xarray as xr

    known = error >= resolution_of(swept)
    reached = (swept["objective_error"] <= error) & known
    first = reached.argmax("eval_round")
    names = ("bits", "broadcast_bits", "gradient_evaluations")
    totals = {name: swept[f"total_{name}"] for name in names}
    spent = xr.Dataset({"rounds": swept["eval_round"].astype(float)} | totals)
    ever = reached.any("eval_round")
    return spent.isel(eval_round=first).where(ever, np.inf).drop_vars("eval_round")

"""Pictures of runs and of sweeps, on axes of your own or on new ones.

Each function takes a `History`, the dataset of a `sweep`, or a dict of them by label,
and returns matplotlib's axes, on which more can be drawn. A method has the same colour
everywhere, GD-SEC its blue. Which method a label stands for the run itself says, if
`gdsec run` made it; else the label does, if it begins with a method's name or title;
else it is one of your own. `methods` can say otherwise.
"""

from gdsec_jax.plot._curves import convergence
from gdsec_jax.plot._look import line_style, line_styles
from gdsec_jax.plot._targets import costs, frontier, heatmap

__all__ = [
    "convergence",
    "costs",
    "frontier",
    "heatmap",
    "line_style",
    "line_styles",
]

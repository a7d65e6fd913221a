"""Results for people: tables, figures and a page of both."""

from gdsec_jax.plot import line_style, line_styles
from gdsec_jax.study.report._compose import (
    Claim,
    Panel,
    Section,
    compose,
    draw,
    save,
    save_figure,
)
from gdsec_jax.study.report._figures import (
    MEASURED,
    convergence_panels,
    costs,
    format_table,
    settings_table,
    target_table,
)
from gdsec_jax.study.report._page import page

__all__ = [
    "MEASURED",
    "Claim",
    "Panel",
    "Section",
    "compose",
    "convergence_panels",
    "costs",
    "draw",
    "format_table",
    "line_style",
    "line_styles",
    "page",
    "save",
    "save_figure",
    "settings_table",
    "target_table",
]

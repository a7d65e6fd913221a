"""Results for people: tables, figures and a page of both."""

from gdsec_jax.study.report._compose import Claim as Claim
from gdsec_jax.study.report._compose import Panel as Panel
from gdsec_jax.study.report._compose import Section as Section
from gdsec_jax.study.report._compose import compose as compose
from gdsec_jax.study.report._compose import save as save
from gdsec_jax.study.report._compose import save_figure as save_figure
from gdsec_jax.study.report._figures import convergence as convergence
from gdsec_jax.study.report._figures import convergence_panels as convergence_panels
from gdsec_jax.study.report._figures import costs as costs
from gdsec_jax.study.report._figures import format_table as format_table
from gdsec_jax.study.report._figures import line_style as line_style
from gdsec_jax.study.report._figures import line_styles as line_styles
from gdsec_jax.study.report._figures import target_table as target_table
from gdsec_jax.study.report._page import page as page

__all__ = [
    "Claim",
    "Panel",
    "Section",
    "compose",
    "convergence",
    "convergence_panels",
    "costs",
    "format_table",
    "line_style",
    "line_styles",
    "page",
    "save",
    "save_figure",
    "target_table",
]

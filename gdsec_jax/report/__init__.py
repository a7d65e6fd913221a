"""Results for people: tables and figures."""

from gdsec_jax.report._figures import convergence as convergence
from gdsec_jax.report._figures import save_figure as save_figure
from gdsec_jax.report._tables import format_table as format_table
from gdsec_jax.report._tables import target_table as target_table
from gdsec_jax.report._tables import tuned_table as tuned_table

__all__ = [
    "convergence",
    "format_table",
    "save_figure",
    "target_table",
    "tuned_table",
]

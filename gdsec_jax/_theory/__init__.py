"""What the methods' papers recommend for a problem."""

from gdsec_jax._theory._recommended import theory as theory
from gdsec_jax._theory._steps import Theory as Theory

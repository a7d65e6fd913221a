"""One row a method: what commands, configs, figures and tests go through."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

from optax.experimental import aggregating

from gdsec_jax.algorithms import (
    _censored,
    _error_feedback,
    _memoryless,
    _variance_reduced,
    _whole_vectors,
)


class Method(NamedTuple):
    """A method of the field.

    Examples:
      >>> import gdsec_jax
      >>> method = gdsec_jax.METHODS["ef21"]
      >>> method.title, method.paper
      ('EF21', 'https://arxiv.org/abs/2106.05203')
      >>> method.line
      'The k largest entries of what the server does not know yet.'
    """

    name: str  # of its function
    title: str  # of the field, for tables and legends
    paper: str  # where it was published
    factory: Callable[..., aggregating.Aggregator]

    @property
    def line(self) -> str:
        """What it is, in a line: the first of its docstring, without the name."""
        first = (inspect.getdoc(self.factory) or "").splitlines()[0]
        name, _, text = first.partition(": ")
        text = text or name
        return text[0].upper() + text[1:]


def _table(*rows: tuple[Callable, str, str]) -> dict[str, Method]:
    return {
        factory.__name__: Method(factory.__name__, title, paper, factory)
        for factory, title, paper in rows
    }


_GDSEC = "https://doi.org/10.1109/JSTSP.2022.3162989"
_LAG = "https://arxiv.org/abs/1805.09965"
_TOP_K = "https://arxiv.org/abs/1809.07599"
_POWER_SGD = "https://arxiv.org/abs/1905.13727"

METHODS = _table(
    (_whole_vectors.gd, "GD", "Cauchy, 1847"),
    (_censored.gdsec, "GD-SEC, SGD-SEC", _GDSEC),
    (_censored.gdsoec, "GD-SOEC", _GDSEC),
    (_censored.qsgdsec, "QSGD-SEC", _GDSEC),
    (_whole_vectors.cgd, "CGD", _GDSEC),
    (_whole_vectors.lag, "LAG-WK", _LAG),
    (_whole_vectors.laq, "LAQ", "https://arxiv.org/abs/1909.07588"),
    (_whole_vectors.iag, "NoUnif-IAG", _LAG),
    (_error_feedback.top_j, "top-j", _TOP_K),
    (_error_feedback.sign_ef, "EF-sign", "https://arxiv.org/abs/1901.09847"),
    (_error_feedback.low_rank, "low rank", _POWER_SGD),
    (_error_feedback.power_sgd, "PowerSGD", _POWER_SGD),
    (_memoryless.qgd, "QGD, QSGD", "https://arxiv.org/abs/1610.02132"),
    (_memoryless.natural, "natural", "https://arxiv.org/abs/1905.10988"),
    (_memoryless.terngrad, "TernGrad", "https://arxiv.org/abs/1705.07878"),
    (_memoryless.rand_k, "rand-k", _TOP_K),
    (_variance_reduced.ef21, "EF21", "https://arxiv.org/abs/2106.05203"),
    (_variance_reduced.ef21_sgdm, "EF21-SGDM", "https://arxiv.org/abs/2305.15155"),
    (_variance_reduced.diana, "DIANA", "https://arxiv.org/abs/1901.09269"),
    (_variance_reduced.marina, "MARINA", "https://arxiv.org/abs/2102.07845"),
    (_variance_reduced.clag, "CLAG", "https://arxiv.org/abs/2202.00998"),
)

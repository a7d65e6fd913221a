"""One row a method, and which of their arguments cannot be traced."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from optax.experimental import aggregating

from gdsec_jax import worker
from gdsec_jax.algorithms import (
    _after_ef21,
    _both_ways,
    _censored,
    _error_feedback,
    _local,
    _local_compressed,
    _memoryless,
    _own_points,
    _pseudo_gradients,
    _signs,
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
    formula: str = "usual"  # where it is from, as `gdsec methods` says
    trains: bool = False  # its workers do: it takes `WorkerLosses`, not gradients

    @property
    def line(self) -> str:
        """What it is, in a line: the first of its docstring, without the name."""
        first = (inspect.getdoc(self.factory) or "").splitlines()[0]
        name, _, text = first.partition(": ")
        text = text or name
        return text[0].upper() + text[1:]


def _table(*rows: tuple[Any, ...]) -> dict[str, Method]:
    def one(factory, title, paper, formula="usual"):
        trains = inspect.getmodule(factory) in _TRAIN
        return Method(factory.__name__, title, paper, factory, formula, trains)

    return {row[0].__name__: one(*row) for row in rows}


_CODE, _MEMORY, _SAID = "public code", "memory", "descriptions"
# Whose workers ask for gradients at points of their own.
_TRAIN = (_local, _local_compressed, _own_points, _pseudo_gradients)
_GDSEC = "https://doi.org/10.1109/JSTSP.2022.3162989"
_LAG = "https://arxiv.org/abs/1805.09965"
_TOP_K = "https://arxiv.org/abs/1809.07599"
_POWER_SGD = "https://arxiv.org/abs/1905.13727"
_THREE_POINTS = "https://arxiv.org/abs/2202.00998"
_STREAMING = "https://arxiv.org/abs/2501.18512"
_SPARSE_LOCO = "https://arxiv.org/abs/2508.15706"
_SGDM = "https://arxiv.org/abs/2305.15155"

METHODS = _table(
    (_whole_vectors.gd, "GD", "Cauchy, 1847"),
    (_censored.gdsec, "GD-SEC, SGD-SEC", _GDSEC, _SAID),
    (_censored.gdsoec, "GD-SOEC", _GDSEC, _SAID),
    (_censored.qsgdsec, "QSGD-SEC", _GDSEC, _SAID),
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
    (_variance_reduced.ef21_sgdm, "EF21-SGDM", _SGDM, _CODE),
    (_variance_reduced.diana, "DIANA", "https://arxiv.org/abs/1901.09269"),
    (_variance_reduced.marina, "MARINA", "https://arxiv.org/abs/2102.07845"),
    (_variance_reduced.clag, "CLAG", _THREE_POINTS, _CODE),
    (_after_ef21.ef_bv, "EF-BV", "https://arxiv.org/abs/2205.04180", _CODE),
    (_after_ef21.threepc, "3PC", _THREE_POINTS, _CODE),
    (_after_ef21.econtrol, "EControl", "https://arxiv.org/abs/2311.05645", _CODE),
    (_after_ef21.dasha, "DASHA", "https://openreview.net/forum?id=VA1YpcNr7ul", _CODE),
    (_local.scaffold, "SCAFFOLD", "https://arxiv.org/abs/1910.06378", _CODE),
    (_local.scaffnew, "Scaffnew", "https://arxiv.org/abs/2202.09357", _CODE),
    (_local_compressed.tamuna, "TAMUNA", "https://arxiv.org/abs/2302.09832", _CODE),
    (_local_compressed.locodl, "LoCoDL", "https://arxiv.org/abs/2403.04348", _MEMORY),
    (_own_points.dasha_pp, "DASHA-PP", "https://arxiv.org/abs/2205.15580", _CODE),
    (_own_points.marina_p, "MARINA-P", "https://arxiv.org/abs/2402.06412", _MEMORY),
    (_own_points.adiana, "ADIANA", "https://arxiv.org/abs/2002.11364", _CODE),
    (_signs.sign_majority, "signSGD", "https://arxiv.org/abs/1810.05291", _MEMORY),
    (_signs.demo, "DeMo", "https://arxiv.org/abs/2411.19870", _CODE),
    (_both_ways.ef21_p, "EF21-P", "https://arxiv.org/abs/2209.15218", _MEMORY),
    (_both_ways.ef21_muon, "EF21-Muon", "https://arxiv.org/abs/2510.00643", _MEMORY),
    (_both_ways.one_bit_adam, "1-bit Adam", "https://arxiv.org/abs/2102.02888", _CODE),
    (_pseudo_gradients.diloco, "DiLoCo", "https://arxiv.org/abs/2311.08105", _CODE),
    (_pseudo_gradients.streaming_diloco, "Streaming DiLoCo", _STREAMING, _CODE),
    (_pseudo_gradients.sparse_loco, "SparseLoCo", _SPARSE_LOCO, _CODE),
)


class StaticArgs(frozenset[str]):
    """Names of arguments that cannot be traced: shapes, counts, words and functions.

    optax.inject_hyperparams accepts no names that a function does not have, so hand it
    those `of` the function. Whatever else it takes may change from round to round.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> static_args = gdsec_jax.STATIC_ARGS.of(gdsec_jax.gdsec)
      >>> make = optax.inject_hyperparams(gdsec_jax.gdsec, static_args=static_args)
      >>> params = jnp.zeros(2)
      >>> state = make(num_workers=5, xi=4.0, wire="rle").init(params)
      >>> sorted(state.hyperparams)
      ['beta', 'xi']
      >>> state.hyperparams["beta"] = jnp.array(0.1)  # from now on
    """

    def of(self, function: Callable) -> tuple[str, ...]:
        """Those that a method or a piece has, in their order."""
        names = inspect.signature(function).parameters
        return tuple(name for name in names if name in self)


def _of_all() -> StaticArgs:
    """By their types: an argument that may be traced is declared without one."""
    factories = [method.factory for method in METHODS.values()]
    pieces = [getattr(worker, name) for name in worker.__all__]
    return StaticArgs(
        name
        for function in (*factories, *filter(inspect.isfunction, pieces))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.annotation not in (inspect.Parameter.empty, Any)
    )


STATIC_ARGS = _of_all()

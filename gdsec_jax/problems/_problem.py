"""A problem: a sum of the workers' objectives, with what is known of its optimum."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gdsec_jax import _checks, _trees

PyTree = Any
ErrorMeasure = Literal["objective", "gradient"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "worker_data",
        "init_params",
        "optimum",
        "solution",
        "smoothness",
        "worker_smoothness",
        "coordinate_smoothness",
        "regularization",
    ],
    meta_fields=[
        "name",
        "num_workers",
        "worker_loss",
        "worker_objective",
        "measure",
        "draw",
    ],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    r"""Minimise :math:`f(\theta) = \sum_m f_m(\theta)`, f_m known to worker m alone.

    A pytree: its arrays may be traced, its functions are static. What is not known of a
    problem is None.

    Attributes:
      name: what it is called in figures and files.
      num_workers: M.
      worker_loss: (params, data of worker m) to f_m; its gradient is the worker's.
      worker_objective: the same with what the gradient leaves to a proximal step.
      measure: what `error` is: "objective", f - f*, or "gradient", the squared norm of
        the gradient of f, for problems that are not convex.
      worker_data: whatever f_m needs; every leaf [M, ...].
      init_params: theta^1.
      optimum: f*; where it is None, `error` is f itself.
      solution: a minimiser.
      smoothness: L of f's smooth part; the step 1/L makes gradient descent converge.
      worker_smoothness: [M], L_m of each f_m.
      coordinate_smoothness: L^i of f along each coordinate, like the parameters.
      regularization: lambda.
      draw: (key, data of worker m) to the data of its gradient in one round; of
        `minibatch`. None for all of them.
    """

    name: str
    num_workers: int
    worker_loss: Callable[[PyTree, PyTree], jax.Array]
    worker_objective: Callable[[PyTree, PyTree], jax.Array]
    measure: ErrorMeasure
    worker_data: PyTree
    init_params: PyTree
    optimum: Any = None
    solution: PyTree = None
    smoothness: Any = None
    worker_smoothness: Any = None
    coordinate_smoothness: PyTree = None
    regularization: Any = None
    draw: Callable[[jax.Array, PyTree], PyTree] | None = None

    def gradients(self, params: PyTree, key: jax.Array | None = None) -> PyTree:
        """Each worker's gradient of f_m, leaves [M, *param]; with a key, a draw."""
        worker_data = self.worker_data
        if self.draw is not None and key is not None:
            own_key = jax.vmap(jax.random.fold_in, (None, 0))
            keys = own_key(_trees.as_key(key), jnp.arange(self.num_workers))
            worker_data = jax.vmap(self.draw)(keys, worker_data)
        return jax.vmap(jax.grad(self.worker_loss), (None, 0))(params, worker_data)

    def objective(self, params: PyTree) -> jax.Array:
        """f(params)."""
        values = jax.vmap(self.worker_objective, (None, 0))(params, self.worker_data)
        return values.sum()

    def error(self, params: PyTree) -> jax.Array:
        """How far params are from done, by `measure`; 0 at a solution."""
        if self.measure == "gradient":
            gradient = jax.tree.map(lambda g: g.sum(0), self.gradients(params))
            return sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))  # pyright: ignore
        value = self.objective(params)
        return value if self.optimum is None else value - self.optimum

    @property
    def resolution(self) -> float:
        """The least error that rounding can tell from none: of f - f*, eps |f*|."""
        if self.measure == "gradient":
            return 0.0
        if self.optimum is None:
            return -math.inf
        dtypes = map(jnp.result_type, jax.tree.leaves(self.init_params))
        eps = max(float(jnp.finfo(dtype).eps) for dtype in dtypes)
        return eps * abs(float(self.optimum))

    @property
    def error_name(self) -> str:
        """What `error` is, for the axis of a figure."""
        if self.measure == "gradient":
            return "squared gradient norm"
        return "objective" if self.optimum is None else "objective error"


def from_loss(
    worker_loss: Callable[[PyTree, PyTree], jax.Array],
    worker_data: PyTree,
    init_params: PyTree,
    *,
    name: str = "custom",
    optimum: float | None = None,
    smoothness: float | None = None,
    measure: ErrorMeasure = "objective",
) -> Problem:
    r"""A problem of one's own: any differentiable loss, over data split by worker.

    Args:
      worker_loss: (params, data of one worker) to f_m, a summand of
        :math:`f = \sum_m f_m`: divide by the number of all samples, not the worker's.
        A function that is defined once is compiled once.
      worker_data: a tree of arrays, each with a leading axis of workers; see
        `data.stack` for uneven splits.
      init_params: theta^1, any tree of floating-point arrays.
      name: for figures and files.
      optimum: f*, if known; the error is f - f*, else f.
      smoothness: L, if known.
      measure: "objective", or "gradient" for the squared norm of the gradient of f.

    Returns:
      A `Problem`.

    Raises:
      ValueError: worker_data has no leaf, or its leaves differ in their first axis; a
        parameter is not floating-point; the loss is not a real scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import problems
      >>> def loss(params, points):
      ...     return 0.5 * jnp.sum((params - points) ** 2)
      >>> problem = problems.from_loss(loss, jnp.array([[1.0], [3.0]]), jnp.zeros(1))
      >>> problem.gradients(problem.init_params)
      Array([[-1.],
             [-3.]], dtype=float32)
    """
    _checks.floating(init_params)
    _checks.one_of("measure", measure, ("objective", "gradient"))
    leaves = jax.tree.leaves(worker_data)
    sizes = {jnp.shape(leaf)[:1] for leaf in leaves}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            "worker_data must hold arrays with the same leading axis of workers, got "
            f"the shapes {[jnp.shape(leaf) for leaf in leaves]}."
        )
    problem = Problem(
        name=name,
        num_workers=sizes.pop()[0],
        worker_loss=worker_loss,
        worker_objective=worker_loss,
        measure=measure,
        worker_data=jax.tree.map(jnp.asarray, worker_data),
        init_params=jax.tree.map(jnp.asarray, init_params),
        optimum=optimum,
        smoothness=smoothness,
    )
    one_worker = jax.tree.map(lambda leaf: leaf[0], problem.worker_data)
    value = jax.eval_shape(worker_loss, problem.init_params, one_worker)
    if not (
        isinstance(value, jax.ShapeDtypeStruct)
        and value.shape == ()
        and jnp.issubdtype(value.dtype, jnp.floating)
    ):
        if isinstance(value, jax.ShapeDtypeStruct):
            value = f"{value.dtype}{list(value.shape)}"
        raise ValueError(f"worker_loss must return a real scalar, got {value}.")
    return problem

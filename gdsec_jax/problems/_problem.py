"""A problem: a sum of the workers' objectives, with what is known of its optimum."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _trees, data

if TYPE_CHECKING:
    from gdsec_jax.problems._private import Private

PyTree = Any
ErrorMeasure = Literal["objective", "gradient", "held-out"]
Draw = Callable[[jax.Array, PyTree], PyTree]
MeasureWith = Callable[["Problem", PyTree, int | None], "Measured"]
_STATIC = {"static": True}  # part of a problem's structure, not one of its arrays


class Measured(NamedTuple):
    """What an evaluation of a run records; scalars."""

    error: jax.Array
    metrics: dict[str, jax.Array]  # beside the error, by name


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Problem:
    r"""Minimise :math:`f(\theta) = \sum_m f_m(\theta)`, f_m known to worker m alone.

    A pytree: its arrays may be traced, its functions are static. What is not known of a
    problem is None.

    Attributes:
      name: what it is called in figures and files.
      num_workers: M.
      worker_loss: (params, data of worker m) to f_m; its gradient is the worker's. By
        the data there is no derivative, but an error, where features are sparse or
        ridge regression uses Gram matrices.
      worker_objective: the same with what the gradient leaves to a proximal step.
      measure: what `error` is: "objective", f - f*, or "gradient", the squared norm of
        the gradient of f, for problems that are not convex, or "held-out", the loss on
        data that no worker has.
      worker_data: whatever f_m needs; every leaf [M, ...].
      init_params: theta^1.
      optimum: f*, or the least value that was found; where it is None, `error` is f
        itself.
      optimum_gap: a bound on optimum - f*, computed in float64; None of problems that
        are not convex, or of the user's own.
      rounding: what rounding moves f by at the optimum, as it is computed in a run.
      note: a sentence on an optimum that is not exact, or not attained; else empty.
      solution: a minimiser.
      smoothness: L of f's smooth part; the step 1/L makes gradient descent converge.
      strong_convexity: a mu for which f is mu-strongly convex.
      worker_smoothness: [M], L_m of each f_m.
      coordinate_smoothness: L^i of f along each coordinate, like the parameters.
      regularization: lambda.
      draw: (key, data of worker m) to the data of its gradient in one round; of
        `minibatch`. None for all of them.
      measure_with: (problem, params, worker_batch) to `Measured`, in place of what
        `measure` alone says; of `flax_problem`.
      held_out: data that it needs beside the workers'.
      private: how a sample's gradient is bounded, of `private`; None: it is not.
    """

    name: str = field(metadata=_STATIC)
    num_workers: int = field(metadata=_STATIC)
    worker_loss: Callable[[PyTree, PyTree], jax.Array] = field(metadata=_STATIC)
    worker_objective: Callable[[PyTree, PyTree], jax.Array] = field(metadata=_STATIC)
    measure: ErrorMeasure = field(metadata=_STATIC)
    worker_data: PyTree
    init_params: PyTree
    optimum: Any = None
    optimum_gap: Any = None
    rounding: Any = None
    solution: PyTree = None
    smoothness: Any = None
    strong_convexity: Any = None
    worker_smoothness: Any = None
    coordinate_smoothness: PyTree = None
    regularization: Any = None
    draw: Draw | None = field(default=None, metadata=_STATIC)
    measure_with: "MeasureWith | None" = field(default=None, metadata=_STATIC)
    held_out: PyTree = None
    note: str = field(default="", metadata=_STATIC)
    private: "Private | None" = field(default=None, metadata=_STATIC)

    def __repr__(self) -> str:
        return f"<problem {self.name!r} of {self.num_workers} workers>"

    def gradients(self, params: PyTree, key: jax.Array | None = None) -> PyTree:
        """What the workers send of theta, leaves [M, *param].

        Without a key, the gradient of each f_m. With one, what each worker computes in
        the round of that key: on a draw. `error` measures the sum of the f_m, but for
        networks that normalise by the batch and for held-out data.
        """
        index = jnp.arange(self.num_workers)
        return self.gradients_of(params, key, index, self.worker_data)

    def gradients_of(self, params: PyTree, key, index, worker_data: PyTree) -> PyTree:
        """`gradients` of the workers numbered index, int [G], whose data these are."""
        if key is None:
            return jax.vmap(self._gradient, (None, 0))(params, worker_data)
        keys = None
        if self.draw is not None:
            own_key = jax.vmap(jax.random.fold_in, (None, 0))
            keys = own_key(_trees.as_key(key), index)
        in_a_round = jax.vmap(self._in_a_round, (None, 0, 0))
        return in_a_round(params, keys, worker_data)

    def own_loss(self, params, own_data, key) -> jax.Array:
        """M f_m, a worker's own loss in the mean convention, on a draw of this key."""
        return self.num_workers * self.worker_loss(params, self._drawn(key, own_data))

    def _gradient(self, params, drawn):
        """Of a worker on what it has drawn, its samples clipped where that is said."""
        if self.private is not None:
            return self.private.gradient(self.worker_loss, params, drawn)
        return jax.grad(self.worker_loss)(params, drawn)

    def _in_a_round(self, params, key, own_data):
        return self._gradient(params, self._drawn(key, own_data))

    def _drawn(self, key, own_data):
        """What a worker draws of its data with a key; all of them without a draw."""
        return own_data if self.draw is None else self.draw(key, own_data)

    def objective(self, params: PyTree, worker_batch: int | None = None) -> jax.Array:
        """f(params); computed for `worker_batch` workers at a time, if it is given."""
        return self.over_workers(self.worker_objective, params, worker_batch)

    def error(self, params: PyTree, worker_batch: int | None = None) -> jax.Array:
        """How far params are from done, by `measure`; 0 at a solution."""
        return self.measured(params, worker_batch).error

    def measured(self, params: PyTree, worker_batch: int | None = None) -> Measured:
        """The error, and the problem's metrics if it has any."""
        if self.measure_with is not None:
            return self.measure_with(self, params, worker_batch)
        if self.measure == "gradient":
            gradient = self.over_workers(
                jax.grad(self.worker_loss), params, worker_batch
            )
            leaves = [  # float16 has no place for small squares
                g.astype(_trees.widest(g.dtype, jnp.float32))
                for g in jax.tree.leaves(gradient)
            ]
            square: Any = sum(_trees.dot(g, g) for g in leaves)
            return Measured(square, {})
        value = self.objective(params, worker_batch)
        return Measured(value if self.optimum is None else value - self.optimum, {})

    def over_workers(self, function, params, worker_batch: int | None):
        """The sum of a function of (params, data of worker m) over the workers."""

        def of_some(data):
            values = jax.vmap(function, (None, 0))(params, data)
            return jax.tree.map(lambda x: x.sum(0), values)

        return in_batches(of_some, self.worker_data, worker_batch)

    @property
    def evaluations(self) -> np.ndarray:
        """Gradients of single samples that each worker computes in a round, int64 [M].

        Its samples or its batch, or how many it draws on average. Of worker_data
        without `data.Shards` only the gradient of f_m is known, and counted: 1. For
        problems that are not traced.
        """
        shards = _trees.of_type(self.worker_data, data.Shards)
        samples = np.full(self.num_workers, 0 if shards else 1, np.int64)
        batch_size = getattr(self.draw, "batch_size", None)
        rate = getattr(self.draw, "rate", None)
        for each in shards:
            own = (_values(each.weight) > 0).sum(-1)
            own = own if rate is None else np.rint(rate * own).astype(np.int64)
            samples += own if batch_size is None else batch_size
        return samples

    @property
    def resolution(self) -> float:
        """The least error that can be told from 0.

        In f - inf f rounding leaves eps times the size of inf f, or `rounding`, and
        what is known of inf f leaves `optimum_gap`.
        """
        if self.measure == "gradient":
            return 0.0
        if self.optimum is None:
            return -math.inf
        dtypes = map(jnp.result_type, jax.tree.leaves(self.init_params))
        eps = max(float(jnp.finfo(dtype).eps) for dtype in dtypes)
        known = (self.optimum_gap, self.rounding)
        least = [0.0 if x is None else float(x) for x in known]
        return max(eps * abs(float(self.optimum)), *least)

    @property
    def error_name(self) -> str:
        """What `error` is, for the axis of a figure."""
        if self.measure == "gradient":
            return "squared gradient norm"
        if self.measure == "held-out":
            return "held-out loss"
        return "objective" if self.optimum is None else "objective error"


def check_problem(value: Any) -> None:
    """A ValueError unless it is one."""
    if not isinstance(value, Problem):
        raise ValueError(
            f"problem is {_checks.shown(value)}, expected a Problem, as "
            "problems.ridge(x, y, num_workers) or problems.from_loss(...) returns."
        )


def in_batches(of_some: Callable, tree: PyTree, batch_size: int | None) -> PyTree:
    """The sum of a function of few rows of a tree, at once or a batch at a time."""
    size = len(jax.tree.leaves(tree)[0])
    if batch_size is None or batch_size >= size:
        return of_some(tree)

    def of_rows(start, number):
        cut = jax.lax.dynamic_slice_in_dim
        return of_some(jax.tree.map(lambda x: cut(x, start, number), tree))

    batches, rest = divmod(size, batch_size)
    if rest:
        total = of_rows(size - rest, rest)
    else:
        shapes = jax.eval_shape(lambda: of_rows(0, batch_size))
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(i, total):
        return _trees.add(total, of_rows(i * batch_size, batch_size))

    return jax.lax.fori_loop(0, batches, add, total)


def _values(array) -> np.ndarray:
    """The values of an array, also where other processes hold parts of it."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(array, tiled=True)  # pyright: ignore
    return np.asarray(array)


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
    if not callable(worker_loss):
        raise ValueError(
            f"worker_loss is {_checks.shown(worker_loss)}, expected a function of "
            "params and the data of one worker."
        )
    if not jax.tree.leaves(init_params):
        raise ValueError(
            f"init_params is {init_params!r}, expected at least one array."
        )
    _checks.floating(init_params)
    _checks.one_of("measure", measure, ("objective", "gradient"))
    leaves = jax.tree.leaves(worker_data)
    sizes = {jnp.shape(leaf)[:1] for leaf in leaves}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"worker_data has the shapes {[jnp.shape(leaf) for leaf in leaves]}, "
            "expected arrays with the same leading axis of workers."
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
        raise ValueError(f"worker_loss returns {value}, expected a real scalar.")
    return problem

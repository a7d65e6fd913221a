"""Problems of flax models: minibatches, dropout, batch statistics, held-out data."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from gdsec_jax import _checks
from gdsec_jax.data import Dataset, Shards, stack
from gdsec_jax.data._dataset import real
from gdsec_jax.problems import _network
from gdsec_jax.problems._linear import parts_of
from gdsec_jax.problems._problem import Problem, check_problem, from_loss

if TYPE_CHECKING:
    from flax import nnx

PyTree = Any
_BY_LABEL = ("sorted", "dirichlet")
_SOME = 101  # samples that shapes are tried with: no model's number of outputs


def flax_problem(
    model: "nnx.Module",
    loss: _network.PerSample,
    data: Any,
    num_workers: int,
    batch_size: int | None = None,
    *,
    wrt: Any = None,
    held_out: Any = None,
    metrics: Mapping[str, _network.PerSample] | None = None,
    split: str | Sequence[np.ndarray] = "shuffled",
    seed: int = 0,
    statistics_size: int = 1024,
    eval_batch: int = 256,
    name: str = "flax",
) -> Problem:
    r"""Train a flax.nnx model, the samples shared out among the workers.

    With the model's outputs :math:`h_\theta(x)` and the loss :math:`\ell`,

    .. math:: f(\theta) = \frac1N \sum_{n=1}^N \ell(h_\theta(x_n), y_n)
       = \sum_m f_m(\theta).

    The parameters :math:`\theta` are the model's `nnx.Param`, or what `wrt` lets pass,
    as nested dicts of arrays: a threshold `xi`, or labels of `optax.partition`, can
    follow its layers. Its other variables are constants of the compiled loop, which
    cost no bits, and the model is left as it is: `flax_model` makes one of what a run
    has found. Equal models share a compiled loop.

    In a round worker m draws `batch_size` of its samples, with replacement. Dropout is
    drawn from the key of the round, anew for each worker and layer. Outputs of models
    that compute in bfloat16 are widened to float32 before the loss; parameters and
    gradients keep their own dtype.

    Batch normalisation uses the batch of the worker in a round, and keeps no running
    average: a state that workers do not share. What is evaluated is normalised by the
    statistics of a fixed sample of the training data at the current parameters. So f as
    it is evaluated and the mean of what the workers differentiate differ for such a
    model, as they do for dropout.

    Args:
      model: called with features [n, ...], returns outputs, an array or a tree.
      loss: (outputs, targets) of n samples to [n, ...], their losses, of which those of
        one sample are averaged; `optax.softmax_cross_entropy_with_integer_labels`, say.
      data: a `data.Dataset`, or a pair: features [N, ...] and targets [N, ...], dense.
        For a loss or metric that takes integers alone, as labels, targets that are
        whole numbers in floats become int32.
      num_workers: M.
      batch_size: samples a worker and round; all of its samples by default.
      wrt: a filter of nnx, of the variables that are trained: `nnx.LoRAParam`, or
        `nnx.All(nnx.Param, nnx.PathContains("head"))`; all `nnx.Param` by default.
      held_out: further data of that kind, which no worker has. The error then is the
        loss on them, else that on the training data.
      metrics: by name, like the loss; averaged over the data of the error, and kept in
        `History.metrics`.
      split: which samples a worker has: a word that `data.split` knows, or its result.
        Words that need labels are for targets [N].
      seed: of the shuffled split, and of the sample for the batch statistics.
      statistics_size: the size of that sample, at most N; a pass over it is at once in
        memory.
      eval_batch: samples that are evaluated at a time, of each worker where the error
        is that on the training data.
      name: for figures and files.

    Returns:
      A `Problem`. `simulate` needs a key for it, if it draws batches or dropout. Where
      gradients of all workers at once are too large, or slow, as those of convolutions
      on CPUs can be, its `worker_batch` computes some at a time.

    Raises:
      ValueError: an argument is not as above; a label is missing, or is none of the
        classes that the model has outputs for; the model keeps batch statistics
        elsewhere than in `nnx.BatchNorm`, or normalises by the batch where workers have
        samples in different numbers and no batch_size is given.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> import gdsec_jax
      >>> from gdsec_jax import data, problems
      >>> digits = data.load("digits")
      >>> x, y = digits.features, digits.targets
      >>> model = nnx.Linear(64, 10, rngs=nnx.Rngs(0))
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> problem = problems.flax_problem(
      ...     model, loss, (x[:1500], y[:1500]), num_workers=5, batch_size=32,
      ...     held_out=(x[1500:], y[1500:]),
      ...     metrics={"accuracy": lambda logits, y: logits.argmax(-1) == y})
      >>> optimizer = optax.chain(gdsec_jax.gdsec(5, xi=0.1), optax.adam(0.01))
      >>> history = gdsec_jax.simulate(problem, optimizer, 100, key=0, eval_every=50)
      >>> bool(history.metrics["accuracy"][-1] > 0.8)
      True
      >>> trained = problems.flax_model(problem, history.params)
      >>> trained(jnp.asarray(x[:2])).shape
      (2, 10)

    References:
      Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021,
      https://arxiv.org/abs/2105.07576 (precise statistics)
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        raise ValueError(
            f"model is a {type(model).__name__}, expected a flax.nnx.Module."
        )
    wrt = nnx.Param if wrt is None else wrt
    _check_trained(model, wrt)
    _check_functions(loss, {} if metrics is None else metrics)
    if batch_size is not None:
        batch_size = _checks.integer("batch_size", batch_size, 1)
    _checks.integer("statistics_size", statistics_size, 1)
    _checks.integer("eval_batch", eval_batch, 1)
    features, targets = _samples("data", data)
    labels = targets if targets.ndim == 1 else np.zeros(len(targets))
    if targets.ndim > 1 and isinstance(split, str) and split in _BY_LABEL:
        raise ValueError(
            f"split is {split!r}, expected 'shuffled' or 'contiguous' for targets of "
            f"shape {targets.shape}."
        )
    parts = parts_of(split, labels, num_workers, seed)
    network, params = _network.network_of(model, wrt)
    functions = (("loss", loss), *(metrics or {}).items())
    taken = network, params, functions
    targets = _as_taken("data", features, targets, *taken)
    drawing = None
    if batch_size is not None or network.draws:
        drawing = _network.Draw(batch_size)
    sample = None
    if network.normalises:
        if batch_size is None and len({len(part) for part in parts}) > 1:
            raise ValueError(
                "batch_size is None, expected an int: the model normalises by the "
                "batch, and the workers have samples in different numbers."
            )
        size = min(statistics_size, len(targets))
        drawn = np.random.default_rng(seed).choice(len(targets), size, replace=False)
        sample = jnp.asarray(features[drawn])
    measure = _network.Measure(network, functions, eval_batch)
    shards = stack(features, targets, parts)
    # Of zeros a model may make what is not finite, and 0 NaN is NaN: a worker's own
    # samples, of weight 0, are its padding.
    index = np.stack([np.resize(part, shards.weight.shape[1]) for part in parts])
    shards = shards._replace(features=features[index], targets=targets[index])
    problem = from_loss(_network.WorkerLoss(network, loss), shards, params, name=name)
    held = None
    if held_out is not None:
        x, y = _samples("held_out", held_out)
        y = _as_taken("held_out", x, y, *taken)
        held = jax.tree.map(jnp.asarray, Shards(x, y, np.full(len(y), 1 / len(y))))
    problem = dataclasses.replace(
        problem,
        draw=drawing,
        measure="objective" if held is None else "held-out",
        measure_with=measure,
        held_out=_network.HeldOut(held, sample),
    )
    jax.eval_shape(Problem.measured, problem, params)  # metrics are checked there
    return problem


def flax_model(problem: Problem, params: PyTree) -> "nnx.Module":
    """The model of a `flax_problem` with these parameters, ready for inference.

    It calls dropout no more, and normalises by the statistics of the problem's sample
    of the training data, at these parameters.

    Args:
      problem: of `flax_problem`.
      params: of its model, such as `History.params`.

    Raises:
      ValueError: the problem is none of `flax_problem`, or the parameters are others'.

    Examples:
      >>> import jax, numpy as np, optax
      >>> from flax import nnx
      >>> from gdsec_jax import problems
      >>> x = np.eye(4, dtype=np.float32)
      >>> problem = problems.flax_problem(
      ...     nnx.Linear(4, 1, rngs=nnx.Rngs(0)), optax.squared_error, (x, x[:, :1]), 2)
      >>> zeros = jax.tree.map(np.zeros_like, problem.init_params)
      >>> problems.flax_model(problem, zeros)(x[:2]).tolist()
      [[0.0], [0.0]]
    """
    check_problem(problem)
    measure = problem.measure_with
    if not isinstance(measure, _network.Measure):
        raise ValueError(f"problem {problem.name} is none of problems.flax_problem.")
    _checks.same_shapes("params", params, problem.init_params)
    network = measure.network
    return network.model(params, network.rest_at(params, problem.held_out.sample))


def _check_trained(model: "nnx.Module", wrt: Any) -> None:
    """That the filter lets floating-point variables pass, and some."""
    from flax import nnx

    try:
        trained = nnx.to_flat_state(nnx.state(model, wrt))
    except (TypeError, ValueError) as error:
        raise ValueError(f"wrt is {wrt!r}, expected a filter of nnx.") from error
    name = type(model).__name__
    if not trained:
        kind = "nnx.Param" if wrt is nnx.Param else f"variable that passes wrt, {wrt!r}"
        raise ValueError(f"model {name} has no {kind}.")
    for path, variable in trained:
        kind = type(variable)
        if issubclass(kind, nnx.BatchStat) or not jnp.issubdtype(
            variable.get_value().dtype, jnp.floating
        ):
            raise ValueError(
                f"wrt lets the {kind.__name__} {'.'.join(map(str, path))} pass, "
                "expected floating-point parameters."
            )


def _samples(name: str, given: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets, in equal numbers."""
    known = name
    if isinstance(given, Dataset):
        known = f"{name} {given.name!r}"
        given = given.features, given.targets
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ValueError(
            f"{name} is a {type(given).__name__}, expected a data.Dataset, or a pair "
            "of arrays: features and targets."
        )
    if scipy.sparse.issparse(given[0]):
        raise ValueError(
            f"{known} has sparse features, expected dense ones: features.toarray()."
        )
    features = real(f"{known}: features", given[0])
    targets = real(f"{known}: targets", given[1])
    if features.shape[:1] != targets.shape[:1] or not features.shape[:1]:
        raise ValueError(
            f"{name} has features of shape {features.shape} and targets of shape "
            f"{targets.shape}, expected as many of one as of the other."
        )
    if targets.size == 0:
        raise ValueError(f"{name} holds no samples, expected at least one.")
    if np.isnan(targets).any():
        raise ValueError(f"{known} has a NaN among its targets, expected none missing.")
    return features, targets


def _check_functions(loss: Any, metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise ValueError(
            f"metrics is {_checks.shown(metrics)}, expected functions by name."
        )
    for name, function in {"loss": loss, **metrics}.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(
                f"metrics has the name {name!r}, expected one without a slash, for "
                "files."
            )
        if not callable(function):
            raise ValueError(
                f"{name} is {_checks.shown(function)}, expected a function of outputs "
                "and targets."
            )


def _as_taken(
    name: str, features: np.ndarray, targets: np.ndarray, network, params, functions
) -> np.ndarray:
    """The targets, as integers for functions that take no others: labels of classes."""
    x, y = _some(features), _some(targets)
    outputs, error = _result(network.outputs, params, x)
    if error is not None:
        raise ValueError(
            f"the model fails for {name}, features {_shown(x)}, expected some that it "
            f"takes: {_checks.words_of(error)}"
        ) from error

    def refuses(function, dtype) -> bool:
        return _result(function, outputs, y.update(dtype=dtype))[1] is not None

    of_labels = [f for _, f in functions if refuses(f, jnp.float32)]
    if of_labels and not any(refuses(f, jnp.int32) for _, f in functions):
        if targets.dtype.kind not in "iu":
            labels = targets.astype(np.int32)
            other = targets[labels != targets]
            if other.size:
                raise ValueError(
                    f"{name} has the target {other[0]}, expected whole numbers: the "
                    "loss or a metric takes integers alone."
                )
            targets = labels
        _check_classes(name, targets, of_labels, outputs)
    for what, function in functions:
        _check_taken(what, name, function, outputs, _some(targets))
    return targets


def _check_taken(what: str, name: str, function, outputs, y) -> None:
    """That a function of outputs and targets has values of each sample."""
    given = f"targets {_shown(y)} where the outputs are {_shown(outputs)}"
    values, error = _result(function, outputs, y)
    if error is not None:
        remedy, labels = "others", jax.ShapeDtypeStruct(y.shape[:1], jnp.int32)
        if y.ndim == 2 and _result(function, outputs, labels)[1] is None:
            flat = "targets[:, 0]" if y.shape[1] == 1 else "targets.argmax(-1)"
            remedy = f"labels [N], {flat} say"
        raise ValueError(
            f"{what} fails for {name}, {given}, expected {remedy}: "
            f"{_checks.words_of(error)}"
        ) from error
    more, _ = _result(function, *_some((outputs, y), _SOME + 2))
    if jnp.shape(values)[1:] != jnp.shape(more)[1:]:  # arithmetic of [n, 1] and [n]
        raise ValueError(
            f"{what} pairs every sample of {name} with all others, {given}, expected a "
            "value for each."
        )


def _result(function, *given) -> tuple[Any, Exception | None]:
    """The shapes of what it returns, or why it does not."""
    try:
        return jax.eval_shape(function, *given), None
    except Exception as error:  # how it refuses what it does not take is its own
        return None, error


def _some(tree: Any, number: int = _SOME) -> Any:
    """So many samples like these: shapes, and dtypes as on a device."""

    def one(x):
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
        return jax.ShapeDtypeStruct((number, *x.shape[1:]), dtype)

    return jax.tree.map(one, tree)


def _shown(shapes: Any) -> Any:
    """A tree of shapes in words."""

    def one(x):
        return f"{x.dtype}[{', '.join(map(str, ('N', *x.shape[1:])))}]"

    return jax.tree.map(one, shapes)


def _check_classes(name: str, targets: np.ndarray, functions, outputs: Any) -> None:
    """That labels for which the model has no output are none to the functions either.

    JAX reads from the end at a negative index, and a NaN at one that is too large; a
    loss may know such labels and leave them out.
    """
    array = isinstance(outputs, jax.ShapeDtypeStruct)
    if not array or outputs.ndim != targets.ndim + 1:
        return
    number = outputs.shape[-1]
    labels = np.unique(targets[(targets < 0) | (targets >= number)])[:100]
    if not labels.size:
        return
    shape = (labels.size, *outputs.shape[1:])
    logits = jnp.asarray(np.random.default_rng(0).normal(size=shape), outputs.dtype)
    given = np.zeros((2, *shape[:-1]), targets.dtype)
    given.reshape(2, labels.size, -1)[:, :, 0] = labels, labels % number
    short = np.iinfo(np.int32)
    wide = labels[(labels < short.min) | (labels > short.max)]
    for function in functions:
        if wide.size:  # the device would read another class
            raise _no_class(name, wide[0], number)
        own, other = (
            np.asarray(function(logits, jnp.asarray(y)), float).reshape(labels.size, -1)
            for y in given
        )
        bad = labels[~np.isfinite(own).all(1) | (own == other).all(1)]
        if bad.size:
            raise _no_class(name, bad[0], number)


def _no_class(name: str, label: Any, number: int) -> ValueError:
    return ValueError(
        f"{name} has the target {label}, expected classes from 0 to {number - 1}, one "
        "for each output of the model."
    )

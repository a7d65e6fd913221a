"""The optimizers that a config describes."""

import functools
import inspect
from typing import Any

import jax
import optax
import pydantic
from optax.experimental import aggregating

from gdsec_jax import problems, wire, worker
from gdsec_jax._theory import Theory, theory
from gdsec_jax.algorithms import METHODS
from gdsec_jax.federation._broadcast import broadcast
from gdsec_jax.simulation._grid import takes
from gdsec_jax.study.config._fields import sentence
from gdsec_jax.study.config._method import MethodConfig, function_of
from gdsec_jax.study.config._run import RunConfig
from gdsec_jax.wire._formats import CONVENTIONS

_STEPS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}


def varied(method: MethodConfig, **fields: Any) -> MethodConfig:
    """A method with other values of some fields, checked."""
    given = method.model_dump(exclude={"grid", "chosen"}, exclude_defaults=True)
    try:
        return MethodConfig.model_validate(given | fields)
    except pydantic.ValidationError as error:
        raise ValueError(sentence(error)) from error


def recommended(method: MethodConfig, problem: problems.Problem) -> Theory:
    """What theory says of a method on a problem; of a user's own, the step 1/L."""
    if method.name in METHODS:
        return theory(method.name, problem, **method.parameters())
    return theory("gd", problem)._replace(
        heuristic=True, source="gradient descent's step"
    )


def resolved(method: MethodConfig, problem: problems.Problem) -> MethodConfig:
    """A method with its learning rate, and what else theory says, as numbers."""
    found: dict[str, Any] = {}
    learning_rate = method.learning_rate
    if learning_rate is None:
        known = recommended(method, problem)
        found = {
            name: value
            for name, value in known.parameters.items()
            if name in type(method).model_fields and getattr(method, name) is None
        }
        learning_rate = known.learning_rate
    found["learning_rate"] = learning_rate * method.step_factor
    return method.model_copy(update=found | {"step_factor": 1.0})


def with_local_steps(
    method: MethodConfig, problem: problems.Problem
) -> problems.Problem:
    """The problem as the method sees it, with its local steps; it is `resolved`."""
    if method.local_steps is None:
        return problem
    return problems.local_steps(problem, method.local_steps, method.learning_rate)


def make_optimizer(
    method: MethodConfig, config: RunConfig, problem: problems.Problem
) -> optax.GradientTransformation:
    """The optax chain of a method: algorithm, step, proximal step, broadcast.

    Where the method is `resolved`, the fields in `TRACED` may be traced.
    """
    if method.learning_rate is None or method.step_factor != 1.0:
        method = resolved(method, problem)
    learning_rate: Any = method.learning_rate
    steps = [
        _algorithm(method, config, problem),
        _STEPS[config.optimizer](learning_rate),
    ]
    if config.problem.proximal:
        steps.append(problems.proximal_l1(learning_rate * problem.regularization))
    if method.broadcast_k is not None:
        compressor = worker.error_feedback(worker.top_k(method.broadcast_k))
        form = wire.Format(config.wire, config.value_bits)
        steps.append(broadcast(compressor, wire=form))
    return optax.chain(*steps)


def _algorithm(
    method: MethodConfig, config: RunConfig, problem: problems.Problem
) -> aggregating.Aggregator:
    """What the method's function makes of its arguments, and of the run's."""
    function = function_of(method.name)
    channel = method.channel or config.channel
    late = channel.max_delay if channel and takes(function, "server") else 0
    arguments = method.parameters(**({"max_delay": late} if late else {}))
    also = wire.FORMATS + CONVENTIONS if config.all_formats else ()
    if takes(function, "wire"):
        arguments["wire"] = wire.Format(config.wire, config.value_bits, also)
    named = inspect.signature(function).parameters
    if "learning_rate" in named:
        arguments["learning_rate"] = method.learning_rate
    if "probabilities" in named and problem.worker_smoothness is not None:
        arguments |= theory("iag", problem).parameters
    if getattr(method, "coordinate_xi", None):
        arguments["xi"] = jax.tree.map(
            lambda each: arguments["xi"] / each, problem.coordinate_smoothness
        )
    algorithm = function(problem.num_workers, **arguments)
    if not isinstance(algorithm, aggregating.Aggregator):
        raise ValueError(
            f"{method.name} has made {algorithm!r}, expected an optax Aggregator, as "
            "federate makes it."
        )
    return algorithm

"""The problem and the optimizers that a config describes."""

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax
import pydantic

from gdsec_jax import data, problems, wire, worker
from gdsec_jax._theory import theory
from gdsec_jax.algorithms import METHODS
from gdsec_jax.federation._broadcast import broadcast
from gdsec_jax.study.config._link import channel_of
from gdsec_jax.study.config._network import make_network
from gdsec_jax.study.config._schema import (
    GENERATORS,
    MethodConfig,
    ProblemConfig,
    RunConfig,
)
from gdsec_jax.study.config._sentences import sentence
from gdsec_jax.wire._formats import CONVENTIONS

_STEPS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}


def make_problem(config: ProblemConfig) -> problems.Problem:
    """Load the data and put the problem together.

    Raises:
      ValueError, OSError: the data cannot be had, or do not fit the loss.
    """
    loaded = _samples(config)
    if config.kind == "network":
        if config.proximal:
            raise ValueError("problem.proximal is for lasso, got kind 'network'.")
        return make_network(config, loaded)
    parts = data.split(
        loaded.targets,
        config.num_workers,
        config.split,
        seed=config.seed,
        sizes=config.sizes,
        concentration=config.concentration,
    )
    own: Mapping[str, Any] = {}
    if config.kind == "lasso":
        own = {"proximal": config.proximal}
    elif config.proximal:
        raise ValueError(f"problem.proximal is for lasso, got kind {config.kind!r}.")
    problem = getattr(problems, config.kind)(
        loaded.features,
        loaded.targets,
        config.num_workers,
        regularization=config.regularization,
        split=parts,
        dtype=config.dtype,
        **own,
    )
    if config.batch_size is None:
        return problem
    return problems.minibatch(problem, config.batch_size)


def _samples(config: ProblemConfig) -> data.Dataset:
    generator = GENERATORS.get(config.data)
    if generator is None:
        return load_data(config.data, config.subset)
    accepted = inspect.signature(generator).parameters
    own: dict[str, Any] = {"seed": config.seed} if "seed" in accepted else {}
    own |= config.options
    if "num_workers" in accepted:
        own["num_workers"] = config.num_workers
        own |= {"problem": config.kind, "regularization": config.regularization}
    return generator(**own)


def load_data(name: str, subset: str = "train") -> data.Dataset:
    """A named data set, or a user's file.

    Raises:
      ValueError, OSError: there is neither, or it cannot be read.
    """
    names = [entry.name for entry in data.available()]
    if name in names:
        return data.load(name, split=subset)
    if Path(name).exists():
        return data.read(name)
    raise ValueError(
        f"data is {name!r}, expected a file that exists, or one of "
        f"{', '.join([*names, *GENERATORS])}."
    )


def varied(method: MethodConfig, **fields: Any) -> MethodConfig:
    """A method with other values of some fields, checked.

    Raises:
      ValueError: a value is out of range, or the algorithm has no such parameter.
    """
    given = method.model_dump(exclude={"grid", "chosen"}, exclude_defaults=True)
    try:
        return MethodConfig.model_validate(given | fields)
    except pydantic.ValidationError as error:
        raise ValueError(
            sentence(error, lambda _: MethodConfig.model_fields)
        ) from error


def resolved(method: MethodConfig, problem: problems.Problem) -> MethodConfig:
    """A method with its learning rate, and what else theory says, as numbers.

    Raises:
      ValueError: the learning rate is neither given nor known.
    """
    found: dict[str, Any] = {}
    learning_rate = method.learning_rate
    if learning_rate is None:
        recommended = theory(method.name, problem, **method.parameters())
        fields = type(method).model_fields
        found = {
            name: value
            for name, value in recommended.parameters.items()
            if name in fields and getattr(method, name) is None
        }
        learning_rate = recommended.learning_rate
    found["learning_rate"] = learning_rate * method.step_factor
    return method.model_copy(update=found | {"step_factor": 1.0})


def make_optimizer(
    method: MethodConfig, config: RunConfig, problem: problems.Problem
) -> optax.GradientTransformation:
    """The optax chain of a method: algorithm, step, proximal step, broadcast.

    Args:
      method: of the config; `resolved`, its traced fields may be.
      config: of the run.
      problem: that the config makes.

    Raises:
      ValueError: the algorithm cannot be made, or its step is not known.
    """
    if method.learning_rate is None or method.step_factor != 1.0:
        method = resolved(method, problem)
    learning_rate: Any = method.learning_rate
    arguments = method.parameters()
    factory = METHODS[method.name].factory
    accepted = inspect.signature(factory).parameters
    if "learning_rate" in accepted:
        arguments["learning_rate"] = learning_rate
    if "probabilities" in accepted and problem.worker_smoothness is not None:
        arguments |= theory(method.name, problem).parameters
    channel = channel_of(method, config)
    if channel is not None and channel.max_delay:
        arguments.setdefault("max_delay", channel.max_delay)
    if method.coordinate_xi:
        arguments["xi"] = jax.tree.map(
            lambda each: arguments["xi"] / each, problem.coordinate_smoothness
        )
    also = wire.FORMATS + CONVENTIONS if config.all_formats else ()
    algorithm = factory(
        problem.num_workers,
        **arguments,
        wire=wire.Format(config.wire, config.value_bits, also),
    )
    steps = [algorithm, _STEPS[config.optimizer](learning_rate)]
    if config.problem.proximal:
        steps.append(problems.proximal_l1(learning_rate * problem.regularization))
    if method.broadcast_k is not None:
        compressor = worker.error_feedback(worker.top_k(method.broadcast_k))
        form = wire.Format(config.wire, config.value_bits)
        steps.append(broadcast(compressor, wire=form))
    return optax.chain(*steps)

"""A problem: its fields, and how it is made of them."""

import importlib
import inspect
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
import optax
import pydantic
from pydantic import Field

from gdsec_jax import _checks, data, problems
from gdsec_jax.data import _load
from gdsec_jax.data._scaling import Scale
from gdsec_jax.problems._constants import gram_norm
from gdsec_jax.problems._losses import CURVATURES
from gdsec_jax.study._tools import Reading
from gdsec_jax.study.config import _fields
from gdsec_jax.study.config._fields import Count, NonNegative, Positive, Seed

Kind = Literal[
    "ridge", "logistic", "softmax", "lasso", "nonlinear_least_squares", "network"
]
SCALES = {"standard": "mean 0 and deviation 1", "max": "largest magnitude 1"}
_CLASSES = 100  # with more different values whole numbers are amounts, not classes
GENERATORS = {
    "heterogeneous": data.heterogeneous,
    "sparse_binary": data.sparse_binary,
    "characters": data.characters,
}


class ProblemConfig(_fields.Model):
    """What is minimised, and how the samples are split over the workers."""

    kind: Kind = "ridge"
    """The loss."""
    model: Literal["multinomial", "mlp", "lenet", "resnet", "transformer"] | None = None
    """Of a network."""
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of a network's samples that its error is that of."""
    data: str = Field(
        default="digits",
        description="A named data set, the path of an npz, CSV, LIBSVM or IDX file, "
        "seen from the folder of the config, or a generator: "
        f"{', '.join(GENERATORS)}.",
    )
    read: Reading = Reading()
    options: dict[str, int | float] = Field(default={})
    """Arguments of a generator, by name."""
    subset: Literal["train", "test"] = "train"
    """Which part of a named data set."""
    scale: Scale = "none"
    """Of the features, each over all samples: standard, to mean 0 and standard
    deviation 1; max, divided by its largest magnitude, which keeps sparse ones
    sparse."""
    intercept: bool = False
    """Whether a column of ones is added to the features, after they are scaled; lambda
    penalises its coefficient, too."""
    num_workers: Count = 5
    """M."""
    split: Literal["shuffled", "contiguous", "sorted", "dirichlet"] = "shuffled"
    """How samples are split over workers."""
    concentration: Positive = 0.5
    """Of the Dirichlet split."""
    sizes: tuple[Count, ...] | None = None
    """Samples of each worker, for uneven splits."""
    seed: Seed = 0
    """Of the split and of the minibatches."""
    regularization: NonNegative | None = None
    """lambda; by default 1/N."""
    batch_size: Count | None = None
    """Samples a worker and round; by default all."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Probability of each sample to be in a round, in place of a batch_size."""
    clip: Positive | None = None
    """C, of the gradient of a sample, for private methods: noise_multiplier."""
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of their guarantee, with a clip; below 1/N."""
    microbatch: Count | None = None
    """Samples whose gradients are clipped at a time; by default all."""
    proximal: bool = False
    """Lasso only: proximal steps, of methods that do not make theirs themselves."""
    dtype: Literal["float32", "float64"] = "float64"
    """Of all arrays; float32 of a network."""
    grid: _fields.Grid = Field(default={})
    """For gdsec sweep: values of these fields to try."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _networks_are_float32(cls, values):
        network = isinstance(values, dict) and values.get("kind") == "network"
        return {"dtype": "float32"} | values if network else values

    @pydantic.model_validator(mode="after")
    def _fits_kind_data_and_grid(self):
        network = self.kind == "network"
        if network != (self.model is not None):
            raise ValueError("a model goes with the kind network, and with it alone")
        if network and self.regularization is not None:
            raise ValueError("a network has no regularization")
        if network and self.dtype != "float32":
            raise ValueError("a network has the dtype float32")
        if self.held_out is not None and not network:
            raise ValueError("held_out is for the kind network alone")
        if network and self.intercept:
            raise ValueError("a network has no intercept, but biases of its own")
        if self.data == "characters" and self.scale != "none":
            raise ValueError("characters have no scale, expected none")
        if self.sampling_rate is not None and self.batch_size is not None:
            raise ValueError("batch_size and sampling_rate are given, expected one")
        if (self.clip is None) != (self.delta is None):
            raise ValueError("a clip goes with a delta, and a delta with a clip")
        if self.microbatch is not None and self.clip is None:
            raise ValueError("microbatch is for a problem with a clip alone")
        if self.proximal and self.kind != "lasso":
            raise ValueError("proximal is for the kind lasso alone")
        generator = GENERATORS.get(self.data)
        accepted = inspect.signature(generator).parameters if generator else {}
        fields = ("num_workers", "problem", "regularization", "text")  # no options
        for name in self.options:
            if name not in accepted or name in fields:
                known = [x for x in accepted if x not in fields]
                among = f"one of {', '.join(known)}" if known else "none"
                between = _checks.expected(name, known)
                raise ValueError(
                    f"the data {self.data} have no option {name}{between} {among}"
                )
        for name, parameter in accepted.items():
            required = parameter.default is inspect.Parameter.empty
            if required and name not in self.options:
                raise ValueError(f"the data {self.data} need the option {name}")
        validate = ProblemConfig.model_validate
        _fields.check_grid(self, self.grid, validate, ("grid",))
        return self


def load_samples(config: ProblemConfig) -> data.Dataset:
    """Load or generate the data of a problem; all features to one scale, if it says."""
    loaded = _loaded(config)
    if config.scale == "none" and not config.intercept:
        return loaded
    return data.scaled(loaded, config.scale, intercept=config.intercept)


def _loaded(config: ProblemConfig) -> data.Dataset:
    generator = GENERATORS.get(config.data)
    if generator is None:
        return load_data(config.data, config.subset, **vars(config.read))
    _refuse_options(config.data, **vars(config.read))
    accepted = inspect.signature(generator).parameters
    own: dict[str, Any] = {"seed": config.seed} if "seed" in accepted else {}
    own |= config.options
    if "num_workers" in accepted:
        own["num_workers"] = config.num_workers
        own |= {"problem": config.kind, "regularization": config.regularization}
    return generator(**own)


def make_problem(
    config: ProblemConfig, loaded: data.Dataset | None = None
) -> problems.Problem:
    """Put the problem together, of the config's data unless they are given."""
    if loaded is None:
        loaded = load_samples(config)
    problem = _make(config, loaded)
    if config.sampling_rate is not None:
        problem = problems.poisson(problem, config.sampling_rate)
    if config.clip is None or config.delta is None:
        return problem
    return problems.private(
        problem, config.clip, delta=config.delta, microbatch=config.microbatch
    )


def _make(config: ProblemConfig, loaded: data.Dataset) -> problems.Problem:
    if config.kind == "network":
        return make_network(config, loaded)
    problem = getattr(problems, config.kind)(
        loaded.features,
        loaded.targets,
        config.num_workers,
        regularization=config.regularization,
        split=split_of(config, loaded.targets),
        dtype=config.dtype,
        **({"proximal": config.proximal} if config.kind == "lasso" else {}),
    )
    if config.batch_size is None:
        return problem
    return problems.minibatch(problem, config.batch_size)


def load_data(name: str, subset: str = "train", **options: Any) -> data.Dataset:
    """A named data set, or a user's file, read with these options."""
    if name in _load.names():
        _refuse_options(name, **options)
        return data.load(name, split=subset)
    if Path(name).exists():
        return data.read(name, **options)
    there = [str(path) for path in Path(name).parent.glob(f"*{Path(name).suffix}")]
    raise ValueError(
        f"data is {name!r}{_checks.expected(name, (*_named(), *there))} a file that "
        f"exists, or one of {', '.join(_named())}."
    )


def _refuse_options(name: str, **options: Any) -> None:
    for option, value in options.items():
        if value is not None:
            raise ValueError(
                f"{option} is {value!r} for the data {name}, expected it only for a "
                "file."
            )


def beside(folder: Path, field: str, value: Any) -> Any:
    """A field as a file in the folder has it, but paths of data as seen from here."""
    if isinstance(value, dict):
        return {name: beside(folder, name, each) for name, each in value.items()}
    if isinstance(value, list):
        fields = _fields.names_of(field)  # of a grid, whose rows may be of several
        return [
            [beside(folder, *pair) for pair in zip(fields, each, strict=True)]
            if isinstance(each, list) and len(each) == len(fields)
            else beside(folder, field, each)
            for each in value
        ]
    path = field == "data" and isinstance(value, str)
    return str(folder / value) if path and value not in _named() else value


def _named() -> tuple[str, ...]:
    return (*_load.names(), *GENERATORS)


def said_of(loaded: data.Dataset, config: ProblemConfig | None = None) -> str:
    """Samples, features, target and its values, in a line.

    With a config also what it has made of them, which are then those of `load_samples`.
    """
    samples, features = loaded.features.shape
    made = ""
    if config is not None and config.scale != "none":
        made = f" of {SCALES[config.scale]}"
    if config is not None and config.intercept:
        features, made = features - 1, f"{made}, an intercept"
    values = np.unique(loaded.targets)
    kind = "classes" if _are_classes(values) else "different values"
    named = f" {loaded.read_as['target']!r}" if "target" in loaded.read_as else ""
    return (
        f"{loaded.name}: {samples:,} samples, {features:,} features{made}, "
        f"target{named} with {values.size:,} {kind}, {values[0]:g} to {values[-1]:g}"
    )


def _are_classes(values: np.ndarray) -> bool:
    """Whether different targets stand for classes rather than amounts."""
    whole = values.dtype.kind in "biu" or not np.any(values % 1)
    return bool(whole) and values.size <= _CLASSES


def kind_for(targets: np.ndarray) -> Kind:
    """The loss that a first look at the targets suggests."""
    values = np.unique(targets)
    if values.size == 2:
        return "logistic"
    return "softmax" if values.size > 2 and _are_classes(values) else "ridge"


def smoothness_of(kind: Kind, features: Any) -> float:
    """L of a loss on all samples, with lambda = 1/N, without its optimum."""
    samples, _ = features.shape
    return (CURVATURES[kind] * gram_norm(features) + 1) / samples


def split_of(config: ProblemConfig, targets: np.ndarray) -> list[np.ndarray]:
    """Which samples are each worker's."""
    own = config.model_dump(include={"seed", "sizes", "concentration"})
    return data.split(targets, config.num_workers, config.split, **own)


def make_network(config: ProblemConfig, samples: data.Dataset) -> problems.Problem:
    """A model of gdsec_experiments/_models.py, with the accuracy as its metric.

    Features are divided by their largest magnitude, but for characters, which are
    codes. Samples are put in an order that the seed draws: a share `held_out`, the
    first of them, belongs to no worker, and a contiguous split of the others is random.
    """
    try:
        models = importlib.import_module("gdsec_experiments._models")
    except ImportError as error:
        raise ImportError(
            "flax is missing, expected for a problem of kind network: "
            "pip install 'gdsec-jax[flax]'."
        ) from error
    _check_samples(config, samples)
    features, targets = np.asarray(samples.features), samples.targets
    text = config.model == "transformer"
    num_classes = data.NUM_CHARACTERS
    if not text:
        features = (features / (np.abs(features).max() or 1.0)).astype(config.dtype)
        labels, targets = np.unique(targets, return_inverse=True)
        num_classes = len(labels)
    order = np.random.default_rng(config.seed).permutation(len(targets))
    first = round((config.held_out or 0.0) * len(targets))
    left = len(targets) - first
    if config.held_out is not None and not (first and left >= config.num_workers):
        raise ValueError(
            f"problem.held_out is {config.held_out:g} of {len(targets)} samples, "
            "expected at least one, and one a worker left."
        )
    kept, held = order[first:], order[:first]
    made = (config.seed, jnp.dtype(config.dtype))
    return problems.flax_problem(
        models.make(config.model, features.shape[1], num_classes, *made),
        optax.softmax_cross_entropy_with_integer_labels,
        (features[kept], targets[kept]),
        config.num_workers,
        config.batch_size,
        held_out=(features[held], targets[held]) if first else None,
        metrics={"accuracy": accuracy},
        split=split_of(config, np.zeros(len(kept)) if text else targets[kept]),
        seed=config.seed,
        name=config.model or "network",
    )


def _check_samples(config: ProblemConfig, samples: data.Dataset) -> None:
    """That the model of a network can take them."""
    features, targets = samples.features, samples.targets
    if not isinstance(features, np.ndarray):
        raise ValueError(
            f"problem.data {samples.name!r} is sparse, expected dense features for a "
            "network."
        )
    text = features.dtype.kind == "i"
    if text != (config.model == "transformer"):
        raise ValueError(
            f"problem.model is {config.model!r} for {samples.name!r}, expected the "
            "transformer for characters, and another for features."
        )
    if text and config.split in ("sorted", "dirichlet"):
        raise ValueError(
            f"problem.split is {config.split!r}, expected shuffled or contiguous for "
            "characters, which have no labels."
        )
    side = math.isqrt(features.shape[1])
    if config.model in ("lenet", "resnet") and side**2 != features.shape[1]:
        raise ValueError(
            f"problem.model is {config.model!r} for {features.shape[1]} features, "
            "expected square images."
        )
    if np.any(targets != np.round(targets)):
        raise ValueError(
            f"problem.data {samples.name!r} has targets that are no classes, expected "
            "whole numbers for a network."
        )


def accuracy(logits, labels):
    """Whether the most likely class, or character, is the right one."""
    return logits.argmax(-1) == labels

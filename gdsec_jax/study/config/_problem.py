"""The fields of a problem, and what they may be."""

import inspect
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from gdsec_jax import data
from gdsec_jax.study.config._fields import (
    Count,
    Model,
    NonNegative,
    Positive,
    Seed,
)
from gdsec_jax.study.config._grid import Grid, check_grid

Kind = Literal[
    "ridge", "logistic", "softmax", "lasso", "nonlinear_least_squares", "network"
]
GENERATORS = {
    "heterogeneous": data.heterogeneous,
    "sparse_binary": data.sparse_binary,
    "characters": data.characters,
}


class ProblemConfig(Model):
    """What is minimised, and how the samples are split over the workers."""

    kind: Kind = "ridge"
    """The loss."""
    model: Literal["multinomial", "mlp", "lenet", "resnet", "transformer"] | None = None
    """Of a network."""
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of a network's samples that its error is that of."""
    data: str = Field(
        default="digits",
        description="A named data set, a path to an npz, CSV or LIBSVM file, or a "
        f"generator: {', '.join(GENERATORS)}.",
    )
    options: dict[str, int | float] = Field(default={})
    """Arguments of a generator, by name."""
    subset: Literal["train", "test"] = "train"
    """Which part of a named data set."""
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
    proximal: bool = False
    """Lasso only: proximal steps."""
    dtype: Literal["float32", "float64"] = "float64"
    """Of all arrays; float32 of a network."""
    grid: Grid = Field(default={})
    """For gdsec sweep: values of these fields to try."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _networks_are_float32(cls, values):
        network = isinstance(values, dict) and values.get("kind") == "network"
        return {"dtype": "float32"} | values if network else values

    @pydantic.model_validator(mode="after")
    def _fits_the_kind(self):
        network = self.kind == "network"
        if network != (self.model is not None):
            raise ValueError("a model goes with the kind network, and with it alone")
        if network and self.regularization is not None:
            raise ValueError("a network has no regularization")
        if network and self.dtype != "float32":
            raise ValueError("a network has the dtype float32")
        if self.held_out is not None and not network:
            raise ValueError("held_out is for the kind network alone")
        if self.proximal and self.kind != "lasso":
            raise ValueError("proximal is for the kind lasso alone")
        return self

    @pydantic.model_validator(mode="after")
    def _fits_the_generator(self):
        generator = GENERATORS.get(self.data)
        accepted = inspect.signature(generator).parameters if generator else {}
        for name in self.options:
            # Not options.
            fields = ("num_workers", "problem", "regularization", "text")
            if name not in accepted or name in fields:
                raise ValueError(f"the data {self.data} have no option {name}")
        for name, parameter in accepted.items():
            required = parameter.default is inspect.Parameter.empty
            if required and name not in self.options:
                raise ValueError(f"the data {self.data} need the option {name}")
        return self

    @pydantic.model_validator(mode="after")
    def _has_the_fields_of_its_grid(self):
        check_grid(self, self.grid, ProblemConfig.model_validate, ("grid",))
        return self

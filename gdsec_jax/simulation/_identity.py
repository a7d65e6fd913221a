"""What a run computes, in a few words: equal for runs of the same course."""

import hashlib
import json
from typing import Any

import jax
import numpy as np

from gdsec_jax import _trees
from gdsec_jax.files import _environment
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _batch, _chunks, _run


def fingerprint(
    problem: Problem, program: _chunks.Program, inputs: _chunks.Inputs, stop: _run.Stop
) -> dict[str, str]:
    """By name, all that a run's course depends on; not its length, nor its devices.

    Args:
      problem: with its name and initial params.
      program, inputs: of the loop. Of the limits the number of rounds does not matter,
        nor what follows from the initial error, which other devices round otherwise.
      stop: as in `simulate`.
    """
    program = program._replace(mesh=None)
    if isinstance(program, _chunks.OneRun):
        program = program._replace(options=program.options._replace(worker_batch=None))
    given = inputs.given
    # Shapes alone, without the devices that they are on.
    taken = jax.eval_shape(lambda *x: x, inputs, problem.init_params)
    first = jax.jit(_chunks.first_round, static_argnums=0)
    _, record = jax.eval_shape(lambda *x: _chunks.first_round(program, *x), *taken)
    # The wire formats too: what is counted is the same, what it costs is not.
    text = first.lower(program, *taken).as_text() + repr(jax.tree.structure(record))
    with np.errstate(over="ignore"):  # as the loop compares it
        target = np.asarray(given.limits.target_error).astype(record.error.dtype)
    return {
        "problem": problem.name,
        "data": digest(inputs.problem, problem.init_params, given.uplink),
        "method or options": hashlib.sha256(text.encode()).hexdigest(),
        "key": f"{given.key.dtype} {_trees.bytes_of(given.key).hex()}",
        "eval_every": str(program.options.eval_every),
        "target_error": str(target),
        "divergence_factor": str(float(stop.divergence_factor)),
        "jax": jax.__version__,
    }


def marks(plan: "_batch.Plan") -> list[str]:
    """What each setting of a sweep computes, and all that is handed to it.

    Of the setting alone: in which batch it is run depends on the memory that is free.
    """
    one = plan.of_size(1)
    inputs = _batch.inputs_of(one, plan.group.traced[:1])
    about: dict[str, Any] = fingerprint(plan.problem, one.program, inputs, plan.stop)
    about |= {"rounds": int(plan.given.limits.rounds)} | _environment.versions()

    def mark(setting):
        own = _batch.inputs_of(one, [setting])
        text = json.dumps(about | {"key": digest(own.given.key, own.values)})
        return hashlib.sha256(text.encode()).hexdigest()

    return [mark(setting) for setting in plan.group.traced]


def digest(*trees: Any) -> str:
    """Of the bytes of all arrays."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        found.update(_trees.bytes_of(leaf))
    return found.hexdigest()

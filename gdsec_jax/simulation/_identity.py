"""What a run computes, in a few words: equal for runs of the same course."""

import hashlib

import jax
import numpy as np
import optax

from gdsec_jax import _trees
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _loop


def fingerprint(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    options: _loop.Options,
    given: _loop.Given,
    divergence_factor: float,
) -> dict[str, str]:
    """By name, all that a run's course depends on; not its length, nor its devices.

    Args:
      problem, optimizer, options: as of the loop.
      given: as of the loop; of the limits the number of rounds does not matter, nor
        what follows from the initial error, which other devices round otherwise.
      divergence_factor: as of `simulate`.
    """
    alone = options._replace(worker_batch=None, mesh=None)
    own = _loop.for_loop(problem)
    arrays = hashlib.sha256()
    for leaf in jax.tree.leaves((own, problem.init_params, given.uplink)):
        arrays.update(_trees.bytes_of(leaf))

    def first_round(problem, params, given):
        run = _loop.start(optimizer, params)
        return _loop.one_round(problem, optimizer, alone, given, run.rounds, run)

    def shapes(*arguments):  # without the devices that they are on
        return jax.eval_shape(lambda *x: x, *arguments)

    taken = shapes(own, problem.init_params, given)
    record = jax.eval_shape(first_round, *taken)[1]
    text = jax.jit(first_round).lower(*taken).as_text()
    # The wire formats: what is counted is the same, what it costs is not.
    text += repr(jax.tree.structure(record))
    with np.errstate(over="ignore"):  # as the loop compares it
        target = np.asarray(given.limits.target_error).astype(record.error.dtype)
    return {
        "problem": problem.name,
        "data": arrays.hexdigest(),
        "method or options": hashlib.sha256(text.encode()).hexdigest(),
        "key": f"{given.key.dtype} {_trees.bytes_of(given.key).hex()}",
        "eval_every": str(options.eval_every),
        "target_error": str(target),
        "divergence_factor": str(divergence_factor),
        "jax": jax.__version__,
    }

"""What a run computes, in a few words: equal for runs of the same course."""

import hashlib
from typing import Any

import jax
import optax

from gdsec_jax import _loop, _trees
from gdsec_jax.problems import Problem


def fingerprint(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    options: _loop.Options,
    limits: _loop.Limits,
    key: jax.Array,
    **ends: Any,
) -> dict[str, str]:
    """By name, all that a run's course depends on; not its length, nor its devices.

    Args:
      problem, optimizer, options, key: as of the loop.
      limits: of which only the types matter.
      ends: the arguments that they were made of, but for the number of rounds.
    """
    alone = options._replace(worker_batch=None, mesh=None)
    own = _loop.for_loop(problem)
    arrays = hashlib.sha256()
    for leaf in jax.tree.leaves((own, problem.init_params)):
        arrays.update(_trees.bytes_of(leaf))

    def first_round(problem, params, limits, key):
        run = _loop.start(optimizer, params)
        return _loop.one_round(problem, optimizer, alone, limits, key, run.rounds, run)

    def shapes(*arguments):  # without the devices that they are on
        return jax.eval_shape(lambda *x: x, *arguments)

    taken = shapes(own, problem.init_params, limits, key)
    record = jax.eval_shape(first_round, *taken)[1]
    text = jax.jit(first_round).lower(*taken).as_text()
    # The wire formats: what is counted is the same, what it costs is not.
    text += repr(jax.tree.structure(record))
    return {
        "problem": problem.name,
        "data": arrays.hexdigest(),
        "method or options": hashlib.sha256(text.encode()).hexdigest(),
        "key": f"{key.dtype} {_trees.bytes_of(key).hex()}",
        "eval_every": str(options.eval_every),
        "jax": jax.__version__,
    } | {name: str(value) for name, value in ends.items()}

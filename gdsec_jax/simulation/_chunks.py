"""The compiled loop and its host driver: of one run, or of settings side by side.

The loop is compiled for a program, which says what a round is. Rounds are run in
chunks; between them the host looks at what they left behind.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax.federation._check import check
from gdsec_jax.problems import Problem
from gdsec_jax.simulation import _mesh, _run
from gdsec_jax.simulation._records import Record
from gdsec_jax.uplink import Uplink

CHUNK_SECONDS = 0.25  # between two looks at the progress bar
FIRST_CHUNK = 16  # rounds; the later ones take as long as a look is apart
MOST_ROUNDS = 2**14  # that are kept on the device between two looks
MOST_RECORDS = 2**22  # the same, of workers and rounds
MOST_BYTES = 2**28  # the same, of all that is recorded


class Inputs(NamedTuple):
    """What a program's rounds are computed from. Traced."""

    problem: Problem  # of `_run.for_loop`
    given: _run.Given
    values: Mapping[str, Any]  # of each setting's parameters, [S, ...]; of a run none


class OneRun(NamedTuple):
    """The program of a single run. Static: equal ones share what is compiled."""

    optimizer: optax.GradientTransformation
    options: _run.Options
    mesh: jax.sharding.Mesh | None = None  # over which workers are spread

    def start(self, inputs: Inputs, params: Any) -> _run.Run:
        """The run before its first round, of an optimizer that can do it."""
        num_workers, batch = inputs.problem.num_workers, self.options.worker_batch
        check(self.optimizer, params, num_workers, batch)
        return _run.start(self.optimizer, params)

    def one_round(self, inputs: Inputs, number: jax.Array, run: _run.Run):
        """The run after a round, and its record."""
        problem, given, _ = inputs
        own = (self.optimizer, self.options, given)
        return _run.one_round(problem, *own, number, run)

    def spread(self, tree: Any, axis: int = 0) -> Any:
        """The run, or its records, over the devices."""
        return _mesh.constrain(tree, self.mesh, axis)


class ManySettings(NamedTuple):
    """The program of settings side by side. Static, as `OneRun`."""

    make: Callable[..., optax.GradientTransformation]  # from a setting's values
    uplink: Callable[..., Uplink]  # without the channel, if all settings have the same
    options: _run.Options
    own_keys: bool  # each setting has one
    size: int  # settings
    mesh: jax.sharding.Mesh | None = None  # over which settings are spread

    def start(self, inputs: Inputs, params: Any) -> _run.Run:
        """The runs before their first round, [S, ...]."""

        def one(values):
            return _run.start(self.make(values=values), params)

        return jax.vmap(one, axis_size=self.size)(inputs.values)

    def one_round(self, inputs: Inputs, number: jax.Array, run: _run.Run):
        """The runs after a round, but for those that had ended; and the records."""
        problem, given, values = inputs

        def one(values, key, run):
            uplink = self.uplink(values=values)
            if given.uplink.channel is not None:
                uplink = dataclasses.replace(uplink, channel=given.uplink.channel)
            own = _run.Given(given.limits, uplink, key)
            optimizer = self.make(values=values)
            return _run.one_round(problem, optimizer, self.options, own, number, run)

        axes = (0, 0 if self.own_keys else None, 0)
        new, record = jax.vmap(one, axes)(values, given.key, run)
        return _hold(run, new), record

    def spread(self, tree: Any, axis: int = 0) -> Any:
        """The runs, or their records, over the devices."""
        return _mesh.spread(tree, self.mesh, axis)


Program = OneRun | ManySettings


def _hold(run: _run.Run, new: _run.Run) -> _run.Run:
    """A setting that has ended stays there; what it computes on is not looked at."""
    ended = run.outcome != _run.RUNNING

    def keep(old, new):
        return jnp.where(ended.reshape(ended.shape + (1,) * (new.ndim - 1)), old, new)

    return _run.Run(
        params=jax.tree.map(keep, run.params, new.params),
        state=new.state,
        rounds=keep(run.rounds, jnp.broadcast_to(new.rounds, run.rounds.shape)),
        outcome=keep(run.outcome, new.outcome),
    )


def first_round(program: Program, inputs: Inputs, params: Any):
    """The first round of a program, for a look at what it is."""
    run = program.start(inputs, params)
    return program.one_round(inputs, jnp.zeros((), jnp.int32), run)


@functools.partial(jax.jit, static_argnames=("program", "capacity"))
def begin(
    program: Program, inputs: Inputs, params: Any, capacity: int
) -> tuple[_run.Run, Record]:
    """A program before its first round, and zeros for the records of later ones.

    They are of so many rounds, or of fewer if they are large; they are not shaped by
    num_rounds: one loop for all.
    """
    run = program.start(inputs, params)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    _, record = jax.eval_shape(program.one_round, inputs, number, run)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(record))
    capacity = max(1, min(capacity, MOST_BYTES // size))
    buffers = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), record)
    return program.spread(run), program.spread(buffers, axis=1)


@functools.partial(
    jax.jit, static_argnames=("program",), donate_argnames=("run", "buffers")
)
def chunk(
    program: Program, inputs: Inputs, run: _run.Run, buffers: Record, number, length
):
    """At most `length` rounds from round `number` on, fewer if all runs end.

    Returns:
      How many rounds it were; the runs; the buffers, with their records first.
    """

    def goes_on(carry):
        i, run, _ = carry
        return (i < length) & (run.outcome == _run.RUNNING).any()

    def body(carry):
        i, run, buffers = carry
        run, record = program.one_round(inputs, number + i, run)
        buffers = jax.tree.map(lambda all, one: all.at[i].set(one), buffers, record)
        return i + 1, program.spread(run), program.spread(buffers, axis=1)

    run, buffers = program.spread(run), program.spread(buffers, axis=1)
    return jax.lax.while_loop(goes_on, body, (0, run, buffers))


def capacity_for(records: int) -> int:
    """Rounds that are kept on the device, of so many workers and settings."""
    return max(1, min(MOST_ROUNDS, MOST_RECORDS // records))


class Chunk(NamedTuple):
    """Some rounds that were run."""

    before: int  # rounds that came before
    done: int  # rounds that are done now
    run: _run.Run  # after them; the next chunk takes its memory
    record: Any  # a `Record` of them, on the host
    ended: bool  # nothing more is to be run


def run_chunks(
    program: Program,
    inputs: Inputs,
    run: _run.Run,
    buffers: Record,
    *,
    done: int,
    num_rounds: int,
    at_most: Callable[[int], int] | None = None,
) -> Iterator[Chunk]:
    """Chunk after chunk until all runs end.

    Args:
      program, inputs: of the loop.
      run, buffers: of `begin`, or a run that goes on; they are given away.
      done: rounds that were done before.
      num_rounds: K.
      at_most: from the rounds that are done to the most that the next chunk may have.
    """
    capacity, number = buffers.error.shape[0], 0
    length = FIRST_CHUNK
    ended = done == num_rounds or not _some_run(run, program.mesh)
    while not ended:
        start, before = time.perf_counter(), done
        length = min(length, capacity, num_rounds - done)
        if at_most is not None:
            length = min(length, at_most(done))
        ran, run, buffers = chunk(
            program, inputs, run, buffers, np.int32(done), np.int32(length)
        )
        done, number = before + int(ran), number + 1
        on_host = _mesh.on_host(buffers, program.mesh)
        record = jax.tree.map(lambda x: _first(x, done - before), on_host)  # noqa: B023
        ended = done == num_rounds or not _some_run(run, program.mesh)
        yield Chunk(before, done, run, record, ended)
        if number > 1:  # the first chunk's time is mostly the compiler's
            seconds = time.perf_counter() - start
            length = int(np.clip(length * CHUNK_SECONDS / seconds, 1, capacity))
            length = _mesh.agreed(length, program.mesh)


def _some_run(run: _run.Run, mesh) -> bool:
    outcome = np.asarray(_mesh.on_host(run.outcome, mesh))
    return bool((outcome == _run.RUNNING).any())


def _first(buffer, rounds: int) -> np.ndarray:
    """The records of a chunk, which the next one will not overwrite."""
    return np.array(np.asarray(buffer)[:rounds])

"""The compiled loop and its host driver: of one run, or of settings side by side.

The loop is compiled for a program, which says what a round is. Rounds are run in
chunks; between them the host looks at what they left behind.
"""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import _native, _trees
from gdsec_jax.federation._check import check
from gdsec_jax.problems import Problem
from gdsec_jax.problems._compiled import bare
from gdsec_jax.simulation import _buffers, _mesh, _run
from gdsec_jax.simulation._buffers import Buffers
from gdsec_jax.uplink import Uplink

CHUNK_SECONDS = 0.25  # between two looks at the progress bar
FIRST_CHUNK = 16  # rounds; the later ones take as long as a look is apart
MOST_ROUNDS = 2**14  # that are kept on the device between two looks
MOST_RECORDS = 2**19  # of workers and rounds: those of a sweep stay in a cache
MOST_BYTES = 2**28  # the same, of all that is recorded


class Made(NamedTuple):
    """An optimizer as what makes it, of values that are traced.

    Runs whose makers are equal share one compiled loop, whatever their values.
    """

    make: Callable[..., optax.GradientTransformation]  # from `values`; hashable
    values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Given:
    """Makes the optimizer that it was given."""

    optimizer: optax.GradientTransformation

    def __call__(self, *, values: Mapping[str, Any]) -> optax.GradientTransformation:
        return self.optimizer


class OneRun(NamedTuple):
    """The program of a single run. Static: equal ones share what is compiled."""

    make: Callable[..., optax.GradientTransformation]  # from its values
    options: _run.Options
    mesh: jax.sharding.Mesh | None = None  # over which workers are spread
    packs: bool = True  # records of few entries side by side, which no mesh can cut

    def start(self, inputs: _run.Inputs, params: Any) -> _run.Run:
        """The run before its first round, of an optimizer that can do it."""
        optimizer = self.make(values=inputs.values)
        num_workers, batch = inputs.problem.num_workers, self.options.worker_batch
        check(optimizer, params, num_workers, batch)
        return _run.start(optimizer, params)

    def one_round(self, inputs: _run.Inputs, number: jax.Array, run: _run.Run):
        """The run after a round, and its record."""
        optimizer = self.make(values=inputs.values)
        return _run.one_round(optimizer, self.options, inputs, number, run)

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

    def start(self, inputs: _run.Inputs, params: Any) -> _run.Run:
        """The runs before their first round, [S, ...]."""

        def one(values):
            return _run.start(self.make(values=values), params)

        return jax.vmap(one, axis_size=self.size)(inputs.values)

    def one_round(self, inputs: _run.Inputs, number: jax.Array, run: _run.Run):
        """The runs after a round, but for those that had ended; and the records."""

        def one(values, key, run):
            uplink = self.uplink(values=values)
            if inputs.uplink.channel is not None:
                uplink = dataclasses.replace(uplink, channel=inputs.uplink.channel)
            own = inputs._replace(uplink=uplink, key=key)
            optimizer = self.make(values=values)
            return _run.one_round(optimizer, self.options, own, number, run)

        axes = (0, 0 if self.own_keys else None, 0)
        new, record = jax.vmap(one, axes)(inputs.values, inputs.key, run)
        # What has ended stays there; the state that it computes on is not looked at.
        running, old = run.outcome == _run.RUNNING, run._replace(state=())
        held = _trees.where(running, new._replace(state=()), old)
        return held._replace(state=new.state), record

    def spread(self, tree: Any, axis: int = 0) -> Any:
        """The runs, or their records, over the devices."""
        return _mesh.spread(tree, self.mesh, axis)


Program = OneRun | ManySettings


@functools.partial(jax.jit, static_argnames=("program", "capacity"))
def begin(
    program: Program, inputs: _run.Inputs, params: Any, capacity: int
) -> tuple[_run.Run, Buffers]:
    """A program before its first round, and zeros for the records of so many rounds.

    Of fewer if they are large; they are not shaped by num_rounds: one loop for all.
    """
    run = program.start(inputs, params)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    _, record = jax.eval_shape(program.one_round, inputs, number, run)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(record))
    capacity = max(1, min(capacity, MOST_BYTES // size))

    packs = isinstance(program, OneRun) and program.packs
    buffers = _buffers.empty(record, capacity, packs)
    return program.spread(run), program.spread(buffers, axis=1)


@functools.partial(
    jax.jit, static_argnames=("program",), donate_argnames=("run", "buffers")
)
def chunk(
    program: Program,
    inputs: _run.Inputs,
    run: _run.Run,
    buffers: Buffers,
    number,
    length,
):
    """At most `length` rounds from round `number` on, fewer if all runs end.

    Returns how many it were; the runs; the buffers, with their records first.
    """

    def goes_on(carry):
        i, run, _ = carry
        return (i < length) & (run.outcome == _run.RUNNING).any()

    def body(carry):
        i, run, buffers = carry
        run, record = program.one_round(inputs, number + i, run)
        buffers = _buffers.put(buffers, i, record)
        return i + 1, program.spread(run), program.spread(buffers, axis=1)

    run, buffers = program.spread(run), program.spread(buffers, axis=1)
    return jax.lax.while_loop(goes_on, body, (0, run, buffers))


def capacity_for(records: int) -> int:
    """Rounds that are kept on the device, of so many workers and settings."""
    return max(1, min(MOST_ROUNDS, MOST_RECORDS // records))


class Chunk(NamedTuple):
    """Some rounds that were run."""

    numbers: np.ndarray  # of these rounds, the first is 1
    run: _run.Run  # after them; the next chunk takes its memory
    record: Any  # a `Record` of them, on the host


def run_chunks(
    program: Program,
    inputs: _run.Inputs,
    run: _run.Run,
    buffers: Buffers,
    *,
    done: int = 0,
    every: int | None = None,
) -> Iterator[Chunk]:
    """Chunk after chunk, each up to a multiple of `every` at most, until all runs end.

    Run and buffers are given away.
    """
    mesh, num_rounds = program.mesh, int(inputs.limits.rounds)
    every = every or num_rounds
    capacity, number = buffers.capacity, 0
    length = FIRST_CHUNK
    while done < num_rounds and _some_run(run, mesh):
        start, before = time.perf_counter(), done
        length = min(length, capacity, num_rounds - done, every - done % every)
        ran, run, buffers = chunk(
            program, inputs, run, buffers, np.int32(done), np.int32(length)
        )
        done, number = before + int(ran), number + 1
        first = functools.partial(_first, int(ran))
        on_host = _buffers.rounds_first(_mesh.on_host(buffers, mesh))
        record = jax.tree.map(first, on_host)
        numbers, eval_every = np.arange(before, done) + 1, program.options.eval_every
        record = _run.unknown_as_nan(record, numbers, eval_every, num_rounds)
        yield Chunk(numbers, run, record)
        if number > 1:  # the first chunk's time is mostly the compiler's
            seconds = time.perf_counter() - start
            length = int(np.clip(length * CHUNK_SECONDS / seconds, 1, capacity))
            length = _mesh.agreed(length, mesh)


def _some_run(run: _run.Run, mesh) -> bool:
    outcome = np.asarray(_mesh.on_host(run.outcome, mesh))
    return bool((outcome == _run.RUNNING).any())


def _first(rounds: int, buffer) -> np.ndarray:
    """The records of a chunk, which the next one will not overwrite."""
    return np.array(np.asarray(buffer)[:rounds])


# What a run computes, in a few words: equal for runs of the same course


def fingerprint(
    problem: Problem, program: Program, inputs: _run.Inputs, stop: _run.Stop
) -> dict[str, str]:
    """By name, all that a run's course depends on; not its length, nor its devices.

    Of the limits the number of rounds does not matter, nor what follows from the
    initial error, which other devices round otherwise.
    """
    options = program.options._replace(worker_batch=None)
    program = program._replace(mesh=None, options=options)
    # Shapes alone, without the devices that they are on, and without the kernels.
    inputs = inputs._replace(problem=bare(inputs.problem))
    taken = jax.eval_shape(lambda *x: x, inputs, problem.init_params)

    def first_round(inputs, params):
        run = program.start(inputs, params)
        return program.one_round(inputs, jnp.zeros((), jnp.int32), run)

    with _native.native_kernels(False):
        first = jax.jit(first_round).lower(*taken)
    _, record = first.out_info
    # The wire formats too: what is counted is the same, what it costs is not.
    text = first.as_text() + repr(jax.tree.structure(record)) + digest(inputs.values)
    with np.errstate(over="ignore"):  # as the loop compares it
        target = np.asarray(inputs.limits.target_error).astype(record.error.dtype)
    return {
        "problem": problem.name,
        "data": digest(inputs.problem, problem.init_params, inputs.uplink),
        "method or options": hashlib.sha256(text.encode()).hexdigest(),
        "key": f"{inputs.key.dtype} {_trees.bytes_of(inputs.key).hex()}",
        "eval_every": str(program.options.eval_every),
        "target_error": str(target),
        "divergence_factor": str(float(stop.divergence_factor)),
        "jax": jax.__version__,
    }


def digest(*trees: Any) -> str:
    """Of the bytes of all arrays."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        found.update(_trees.bytes_of(leaf))
    return found.hexdigest()

"""What a compiler makes of an update, a run or a sweep, for chips that need not be."""

import contextlib
import dataclasses
import importlib.util
import inspect
import math
import os
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from gdsec_jax import _checks
from gdsec_jax._devices import check_share, mesh_of
from gdsec_jax.simulation import _chunks, _grid, _hlo, _mesh, _plan, _run
from gdsec_jax.simulation._simulate import simulate
from gdsec_jax.simulation._sweep import asked, sweep
from gdsec_jax.uplink import Uplink

# By the first part of a topology's name: what it is called where chips are rented, and
# the smallest that libtpu describes, of which one chip is taken.
_CHIPS = {"v5e": ("v5litepod", "v5e:2x2"), "v6e": ("v6e", "v6e:2x2")}


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A compiled program, and what was read off it; of a loop over rounds one round.

    Attributes:
      compiled: the `jax.stages.Compiled`.
      bytes_moved: between a chip and its memory, as XLA schedules it: of a TPU, whose
        memory on the chip counts for nothing, HBM; of others what instructions read and
        write, caches or not.
      bytes_least: every argument read once and every result written once; None of a
        round.
      temporaries: bytes beside arguments and results, of the whole program.
      kernels: instructions that a chip executes, but for those on a single number.
      collectives: how often each kind runs, and the bytes of its results.
      sorts, scatters: how often they run.
      rough_products: products whose factors a TPU cuts to bfloat16.
      open_loops: loops of unknown length, which count as if they ran once.
      seconds: of processor time that compiling took.
    """

    compiled: Any
    bytes_moved: int
    bytes_least: int | None
    temporaries: int
    kernels: int
    collectives: dict[str, tuple[int, int]]
    sorts: int
    scatters: int
    rough_products: int
    open_loops: int
    seconds: float

    @property
    def ratio(self) -> float:
        """Bytes moved over the least; NaN of a round."""
        return self.bytes_moved / self.bytes_least if self.bytes_least else math.nan

    def __str__(self) -> str:
        rows = [("bytes moved", f"{self.bytes_moved:,}")]
        if self.bytes_least:
            rows.append(("least", f"{self.bytes_least:,}"))
            rows.append(("ratio", f"{self.ratio:.2f}"))
        rows += [
            ("temporaries, bytes", f"{self.temporaries:,}"),
            ("kernels", f"{self.kernels:,}"),
            ("sorts, scatters", f"{self.sorts}, {self.scatters}"),
            ("products in bfloat16", f"{self.rough_products}"),
            ("open loops", f"{self.open_loops}"),
            ("seconds to compile", f"{self.seconds:.1f}"),
        ]
        for kind, (times, size) in self.collectives.items():
            rows.append((kind, f"{times}, {size:,} bytes"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def lower(what: Callable, *arguments: Any, on: Any = None, **options: Any) -> Lowered:
    """Compile a call for devices, present or only described, and say what it moves.

    Nothing is run on them. Write the call as it will be made: `simulate` and `sweep`
    with their problem and optimizer, or the `update` of an optimizer with its
    gradients, its state, which is given away, and the parameters; in the place of
    arrays a `jax.ShapeDtypeStruct` will do.

    Args:
      what: `gdsec_jax.simulate`, `gdsec_jax.sweep`, or the function `update` of an
        optimizer or of an algorithm.
      arguments, options: of the call; of `simulate` and `sweep` those that shape the
        loop, so neither files nor logs. Their `mesh` is the devices.
      on: the devices: a topology of TPUs, "v5e:2x2" say, for a mesh of all its chips,
        or "v5e" for one chip, both of which need the package libtpu alone (extra
        `tpu-aot`); a `jax.sharding.Mesh`; or by default this process's first device.
        Over a mesh each device has its workers of a run, its settings of a sweep; an
        update is what `jit` makes of arrays that lie so, unless a mesh is set besides.

    Returns:
      A `Lowered`, which prints as a table.

    Raises:
      ImportError: a topology is named, and libtpu is absent.
      ValueError: `what` or `on` is none of these, the call lacks an argument or has one
        that shapes no loop, its arguments do not fit, as where the call is made, or
        workers do not share the devices evenly.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> import gdsec_jax
      >>> algorithm = gdsec_jax.gdsec(4, xi=1.0)
      >>> params = jax.ShapeDtypeStruct((1000,), jnp.float32)
      >>> state = jax.eval_shape(algorithm.init, params)
      >>> gradients = jax.ShapeDtypeStruct((4, 1000), jnp.float32)
      >>> lowered = gdsec_jax.lower(algorithm.update, gradients, state, params)
      >>> lowered.sorts, lowered.bytes_least > 4 * 1000 * 4
      (0, True)
    """
    rounds = what is simulate or what is sweep
    if not rounds and not callable(what):
        hint = ": its update" if hasattr(what, "update") else ""
        raise ValueError(
            f"what is {_checks.shown(what)}, expected gdsec_jax.simulate, "
            f"gdsec_jax.sweep, or the function update of an optimizer{hint}."
        )
    if rounds and options.get("mesh") is not None:
        if on is not None:
            raise ValueError("mesh is given beside on, expected one of the two.")
        on = options["mesh"]
        _checks.instance("mesh", on, Mesh, "a jax.sharding.Mesh")
    if rounds:
        options.pop("mesh", None)
        lower_it = _lower_run if what is simulate else _lower_sweep
    else:
        arguments, lower_it = (what, *arguments), _lower_update
    _check_call(lower_it, arguments, options)
    where = _devices_of(on)
    mesh = where if isinstance(where, Mesh) else None
    everywhere: Any = where if mesh is None else _mesh.everywhere(mesh)
    # As `simulate` sets it; of an update it is the caller's to set one.
    is_seen = mesh is not None and what is simulate
    with jax.set_mesh(mesh) if is_seen else contextlib.nullcontext():
        lowered, arrays = lower_it(*arguments, where=everywhere, mesh=mesh, **options)
        start = time.process_time()
        compiled = lowered.compile()
        seconds = time.process_time() - start
    text = compiled.as_text() or ""
    moved = _hlo.of_loop(text) if rounds else _hlo.traffic(text)
    memory = compiled.memory_analysis()
    (chip, *_) = everywhere.device_set
    return Lowered(
        compiled=compiled,
        bytes_moved=moved.bytes,
        bytes_least=None if rounds else _least(arrays, compiled),
        temporaries=memory.temp_size_in_bytes if memory else 0,
        kernels=moved.kernels,
        collectives={
            kind: (times, moved.collective_bytes[kind])
            for kind, times in moved.collectives.items()
        },
        sorts=moved.operations["sort"],
        scatters=moved.operations["scatter"],
        rough_products=moved.rough if chip.platform == "tpu" else 0,
        open_loops=moved.open_loops,
        seconds=seconds,
    )


def _check_call(function: Callable, arguments: Any, options: dict[str, Any]) -> None:
    """A ValueError if it does not take these arguments."""
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments, **options, where=None, mesh=None)
    except TypeError as error:
        own = (name for name in signature.parameters if name not in ("where", "mesh"))
        raise ValueError(
            f"the call to lower does not fit: {error}; expected {', '.join(own)}."
        ) from None


def _devices_of(on: Any) -> Mesh | SingleDeviceSharding:
    """A mesh of one axis, or one device."""
    if on is None:
        return SingleDeviceSharding(jax.local_devices()[0])
    if isinstance(on, Mesh):
        return mesh_of(on) if on.size > 1 else SingleDeviceSharding(on.devices.flat[0])
    kind = on.partition(":")[0] if isinstance(on, str) else ""
    named = kind in _CHIPS and re.fullmatch(r"\w+(:[1-9]\d*x[1-9]\d*)?", on)
    if not named:
        raise ValueError(
            f"on is {_checks.shown(on)}, expected a jax.sharding.Mesh, or TPUs by name "
            "such as 'v5e' or 'v6e:2x2'."
        )
    chips = described(_CHIPS[kind][1] if on == kind else on)
    if on == kind:
        return SingleDeviceSharding(chips[0])
    return mesh_of(Mesh(np.array(chips), ("chips",)))


def described(topology: str) -> list[Any]:
    """The chips of a topology, none of which need be there.

    Raises:
      ImportError: libtpu is absent.
      ValueError: it knows no such topology.
    """
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            f"{topology} needs libtpu, which is absent: pip install gdsec-jax[tpu-aot]"
        )
    kind, _, shape = topology.partition(":")
    number = math.prod(int(n) for n in shape.split("x"))
    environment = {
        # libtpu would ask a cloud's servers where it runs; nobody answers elsewhere.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": f"{_CHIPS[kind][0]}-{number}",
        "TPU_WORKER_HOSTNAMES": "localhost",
        # No chip is opened, so several processes may compile at once.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(topology, platform="tpu").devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"on is {topology!r}, expected a topology that libtpu describes: "
            f"{_checks.words_of(error)}"
        ) from error


def _put(tree: Any, where: Any) -> Any:
    """Shapes of the arrays in a tree, each on its devices; numbers as they are."""
    if isinstance(where, jax.sharding.Sharding):
        one = where
        where = jax.tree.map(lambda _: one, tree)

    def shape(x, place):
        if not isinstance(x, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            return x
        weak = getattr(x, "weak_type", False)  # or it is another program
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place, weak_type=weak)

    places = jax.tree.broadcast(where, tree)
    return jax.tree.map(shape, tree, places)


def _lower_update(update, updates, state, params=None, *, where, mesh, **extra):
    for name, tree in {"updates": updates, "state": state, "params": params}.items():
        _check_arrays(name, tree)
    leaves = jax.tree.leaves(updates)
    if mesh is not None:
        check_share(leaves[0].shape[0] if leaves and leaves[0].ndim else 1, mesh.size)
        own = _mesh.over(mesh)
        updates, state = _put(updates, own), _put(state, _mesh.by_worker(state, mesh))
    else:
        updates, state = _put(updates, where), _put(state, where)
    places = jax.tree.map(lambda x: x.sharding, state)

    words = {name: extra.pop(name) for name in list(extra) if _is_word(extra[name])}

    def step(updates, state, params, **extra):
        made = update(updates, state, params, **words, **extra)
        is_pair = isinstance(made, tuple) and len(made) == 2
        if not is_pair or jax.tree.structure(made[1]) != jax.tree.structure(state):
            raise ValueError(
                f"what returns {_checks.shown(made)}, expected updates and the state."
            )
        return made

    step = jax.jit(step, donate_argnums=1, out_shardings=(where, places))
    arguments = updates, state, _put(params, where)
    extra = _put(extra, where)
    try:
        return step.lower(*arguments, **extra), (arguments, extra)
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"what fails on these arguments, expected an update, and what it takes: "
            f"{_checks.words_of(error)}"
        ) from error


def _is_word(value: Any) -> bool:
    """Whether it says how an update is made, as a name does, and is no number."""
    return isinstance(value, str) or callable(value)


def _check_arrays(name: str, tree: Any) -> None:
    """A ValueError unless all leaves are arrays, or their shapes."""
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            raise ValueError(
                f"{name} is {_checks.shown(tree)}, expected arrays, or their "
                "jax.ShapeDtypeStruct."
            )


def _lower_run(
    problem,
    optimizer,
    num_rounds: int = 1000,
    *,
    where,
    mesh,
    key: Any = None,
    eval_every: int = 1,
    stop: _run.Stop | None = None,
    uplink: Uplink | None = None,
    observe: Any = None,
    worker_batch: int | None = None,
):
    stop, uplink = _run.checked(problem, stop, uplink)
    _checks.optimizer(optimizer)
    if mesh is not None:
        check_share(problem.num_workers, mesh.size)
    options = _run.options(eval_every, observe, worker_batch)
    packs = mesh is None
    program = _chunks.OneRun(_chunks.Given(optimizer), options, mesh, packs)
    key = _run.key_for(problem, key, uplink)
    limits = _run.limits(problem, num_rounds, stop, math.inf)
    inputs = _run.Inputs(_run.for_loop(problem), limits, uplink, key)
    capacity = _chunks.capacity_for(problem.num_workers)
    shapes = program._replace(mesh=None)
    run, buffers = jax.eval_shape(
        lambda params: _chunks.begin(shapes, inputs, params, capacity),
        problem.init_params,
    )
    if mesh is None:
        places = where, where, where
    else:
        shared = jax.tree.map(lambda _: where, inputs.problem)
        data = dataclasses.replace(shared, worker_data=_mesh.over(mesh))
        run_at = _mesh.by_worker(run, mesh)
        places = data, run_at, _mesh.by_worker(buffers, mesh, 1)
    inputs = _put(inputs, where)._replace(problem=_put(inputs.problem, places[0]))
    run, buffers = _put(run, places[1]), _put(buffers, places[2])
    return _lower_chunk(program, inputs, run, buffers)


def _lower_sweep(
    problem: Any,
    make_optimizer,
    grid,
    num_rounds: int = 1000,
    *,
    where,
    mesh,
    key: Any = None,
    eval_every: int = 1,
    stop: _run.Stop | None = None,
    uplink: Any = None,
    observe: Any = None,
):
    listed, common = asked(
        *(problem, make_optimizer, grid, num_rounds),
        **{"key": key, "eval_every": eval_every, "stop": stop},
        **{"uplink": uplink, "observe": observe, "mesh": None},
    )
    maker = problem if callable(problem) else None
    (group, *others) = _grid.groups_of(listed, maker)
    if others:
        raise ValueError(
            f"grid makes {1 + len(others)} loops, one for each static value, expected "
            "one: lower each by itself."
        )
    given: Any = problem
    plan = _plan.plan_of(group, given, make_optimizer, common)
    # Perhaps a few more, as where it is run, that all devices have the same number.
    more = -plan.count % (1 if mesh is None else mesh.size)
    plan = plan.of_size(plan.count + more)

    def begin():
        inputs = plan.inputs_of(group.traced + group.traced[-1:] * more)
        return inputs, *plan.begin(inputs)

    inputs, run, buffers = jax.eval_shape(begin)
    program = plan.program._replace(mesh=mesh)
    own = where if mesh is None else _mesh.over(mesh)
    rows = where if mesh is None else _mesh.over(mesh, 1)
    placed = _put(inputs, where)._replace(values=_put(inputs.values, own))
    if plan.program.own_keys:
        placed = placed._replace(key=_put(inputs.key, own))
    return _lower_chunk(program, placed, _put(run, own), _put(buffers, rows))


def _lower_chunk(program, inputs, run, buffers):
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return _chunks.chunk.lower(program, inputs, run, buffers, number, number), None


def _least(arguments: Any, compiled) -> int:
    """Bytes of a device: every argument read once, every result written once."""

    def size(x):
        number = math.prod(x.sharding.shard_shape(x.shape))
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        # What is described in 64 bits is taken in 32, unless x64 is on.
        return number * (
            8 if is_key else jax.dtypes.canonicalize_dtype(x.dtype).itemsize
        )

    return sum(map(size, jax.tree.leaves((arguments, compiled.out_info))))

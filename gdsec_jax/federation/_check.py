"""A dry run of an optimizer, which says in a sentence what optax cannot."""

import functools
import math
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Literal

from gdsec_jax import _checks, _trees
from gdsec_jax.federation import _parts, _private
from gdsec_jax.federation._batches import WorkerBatches
from gdsec_jax.federation._counts import RoundCounts, last_round
from gdsec_jax.federation._local import FragmentsState, LocalState
from gdsec_jax.federation._round import Federation
from gdsec_jax.federation._train import HandedOn, WorkerLosses, coming_steps, telling
from gdsec_jax.worker._fragments import Fragments

_REMEDY = (
    "An algorithm of gdsec_jax stands first and takes away the axis of workers; "
    "wrappers such as optax.apply_if_finite and optax.MultiSteps stand behind it: "
    "optax.chain(gdsec_jax.gdsec(...), optax.apply_if_finite(optax.sgd(...), 5))."
)

_TRAINS = (
    "Workers that train stand first, then an algorithm of gdsec_jax, then the outer "
    'step: optax.chain(gdsec_jax.local(...), gdsec_jax.gd(..., reduction="mean"), '
    "optax.sgd(1.0))."
)

_KEEPS = "A wrapper of the algorithm keeps the axis of workers."
_KEEPS_MASKED = (
    "What is masked keeps the axis of workers: instead of optax.masked use "
    "optax.partition with gdsec_jax.gd for the rest."
)


def check(
    optimizer: optax.GradientTransformation,
    params: optax.Params,
    num_workers: int,
    worker_batch: int | None = None,
) -> None:
    """Raise a clear error if this optimizer cannot train with an axis of workers.

    One update is evaluated abstractly: nothing is computed. `simulate` calls this.
    Stages that ask for `value`, `grad` and `value_fn`, of f, are given some.

    Args:
      optimizer: a chain with an algorithm of this package in it.
      params: the parameters, or their shapes and dtypes.
      num_workers: M, the leading axis of the gradients.
      worker_batch: workers of a batch, if gradients come as `WorkerBatches`.

    Raises:
      ValueError: init or update fails on gradients [M, *param]; updates come out in
        other shapes than the parameters'; the state changes its structure, or the shape
        or dtype of a leaf; no algorithm of this package counts what is sent; what
        stands in front of one mixes workers, or draws; numbers of fragments differ; or
        one adds noise, and a stage stands in front, or asks for `value` and the like.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> optimizer = optax.chain(gdsec_jax.gd(num_workers=5), optax.adam(0.1))
      >>> gdsec_jax.check(optimizer, jnp.zeros(3), num_workers=5)
    """
    _checks.number_of_workers(num_workers)
    _checks.optimizer(optimizer)
    if worker_batch is not None:
        _checks.integer("worker_batch", worker_batch, 1)
    if not jax.tree.leaves(params):
        raise ValueError(f"params is {params!r}, expected at least one array.")
    _checks.floating(params)
    optimizer = optax.with_extra_args_support(optimizer)
    shapes = jax.eval_shape(lambda p: jax.tree.map(jnp.asarray, p), params)
    grads = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct((num_workers, *p.shape), p.dtype), shapes
    )
    trains, asks = False, False

    def value_fn(params):
        return _trees.squares(params, _trees.norm_dtype(params))

    def update(grads, state, params, losses=WorkerLosses):
        if trains:
            grads = losses(lambda at, own, key: value_fn(at), grads)
        elif worker_batch is not None:
            grads = WorkerBatches(lambda index, own: own, grads, worker_batch)

        def told():
            nonlocal asks
            asks = True
            return {"value": value_fn(params), "grad": params, "value_fn": value_fn}

        return telling(optimizer.update, told)(grads, state, params)  # pyright: ignore

    try:
        state = jax.eval_shape(optimizer.init, shapes)
    except Exception as error:
        stage = _where(error.__traceback__)[0]
        raise ValueError(
            f"{stage} cannot begin with these parameters: {_checks.words_of(error)}"
        ) from error
    _check_fragments(state)
    trains = coming_steps(state) is not None
    remedy = _TRAINS if trains else _REMEDY
    try:
        updates, new_state = jax.eval_shape(update, grads, state, shapes)
    except Exception as error:  # whatever a foreign stage makes of an axis of workers
        stage, gone, counts = _where(error.__traceback__, shapes)
        if gone and not counts:
            raise ValueError(
                f"{stage} fails in an update: {_checks.words_of(error)}"
            ) from error
        if gone and len(_trees.of_type(state, RoundCounts)) > 1:
            raise ValueError(
                "an algorithm of gdsec_jax stands behind another one, which has taken "
                "away the axis of workers: expected one of them in a chain."
            ) from error
        raise ValueError(
            f"{stage} cannot take gradients of {num_workers} workers"
            f"{'' if worker_batch is None else f', {worker_batch} at a time'}: "
            f"{_checks.words_of(error)} {remedy}"
        ) from error
    if trains and not _trees.of_type(state, RoundCounts):
        raise ValueError(f"nothing adds up what workers that train hand on. {_TRAINS}")
    last_round(state)
    masked = _trees.of_type(state, optax.MaskedState)
    try:
        _checks.same_shapes("the optimizer's updates", updates, shapes)
    except ValueError as error:
        raise ValueError(
            f"{error} {_KEEPS_MASKED if masked else _KEEPS} {remedy}"
        ) from error
    _check_carried(state, new_state)
    noised = _private.noised(state)
    if noised:
        _private.alone(trains, asks)
        worker_batch = None
    handed_on = _trees.of_type(state, LocalState)  # else the method trains them itself
    if handed_on or (worker_batch is None and not trains):
        front = functools.partial(update, losses=HandedOn)
        _check_in_front(noised, front, grads, state, shapes)


def _check_fragments(state: Any) -> None:
    """Whoever trains, sends or steps a fragment a round cuts the parameters alike."""
    numbers = {found.number for found in _trees.of_type(state, Fragments)} - {1}
    alone = not _trees.of_type(state, (LocalState, FragmentsState))
    if len(numbers) > 1 and not alone:
        raise ValueError(
            f"the optimizer has {' and '.join(map(str, sorted(numbers)))} fragments, "
            "expected one number in local(fragments=), worker.fragment and "
            "in_fragments: what one hands on the next would leave out."
        )


_received: ContextVar[list[Any] | None] = ContextVar("received", default=None)


def receive(gradients: Any) -> bool:
    """What an algorithm was handed; whether a dry run wants to know no more."""
    found = _received.get()
    if found is not None:
        found.append(gradients)
    return found is not None


def exchanges(federation: Federation) -> None:
    """What is compressed can be what travels between the devices of a mesh."""
    server = federation.server
    if server.prepare is not None:
        raise ValueError(
            "axis is named and the server sums h_m + u_m, which travels whole, "
            "expected server=server.running()."
        )
    if not server.exchanges:
        raise ValueError(
            "axis is named, expected a server that adds the messages up as they come: "
            "server.total(), running() or sparse(capacity)."
        )


def fits(federation: Federation, params: Any) -> None:
    """The server takes as many entries as the pipeline sends."""
    capacity, most = federation.server.capacity, federation.worker.most_entries
    if capacity is None or most is None or _trees.stand_in(params):
        return
    if capacity < most(params):
        raise ValueError(
            f"capacity is {capacity}, expected at least {most(params)}, the entries "
            "that the pipeline sends."
        )


def named(federation: Federation, axes: tuple[str, ...]) -> None:
    """Where an axis was read, not named, no sum of whole vectors hides behind it."""
    if axes and federation.server.prepare is not None:
        raise ValueError(
            f"the gradients' workers lie on {' and '.join(map(repr, axes))}, and the "
            "server sums h_m + u_m, which travels whole, expected a named axis: "
            f"axis={(axes[0] if len(axes) == 1 else axes)!r}."
        )


def adds_up(federation: Federation, shards: int) -> None:
    """Workers on several devices can be combined device by device."""
    parts = federation.server.parts
    if shards > 1 and parts not in (None, shards):
        raise ValueError(
            f"parts is {parts}, expected {shards}, the places that the workers lie on."
        )
    if shards > 1 and not federation.server.batches:
        raise ValueError(
            "the workers lie on several devices, expected a server that adds up what "
            "they say; a robust one needs all at once: simulate(..., mesh=mesh)."
        )


def _check_in_front(noised: bool, update: Callable, *arguments: Any) -> None:
    """What stands in front of an algorithm treats each worker by itself.

    It may not reduce the axis of workers on the way from the gradients, or from what
    `local` hands on, to what the algorithm is handed, nor draw, since no worker has a
    key of its own there. A single worker is all.
    Of what is `noised` nothing at all stands in front: it is handed the gradients.
    """
    if not noised and all(len(leaf) == 1 for leaf in jax.tree.leaves(arguments[0])):
        return

    def front(*arguments):
        token = _received.set([])
        try:
            update(*arguments)
            return _received.get()
        finally:
            _received.reset(token)

    try:
        jaxpr = jax.make_jaxpr(front)(*arguments).jaxpr
    except jax.errors.UnexpectedTracerError:
        _private.untouched(not noised)
        return  # the algorithm is compiled by itself: what is in front is not seen
    number = len(jax.tree.leaves(arguments[0]))
    if noised:
        received = set(_variables(jaxpr.outvars))
        _private.untouched(received == set(jaxpr.invars[:number]))
        return
    done = _done_to(jaxpr, dict.fromkeys(jaxpr.invars[:number], 0), set(jaxpr.outvars))
    if done:
        raise ValueError(
            f"a stage in front of the algorithm {done}, expected one that treats each "
            "worker by itself: let it stand behind the algorithm, or in the pipeline "
            "of one worker (gdsec_jax.federate)."
        )


_LOOKS = "looks at the gradients of all workers at once, as clipping does"


def _done_to(jaxpr: Any, workers: dict[Any, int], results: set) -> str | None:
    """What a program does to the gradients of all workers on the way to its results.

    `workers` has the axis of workers of each value that is made of gradients; those
    that the program makes are put into it.
    """
    for equation in reversed(_on_the_way(jaxpr, results)[0]):
        name, made = equation.primitive.name, equation.outvars
        if name.startswith(("random_bits", "threefry")):
            return "adds noise to the gradients"
        of_all = [x for x in _variables(equation.invars) if x in workers]
        calls = _inner(equation)
        if name == "scan" and of_all:
            (inner, used), *_ = calls
            # What it goes through has an axis more than each of its steps sees.
            along = [x for x, y in _pairs(used, inner.invars) if _deeper(x, y)]
            carries = any(not _deeper(x, y) for x, y in _pairs(made, inner.outvars))
            if carries or any(workers[x] or x not in along for x in of_all):
                return _LOOKS
            workers.update(dict.fromkeys(made, 0))  # one worker after the other
            calls, of_all = [], []
        for inner, used in calls:
            pairs = zip(inner.invars, used, strict=True)
            own = {x: workers[y] for x, y in pairs if _variables([y]) and y in workers}
            done = _done_to(inner, own, set(inner.outvars))
            if done:
                return done
            pairs = zip(inner.outvars, made, strict=True)
            workers |= {y: own[x] for x, y in pairs if _variables([x]) and x in own}
        if of_all and not calls:
            axis = _axis_behind(equation, workers)
            if axis is None:
                return _LOOKS
            workers |= dict.fromkeys(made, axis)
    return None


def _axis_behind(equation: Any, workers: dict[Any, int]) -> int | None:
    """The axis of workers in what is computed of them; None if they are mixed."""
    name, own = equation.primitive.name, equation.params
    found = set()
    for operand, x in enumerate(equation.invars):
        if not _variables([x]) or x not in workers:
            continue
        axis, shape = workers[x], x.aval.shape
        over = [own[key] for key in ("axes", "axis", "dimension") if key in own]
        over = over or [own.get("dimensions", ())]
        over = over[0] if isinstance(over[0], tuple) else (over[0],)
        if name == "dot_general":
            over, batch = (each[operand] for each in own["dimension_numbers"])
            free = [i for i in range(len(shape)) if i not in (*over, *batch)]
            order = [*batch, *free]
            behind = order.index(axis) if axis in order else None
            if operand == 1 and axis in free:  # behind those of the first
                behind += equation.outvars[0].aval.ndim - len(order)  # pyright: ignore
        elif name == "transpose":
            behind = own["permutation"].index(axis)
        elif name == "broadcast_in_dim":
            behind = own["broadcast_dimensions"][axis]
        elif name == "reshape":
            new = equation.outvars[0].aval.shape
            rows = math.prod(shape[:axis])
            same = [
                i
                for i, n in enumerate(new)
                if (n, math.prod(new[:i])) == (shape[axis], rows)
            ]
            behind = same[0] if same else None
        else:
            gone = name.startswith(("reduce", "argm", "squeeze"))
            behind = axis - gone * sum(i < axis for i in over)
            if name == "gather" and axis in own["dimension_numbers"].start_index_map:
                behind = None
        if axis in over and shape[axis] > 1:
            return None
        for out in equation.outvars:
            if behind is None or out.aval.shape[behind : behind + 1] != (shape[axis],):
                return None
        found.add(behind)
    return found.pop() if len(found) == 1 else None


def _on_the_way(jaxpr: Any, results: set) -> tuple[list[Any], set]:
    """The equations that the results are made by, the last first, and of which inputs.

    What merely chooses between values makes none: workers may be drawn that fail.
    """
    needed, kept = set(results), []
    for equation in reversed(jaxpr.eqns):
        made = needed.intersection(equation.outvars)
        if not made:
            continue
        kept.append(equation)
        calls, chooses = _inner(equation), equation.primitive.name == "select_n"
        if not calls:
            needed.update(_variables(equation.invars[1 if chooses else 0 :]))
        for inner, used in calls:
            pairs = zip(inner.outvars, equation.outvars, strict=True)
            _, known = _on_the_way(inner, {x for x, y in pairs if y in made})
            pairs = zip(inner.invars, used, strict=True)
            needed.update(_variables(y for x, y in pairs if x in known))
    return kept, needed


def _inner(equation: Any) -> list[tuple[Any, Any]]:
    """The programs that an equation calls, and the arguments of its own they get."""
    if "branches" in equation.params:
        return [(x.jaxpr, equation.invars[1:]) for x in equation.params["branches"]]
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    same = inner is not None and len(inner.invars) == len(equation.invars)
    return [(inner, equation.invars)] if same else []


def _pairs(outer: Any, inner: Any) -> list[tuple[Any, Any]]:
    return [(x, y) for x, y in zip(outer, inner, strict=True) if _variables([x])]


def _deeper(outer: Any, inner: Any) -> bool:
    return outer.aval.ndim > inner.aval.ndim


def _variables(values: Any) -> list[Any]:
    return [value for value in values if not isinstance(value, Literal)]


def _check_carried(state: Any, new_state: Any) -> None:
    """A loop can carry the state: an update keeps its structure, shapes and dtypes."""
    if _parts.kinds(state) == _parts.kinds(new_state):
        return
    before = jax.tree_util.tree_leaves_with_path(state)
    after = jax.tree.leaves(new_state)
    if jax.tree.structure(state) == jax.tree.structure(new_state):
        for (path, old), new in zip(before, after, strict=True):
            where = jax.tree_util.keystr(path)
            if old.shape != new.shape:
                raise ValueError(
                    f"state{where} has the shape {old.shape} at first and {new.shape} "
                    "after an update, so that no loop can carry it: a stage took the "
                    f"workers for an axis of a parameter. {_REMEDY}"
                )
            if old.dtype != new.dtype:
                raise ValueError(
                    f"state{where} is {old.dtype} at first and {new.dtype} after an "
                    "update, so that no loop can carry it: expected parameters of one "
                    "dtype, for numbers that are arrays, as optax.inject_hyperparams "
                    "makes them, widen narrower ones."
                )
    raise ValueError(
        "this optimizer's state changes its structure in an update, so that no loop "
        f"can carry it: expected that of its init. {_REMEDY}"
    )


def _where(traceback: TracebackType | None, params: Any = None):
    """The stage that failed, by its factory's name, or what wraps the algorithm in it.

    And of the last function on the way that has `updates`, as optax calls them: whether
    there is no axis of workers in them, and whether its state counts what is sent.
    """
    stages, updates, state = [], None, ()
    while traceback is not None:
        code, local = traceback.tb_frame.f_code, traceback.tb_frame.f_locals
        factory, _, function = code.co_qualname.rpartition(".")
        name = factory.partition(".")[0]
        if function in ("update", "update_fn", "init", "init_fn"):
            stages += [name] * (name not in ("check", "with_extra_args_support"))
        if "updates" in local:
            # A chain's state is that of all its stages.
            updates, state = local["updates"], local.get("state")
            state = () if name == "chain" else state
        traceback = traceback.tb_next
    inner = stages[-1] if stages else ""
    around = [name for name in stages if name not in ("chain", "federate")]
    if inner == "federate":
        inner = around[0] if around else ""
    got, expected = jax.tree.leaves(updates), jax.tree.leaves(params)
    gone = [getattr(x, "shape", None) for x in got] == [x.shape for x in expected]
    stage = f"the stage {inner}" if inner else "this optimizer"
    return stage, gone, bool(_trees.of_type(state, RoundCounts))

"""Compiled CPU kernels, where gdsec-jax-native is installed.

What they compute is defined by XLA's own form, which stands beside each kernel here or
in the pieces: it is what runs elsewhere, and what derivatives are taken of.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _masks, _trees

ARGUMENTS = 4  # what the kernels' arguments mean: `gdsec_jax_native.ARGUMENTS`
# By the message's dtype, the dtypes that memories may have.
STATES = {
    "float32": ("float32", "bfloat16"),
    "float64": ("float32", "float64", "bfloat16"),
}
# By an entry's dtype, that of its key (`gdsec_jax.worker._counting.keys_of`).
KEYS = {
    **dict.fromkeys(("float32", "bfloat16", "uint32"), "uint32"),
    "float64": "uint64",
}
# A part of what jit's caches know a program by.
_switch = jax.make_user_context(default_value=True)


@functools.cache  # what is compiled already does not change with the environment
def _package() -> ModuleType | str:
    """The kernels, or why there are none."""
    asked = os.environ.get("GDSEC_NATIVE") or "1"
    if asked not in ("0", "1"):
        raise ValueError(f"GDSEC_NATIVE is {asked!r}, expected 0 or 1.")
    if asked == "0":
        return "off, GDSEC_NATIVE=0"
    try:
        import gdsec_jax_native  # pyright: ignore
    except ModuleNotFoundError:
        return "not installed"
    except (ImportError, OSError):
        return "off, built for another machine"
    except (AttributeError, ValueError):  # without a kernel
        return _ANOTHER
    fits = getattr(gdsec_jax_native, "ARGUMENTS", None) == ARGUMENTS
    return gdsec_jax_native if fits else _ANOTHER


_ANOTHER = "off, of another version: pip install ./native"


def said() -> str:
    """Which kernels programs have that are compiled now, in a word or two."""
    package = _package()
    if isinstance(package, str):
        return package
    if not _switch.value:
        return "off"
    try:
        devices = jax.devices("cpu")
    except RuntimeError:
        return "off, no CPU device"
    if len(devices) > 1:
        return "off, several CPU devices"  # over which XLA could not cut a kernel
    return package.__version__


def used() -> bool:
    """Whether programs that are traced now have the kernels, on CPUs."""
    package = _package()
    return not isinstance(package, str) and said() == package.__version__


@contextlib.contextmanager
def native_kernels(on: bool) -> Iterator[None]:
    """What is traced inside has the compiled kernels, where they are, or has not.

    The environment's GDSEC_NATIVE=0, read once, switches them off for a whole process.

    Args:
      on: whether it may have them.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import gdsec_jax
      >>> optimizer = optax.chain(gdsec_jax.gdsec(2, xi=1.0), optax.sgd(0.1))
      >>> grads, params = jnp.ones((2, 3)), jnp.zeros(3)
      >>> with gdsec_jax.native_kernels(False):  # XLA's own form, which defines them
      ...     updates, state = optimizer.update(grads, optimizer.init(params), params)
    """
    with _switch(on):
        yield


def on_cpu(kernel: Callable, by_xla: Callable) -> Callable:
    """A function that is the kernel in what is compiled for a CPU, and here.

    By XLA elsewhere, in what is exported, for others have no kernels, and where
    derivatives are taken.

    Args:
      kernel, by_xla: functions of the same arguments, trees of arrays, and results.
    """

    def chosen(*arguments):
        leaves, structure = jax.tree.flatten(arguments)
        shapes = [
            jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves
        ]
        out = jax.eval_shape(by_xla, *arguments)

        def traced(function):
            def flat(*leaves):
                return jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves)))

            return jax.make_jaxpr(flat)(*shapes)

        made = _choice().bind(*leaves, kernel=traced(kernel), by_xla=traced(by_xla))
        return jax.tree.unflatten(jax.tree.structure(out), made)

    function = jax.custom_jvp(chosen)

    @function.defjvp
    def _(primals, tangents):
        return jax.jvp(by_xla, primals, tangents)

    return function


@functools.cache
def _choice() -> Any:
    """The primitive that is a kernel, or XLA's form, when it is lowered."""
    from jax.extend import core
    from jax.interpreters import batching, mlir

    choice = core.Primitive("gdsec_choice")
    choice.multiple_results = True
    choice.def_abstract_eval(lambda *avals, kernel, by_xla: by_xla.out_avals)

    @choice.def_impl
    def _(*arguments, **forms):
        return jax.jit(functools.partial(choice.bind, **forms))(*arguments)

    def batched(arguments, axes, *, kernel, by_xla):
        def of(form):
            return jax.vmap(core.jaxpr_as_fun(form), axes)

        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arguments]
        forms = {
            name: jax.make_jaxpr(of(form))(*shapes)
            for name, form in (("kernel", kernel), ("by_xla", by_xla))
        }
        made = choice.bind(*arguments, **forms)
        return made, [0] * len(made)

    def lowering(on_cpu):
        def lower(context, *arguments, kernel, by_xla):
            known = context.module_context.lowering_parameters
            form = kernel if on_cpu and not known.for_export else by_xla
            function = mlir.lower_fun(core.jaxpr_as_fun(form), multiple_results=True)
            return function(context, *arguments)

        return lower

    batching.primitive_batchers[choice] = batched
    mlir.register_lowering(choice, lowering(on_cpu=False))
    mlir.register_lowering(choice, lowering(on_cpu=True), platform="cpu")
    return choice


def call(name: str, out: Any, *arguments: Any, **given: Any) -> Any:
    """A kernel's results, like `out`; arguments may have further axes in front."""
    return jax.ffi.ffi_call(name, out, vmap_method="broadcast_all", **given)(*arguments)


class Update(NamedTuple):
    """What a worker's half of a round leaves behind, of one leaf."""

    known: Any  # h, [M, D], or [M, 0]
    error: Any  # e, the same
    previous: Any  # params, [D]
    total: Any  # of h_m + u_m or of u_m, [D]
    entries: Any  # int32 [M], of the messages
    lost: Any  # bool [M], who lost entries that are not finite


class Round(NamedTuple):
    """What it is computed from."""

    gradients: jax.Array  # [M, D]
    known: jax.Array  # h, [M, D], or [M, 0] where there is none
    error: jax.Array  # e, the same
    params: jax.Array  # [D]
    previous: jax.Array  # [D]
    xi: jax.Array  # []
    beta: jax.Array  # []
    computes: jax.Array  # bool [M]
    sends: jax.Array  # the same
    arrives: jax.Array  # the same
    # Of `kth_largest`, [M]: then u has the k largest entries of v. Or [M, 0], with xi.
    key: jax.Array
    last: jax.Array


class Rank(NamedTuple):
    """Where a vector's k largest entries are: above a key, or with it and so far."""

    key: jax.Array  # [], the k-th largest
    last: jax.Array  # int32 [], where the last of the k is that has it; D: all have
    largest: jax.Array  # [], the largest key


def update(round: Round, *, estimates: bool, drops: bool) -> Update:
    r"""The workers' half of a round of GD-SEC, of one leaf, in place if donated.

    .. math:: v = g - h + e, \quad u = 0 \text{ if } |v| \le \xi |\theta - \theta'|
       \text{ else } v, \quad h \leftarrow h + \beta u, \quad e \leftarrow v - u

    or, with keys, :math:`u = \text{top}_k(v)`.

    Args:
      round: gradients and params in float32 or float64, memories in `STATES`.
      estimates: whether h is a part of the total.
      drops: whether entries that are not finite are left out.
    """
    kernel = functools.partial(_update, estimates=estimates, drops=drops)
    by_xla = functools.partial(_update_by_xla, estimates=estimates, drops=drops)
    return on_cpu(kernel, by_xla)(round)


def _update(round: Round, *, estimates: bool, drops: bool) -> Update:
    like = jax.ShapeDtypeStruct
    num_workers = round.gradients.shape[0]
    out = Update(
        known=like(round.known.shape, round.known.dtype),
        error=like(round.error.shape, round.error.dtype),
        previous=like(round.params.shape, round.params.dtype),
        total=like(round.params.shape, round.params.dtype),
        entries=like((num_workers,), jnp.int32),
        lost=like((num_workers,), jnp.bool_),
    )
    made = jax.ffi.ffi_call(
        "gdsec_update",
        tuple(out),
        vmap_method="broadcast_all",
        input_output_aliases={1: 0, 2: 1, 4: 2},
    )(*round, estimates=estimates, drops=drops)
    return Update(*made)


def _update_by_xla(round: Round, *, estimates: bool, drops: bool) -> Update:
    gradients, known, error = round[:3]
    dtype = gradients.dtype
    has_known, has_error = known.size > 0, error.size > 0
    h = known.astype(dtype) if has_known else jnp.zeros_like(gradients)
    e = error.astype(dtype) if has_error else jnp.zeros_like(gradients)
    v = gradients - h + e
    if round.key.size:
        keys = jax.lax.bitcast_convert_type(jnp.abs(v), KEYS[dtype.name])
        key, last = round.key[:, None], round.last[:, None]
        place = jax.lax.broadcasted_iota(jnp.int32, v.shape, 1)
        censored = ~_masks.reaching(keys, place, key, last)
    else:
        censored = jnp.abs(v) <= round.xi * jnp.abs(round.params - round.previous)
    u = _trees.flush(jnp.where(censored, 0, v).astype(dtype))
    moves = jnp.where(round.arrives[:, None], u, 0)
    new_h, new_e = (h + round.beta * moves).astype(known.dtype), v - moves
    new_e = new_e.astype(error.dtype)
    good = jnp.ones(v.shape, bool)
    if drops:
        good = jnp.isfinite(u)
        for has, new, old in ((has_known, new_h, h), (has_error, new_e, e)):
            if has and jnp.finfo(new.dtype).max < jnp.finfo(dtype).max:
                good &= jnp.isfinite(new) | ~jnp.isfinite(old)
    lost = ~good.all(1) & round.computes
    good &= round.computes[:, None]
    message = jnp.where(good & round.sends[:, None], u, 0)
    arrived = jnp.where(round.arrives[:, None], message, 0)
    summand = h + arrived if estimates and has_known else arrived
    return Update(
        known=jnp.where(good, new_h, known) if has_known else known,
        error=jnp.where(good, new_e, error) if has_error else error,
        previous=round.params,
        total=_trees.over_workers(summand),
        entries=(message != 0).sum(1, dtype=jnp.int32),
        lost=lost,
    )


def all_finite(gradients: jax.Array) -> jax.Array:
    """bool [M], of [M, D]."""
    out = jax.ShapeDtypeStruct(gradients.shape[:1], jnp.bool_)
    kernel = functools.partial(call, "gdsec_finite", out)
    return on_cpu(kernel, lambda x: jnp.isfinite(x).all(1))(gradients)


def change_norm(params: Any, previous: Any, dtype: Any) -> jax.Array:
    """The Euclidean norm of all entries of a tree less those of another."""

    def by_xla(params, previous):
        return _trees.norm(params, dtype, less=previous)

    def kernel(params, previous):
        out = jax.ShapeDtypeStruct((), dtype)
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(previous), strict=True)
        norms = [call("gdsec_change_norm", out, a.ravel(), b.ravel()) for a, b in pairs]
        return norms[0] if len(norms) == 1 else _trees.norm(norms, dtype)

    leaves = jax.tree.leaves((params, previous))
    dtypes = {leaf.dtype.name for leaf in leaves}
    fits = dtypes == {jnp.dtype(dtype).name} and dtypes <= STATES.keys()
    if not (fits and used() and _checks.is_traced(leaves)):
        return by_xla(params, previous)
    return on_cpu(kernel, by_xla)(params, previous)


def kth_largest(x: jax.Array, k: int, added: jax.Array | None = None) -> Rank:
    """The k-th largest of a vector's magnitudes.

    Args:
      x: [D], in a dtype of `KEYS`.
      k: from 1 to D, static.
      added: to x before, the same; in float32 or float64.
    """
    like = jax.ShapeDtypeStruct
    key = like((), jnp.dtype(KEYS[x.dtype.name]))
    out = (key, like((), jnp.int32), key)
    call = jax.ffi.ffi_call("gdsec_select", out, vmap_method="broadcast_all")
    return Rank(
        *call(x, jnp.zeros(0, x.dtype) if added is None else added, k=np.int64(k))
    )

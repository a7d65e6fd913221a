"""Arithmetic on trees whose leaves differ in dtype, as memories and gradients do."""

import contextlib
import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from gdsec_jax import _checks
from gdsec_jax._devices import unless_on_tpu

_Class = TypeVar("_Class", bound=type)


def state(kind: _Class) -> _Class:
    """A NamedTuple that stands in states; `jax.export` can write it to bytes."""
    name = f"gdsec_jax.{kind.__name__}"
    # A module may be loaded anew: its first classes keep the name.
    with contextlib.suppress(ValueError):
        export.register_namedtuple_serialization(kind, serialized_name=name)
    return kind


def as_structure(fact: Any) -> dict[str, tuple[()]]:
    """A named tuple without arrays as a part of a state's structure: a dict's key.

    So a state may hold it wherever jax keeps structure and leaves apart, and whatever
    writes, cuts or maps states knows dicts.
    """

    def plain(value):  # a number of NumPy's, a dtype
        return value.item() if isinstance(value, np.generic) else jnp.dtype(value).name

    return {json.dumps(fact, default=plain): ()}


def from_structure(node: dict[str, Any], rebuilt: Callable[..., Any]) -> Any:
    """The fact, of its fields as JSON has them."""
    (text,) = node
    return _rebuilt(text, rebuilt)


@functools.lru_cache(maxsize=1024)
def _rebuilt(text: str, rebuilt: Callable[..., Any]) -> Any:
    return rebuilt(*json.loads(text))


def stand_in(params: Any) -> bool:
    """Whether these are no parameters, but what `optax.tree.map_params` puts for them.

    Where a part of a state is shaped by the parameters, and is not like them, a number
    stands for that part then: what is made of it is of no parameter.
    """
    return type(params).__name__ == "_ParamsPlaceholder"


def widest(*dtypes):
    """The dtype that holds all of them, also where promotion is set to strict."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def zero_memory(params, state_dtype=None):
    """Zeros in `state_dtype`; by default the parameter's dtype, but float32 at least.

    A memory sums what single rounds leave over, which half precision would round off.
    """

    def zeros(param):
        dtype = state_dtype
        if dtype is None:
            dtype = widest(jnp.result_type(param), jnp.float32)
        return jnp.zeros(jnp.shape(param), dtype)

    return jax.tree.map(zeros, params)


def add(a, b):
    """a + b in the wider dtype of each pair of leaves."""
    return jax.tree.map(lambda x, y: jnp.add(*_same_dtype(x, y)), a, b)


def sub(a, b):
    """a - b in the wider dtype of each pair of leaves."""
    return jax.tree.map(lambda x, y: jnp.subtract(*_same_dtype(x, y)), a, b)


def add_scaled(a, scalar, b):
    """a + scalar b, in the dtypes of a."""

    def one(x, y):
        x, y = _same_dtype(x, y)
        return x + jnp.asarray(scalar, x.dtype) * y

    return cast_like(jax.tree.map(one, a, b), a)


def cast_like(tree, reference):
    """`tree` in the dtypes of `reference`; unchanged where there is no reference."""
    if reference is None:
        return tree
    return jax.tree.map(
        lambda x, like: x.astype(jnp.result_type(like)), tree, reference
    )


def by_shapes(name: str, value, low: float = 0.0):
    """A number up to 1 as a function of the parameters' shapes, or one for all."""
    if callable(value):
        return value
    _checks.number_in_range(name, value, low, 1.0)
    return lambda params: value


def joined(a, b):
    """The tree of two that have None where the other one has a leaf."""
    return jax.tree.map(
        lambda x, y: y if x is None else x, a, b, is_leaf=lambda x: x is None
    )


def of_type(tree, kind: type | tuple[type, ...]) -> list:
    """The nodes of a type in a state, wherever wrappers have put them."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


def flush(tree):
    """The tree with subnormal numbers and -0.0 as 0, which no message can carry.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import wire
      >>> wire.flush(jnp.array([-0.0, 1e-40, 2.0]))
      Array([0., 0., 2.], dtype=float32)
    """

    def one(x):
        return jnp.where(jnp.abs(x) < jnp.finfo(x.dtype).tiny, jnp.zeros_like(x), x)

    return jax.tree.map(one, tree)


def over_workers(messages):
    """The sum over the first axis, in float32 at least."""

    def by_product(messages):
        # With ones: XLA's CPU backend sums over a leading axis much slower.
        return _product(lambda x: jnp.ones(x.shape[0], x.dtype), messages)

    def by_sum(messages):
        def one(x):
            return x.astype(widest(x.dtype, jnp.float32)).sum(0)

        return jax.tree.map(one, messages)

    return unless_on_tpu(messages, tpu=by_sum, default=by_product)


def dot(a, b) -> jax.Array:
    """The sum of the products of all entries of two arrays."""

    def by_sum(a, b):
        return (a * b).sum()

    return _unless_float64_on_tpu(jnp.vdot, by_sum, a, b)


def times(matrix, x):
    """A matrix [n, D] times [D], or [D, C], as precise as the dtype."""

    def product(matrix, x):
        return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)

    def by_sums(matrix, x):
        if x.ndim == 1:
            return (matrix * x).sum(-1)
        return (matrix[:, :, None] * x).sum(1)

    return _unless_float64_on_tpu(product, by_sums, matrix, x)


def _unless_float64_on_tpu(usual: Callable, by_sums: Callable, a, b):
    """On TPUs float64 is emulated, and a product of it takes loops of kernels."""
    if widest(a.dtype, b.dtype) != jnp.float64:
        return usual(a, b)
    return unless_on_tpu(a, b, tpu=by_sums, default=usual)


def over_workers_by(group, messages, num_groups: int):
    """The sums of each group of workers, int [M]: leaves [num_groups, *param]."""
    chosen = jnp.arange(num_groups, dtype=group.dtype)[:, None] == group[None]
    return _product(lambda x: chosen.astype(x.dtype), messages)


def _product(factors, messages):
    def one(x):
        x = x.astype(widest(x.dtype, jnp.float32))
        return jnp.tensordot(factors(x), x, 1, precision=jax.lax.Precision.HIGHEST)

    return jax.tree.map(one, messages)


def due(under_way):
    """What arrives now of leaves [tau, *param], and what then is under way."""
    now = jax.tree.map(lambda p: p[0], under_way)
    later = jax.tree.map(
        lambda p: jnp.concatenate([p[1:], jnp.zeros_like(p[:1])]), under_way
    )
    return now, later


def along(per_worker, leaf):
    """An [M] array shaped to broadcast over the axes behind a leaf's first."""
    return per_worker.reshape(per_worker.shape + (1,) * (leaf.ndim - 1))


def where(chosen, new, old):
    """Of each worker the new leaves [M, ...] if it is chosen, bool [M]."""
    return jax.tree.map(lambda x, y: jnp.where(along(chosen, x), x, y), new, old)


def repeat(tree, num_workers: int):
    """The tree for each worker, leaves [M, ...]."""
    return jax.tree.map(
        lambda x: jnp.tile(x, (num_workers,) + (1,) * jnp.ndim(x)), tree
    )


def norm_dtype(params):
    """Of the norms of parameters: the widest of theirs, but float32 at least."""
    return widest(jnp.float32, *map(jnp.result_type, jax.tree.leaves(params)))


def squares(tree, dtype) -> jax.Array:
    """The sum of the squares of all entries, in a dtype."""
    total = jnp.zeros((), dtype)
    for leaf in jax.tree.leaves(tree):
        total += jnp.square(leaf.astype(dtype)).sum()
    return total


def norm(tree, dtype, less=None) -> jax.Array:
    """The Euclidean norm of all entries, or of what they are more than others.

    Their squares neither overflow nor vanish.
    """
    if not jax.tree.leaves(tree):
        return jnp.zeros((), dtype)

    def entries(tree, less):
        change = tree if less is None else jax.tree.map(jnp.subtract, tree, less)
        return [leaf.astype(dtype) for leaf in jax.tree.leaves(change)]

    def in_two_passes(tree, less):
        largest = [jnp.abs(x).max(initial=0) for x in entries(tree, less)]
        scale = power_of_two(jnp.stack(largest).max())
        # Or XLA keeps the differences in memory, for the second pass.
        tree, less, scale = jax.lax.optimization_barrier((tree, less, scale))
        squares = [jnp.square(x / scale).sum() for x in entries(tree, less)]
        return scale * jnp.sqrt(jnp.stack(squares).sum())

    def in_one_pass(tree, less):
        return _norm_by_size(entries(tree, less), dtype)

    return unless_on_tpu(tree, less, tpu=in_one_pass, default=in_two_passes)


# Exponents of the least and the greatest magnitude whose squares, 2^31 of them, float32
# adds up, and what others are scaled by: Blue, A Portable Fortran Program to Find the
# Euclidean Norm of a Vector, 1978.
_LEAST, _MOST, _SCALE = -50, 48, 78


def _norm_by_size(vectors, dtype) -> jax.Array:
    """Of all entries, in one pass: small, usual and large ones are summed apart.

    On TPUs, where kernels have several results, and float64 has float32's range.
    """
    sums = []
    for x in vectors:
        size = jnp.abs(x)
        small, large = size < 2.0**_LEAST, size > 2.0**_MOST
        parts = (
            jnp.where(large, size * 2.0**-_SCALE, 0),
            jnp.where(small | large, 0, size),  # and NaN
            jnp.where(small, size * 2.0**_SCALE, 0),
        )
        sums.append(jnp.stack([jnp.square(part).sum() for part in parts]))
    large, usual, small = jnp.stack(sums).sum(0).astype(dtype)
    up, down = 2.0**_SCALE, 2.0**-_SCALE
    # Smaller ones in the larger ones' scale; what vanishes there counts for nothing.
    some_large = up * jnp.sqrt(large + jnp.square(down * jnp.sqrt(usual)))
    some_usual = jnp.sqrt(usual + jnp.square(down * jnp.sqrt(small)))
    all_small = down * jnp.sqrt(small)
    norm = jnp.where(usual == 0, all_small, some_usual)
    return jnp.where(large > 0, some_large, norm)


def power_of_two(x: jax.Array) -> jax.Array:
    """The largest that is at most x > 0, to divide by exactly; 1 where none is.

    Not above 1/tiny: XLA's CPU backend multiplies by reciprocals, and takes subnormal
    ones for 0.
    """
    most = 1 / float(jnp.finfo(x.dtype).tiny)

    def by_mantissa(x):
        mantissa, _ = jnp.frexp(x)
        usual = (x >= jnp.finfo(x.dtype).tiny) & jnp.isfinite(x)
        return jnp.where(usual, x / jnp.where(usual, 2 * mantissa, 1), 1)

    def by_float32(x):  # whose range a TPU's float64 has, of which it takes no bits
        short = jax.lax.optimization_barrier(x.astype(jnp.float32))
        usual = (short >= jnp.finfo(jnp.float32).tiny) & jnp.isfinite(short)
        bits = jax.lax.bitcast_convert_type(short, jnp.uint32)
        power = jax.lax.bitcast_convert_type(bits >> 23 << 23, jnp.float32)
        power = power.astype(x.dtype)
        return jnp.where(usual, jnp.where(power > x, power / 2, power), 1)

    if x.dtype != jnp.float64:
        return jnp.minimum(by_mantissa(x), jnp.asarray(most, x.dtype))
    power = jax.lax.platform_dependent(x, tpu=by_float32, default=by_mantissa)
    return jnp.minimum(power, jnp.asarray(most, x.dtype))


def as_key(key) -> jax.Array:
    """The typed random key of an int, of a typed key, or of raw key data."""
    try:
        if not isinstance(key, int | np.integer | np.ndarray | jax.Array):
            raise TypeError
        typed: Any = key
        if not jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
            raw = jnp.ndim(key) > 0
            typed = jax.random.wrap_key_data(typed) if raw else jax.random.key(typed)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"key is {key!r}, expected an int or a random key.") from error
    if typed.shape != ():
        raise ValueError(f"key has shape {typed.shape}, expected a single random key.")
    return typed


def bytes_of(leaf: Any) -> bytes:
    """Of an array, a number or a random key."""
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.ascontiguousarray(leaf).tobytes()


def _same_dtype(x, y):
    dtype = widest(x.dtype, y.dtype)
    return x.astype(dtype), y.astype(dtype)

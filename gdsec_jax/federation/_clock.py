"""What every party of a federation knows of a round, from the parameters alone."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import _checks, _native, _trees
from gdsec_jax.worker._vectors import some

NUM_PAST_CHANGES = 10


@_trees.state
class ClockState(NamedTuple):
    """State of `clock`."""

    previous_params: optax.Params  # theta^{k-1}
    held_change: Any  # last theta^k - theta^{k-1} that was not 0, if held, or ()
    past_norms: jax.Array  # float [10]: of the last changes, the last one first
    number: jax.Array  # int32 []: k, the first is 0
    key_data: jax.Array | tuple[()]  # of the random key, if there is one


class Clock(NamedTuple):
    """Two pure functions, which the server and every worker may run for themselves."""

    init: Callable[[optax.Params], ClockState]
    begin: Callable[..., tuple[dict[str, Any], dict[str, Any], ClockState]]


class Tick(NamedTuple):
    """What all parties know in a round, and each worker's key."""

    change: Any  # theta^k - theta^{k-1}, or what is held for it; None without params
    past_norms: jax.Array  # float [10]
    number: jax.Array  # int32 []
    round_key: jax.Array | None  # common to all workers
    keys: jax.Array | None  # [M], each worker's own

    def arguments(self, change: Any, previous: Any) -> dict[str, Any]:
        """The extra arguments of a piece that say so."""
        key = {} if self.round_key is None else {"round_key": self.round_key}
        return key | {
            "params_change": change,
            "past_norms": self.past_norms,
            "past_changes": jnp.square(self.past_norms),
            "round": self.number,
            "like": previous,
        }


def clock(num_workers: int, *, key=None, on_standstill: str = "send") -> Clock:
    """The arguments that a worker's pipeline is handed in each round.

    What `federate` runs for all; in a real system the server and every worker run it
    for themselves, and need nothing but the parameters that are broadcast.
    `begin(state, params)` returns what is common to all workers, what is each worker's
    own (leaves [M, ...]), and the next state; see `federate` for their names.

    Args:
      num_workers: M.
      key: an int, a random key, or None: then nothing can be drawn.
      on_standstill: "send" or "hold".

    Returns:
      Two pure functions, `init(params)` and `begin(state, params)`.

    Raises:
      ValueError: num_workers is no positive int, on_standstill is unknown, the key is
        none, or params change their shapes.

    Examples:
      >>> import jax.numpy as jnp
      >>> import gdsec_jax
      >>> clock = gdsec_jax.clock(num_workers=2)
      >>> state = clock.init(jnp.zeros(2))
      >>> shared, own, state = clock.begin(state, jnp.array([1.0, 2.0]))
      >>> shared["params_change"], own["worker_index"]
      (Array([1., 2.], dtype=float32), Array([0, 1], dtype=int32))
    """
    _checks.number_of_workers(num_workers)
    _checks.one_of("on_standstill", on_standstill, ("send", "hold"))
    random_key = None if key is None else _trees.as_key(key)

    def begin(state, params):
        now, following = tick(state, params, random_key, num_workers)
        own = {"worker_index": indices(num_workers)}
        own |= {} if now.keys is None else {"key": now.keys}
        return now.arguments(now.change, state.previous_params), own, following

    return Clock(lambda params: start(params, random_key, on_standstill), begin)


def indices(num_workers: int) -> jax.Array:
    """int32 [M], the workers' numbers."""
    return jnp.arange(num_workers, dtype=jnp.int32)


def start(params: Any, random_key: jax.Array | None, on_standstill: str) -> ClockState:
    """Before the first round."""
    _checks.floating(params)
    # Copies, or donating params and state would give one buffer away twice.
    copied = functools.partial(jnp.array, copy=True)
    previous = jax.tree.map(copied, params)
    return ClockState(
        previous_params=previous,
        held_change=optax.tree.zeros_like(previous) if on_standstill == "hold" else (),
        past_norms=jnp.zeros(NUM_PAST_CHANGES, _trees.norm_dtype(params)),
        number=jnp.zeros((), jnp.int32),
        key_data=() if random_key is None else copied(jax.random.key_data(random_key)),
    )


def tick(
    state: ClockState, params: Any, random_key: jax.Array | None, num_workers: int
) -> tuple[Tick, ClockState]:
    """What is known in the round that begins, and the next state."""
    change, past_norms, held_change = _change(params, state)
    key_data, round_key, keys = _split(state.key_data, random_key, num_workers)
    return Tick(change, past_norms, state.number, round_key, keys), ClockState(
        previous_params=state.previous_params if params is None else params,
        held_change=held_change,
        past_norms=past_norms,
        number=jnp.asarray(optax.safe_increment(state.number)),
        key_data=key_data,
    )


def _change(params, state: ClockState):
    """theta^k - theta^{k-1}, the norms of the last ones, the change to hold."""
    if params is None:
        return None, state.past_norms, state.held_change
    _checks.same_shapes("params", params, state.previous_params)
    change = jax.tree.map(jnp.subtract, params, state.previous_params)
    dtype = state.past_norms.dtype
    norm = _native.change_norm(params, state.previous_params, dtype)
    moved = some(change)
    past = jnp.concatenate([norm[None], state.past_norms[:-1]])
    if isinstance(state.held_change, tuple) and not state.held_change:
        return change, past, ()
    change = optax.tree.where(moved, change, state.held_change)
    return change, past, change


def _split(key_data, random_key, num_workers: int):
    """The next key's data, the round's common key and each worker's own."""
    if random_key is None:
        return (), None, None
    impl = jax.random.key_impl(random_key)
    key = jax.random.wrap_key_data(key_data, impl=impl)
    key, common, others = jax.random.split(key, 3)
    own = jax.vmap(jax.random.fold_in, (None, 0))(others, jnp.arange(num_workers))
    return jax.random.key_data(key), common, own

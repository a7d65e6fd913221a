"""One GD-SEC update of large vectors, as several benches take it: step and inputs."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gdsec_jax
from gdsec_jax import _native

BETA = 0.01
SHARE = 0.01  # of the entries that is sent in a round
MOVE = 1e-3  # of each parameter, in each round
# A normal gradient adds 0.8 a round to an entry's error memory, on average: it passes
# this threshold, and is sent, every hundredth round.
THRESHOLD = 0.8 / SHARE


class Calls(NamedTuple):
    """The steps of a run."""

    call: Callable[[], "Carry"]  # does the next one
    before: Callable[[], Any] | None  # each call: makes the gradients it gives away


class Carry(NamedTuple):
    """What a step takes over from the last one, whose buffers it is given for good."""

    updates: Any  # the aggregate
    state: Any


def optimizer_for(num_workers: int) -> Any:
    """GD-SEC whose threshold, for moves of size MOVE, is THRESHOLD for each worker."""
    xi = THRESHOLD / MOVE * num_workers
    return gdsec_jax.gdsec(num_workers, xi, beta=BETA, wire="coo")


def step_of(optimizer: Any, donate: tuple[int, ...] = (0,)) -> Callable[..., Carry]:
    """The jitted step: (carry, gradients, params) to the next carry, carry donated.

    The state's buffers, and that of the last aggregate, are reused for the new ones;
    those of the gradients may be, with donate=(0, 1).
    """

    def step(carry, gradients, params):
        return Carry(*optimizer.update(gradients, carry.state, params))

    return jax.jit(step, donate_argnums=donate, keep_unused=True)


def places_of(size: int) -> tuple[jax.Array, jax.Array]:
    """The two parameter vectors that the benches go to and fro between, MOVE apart."""
    return jnp.zeros(size, jnp.float32), jnp.full(size, MOVE, jnp.float32)


def start(optimizer: Any, params: Any) -> Carry:
    """Before the first step; buffers of its own, for it will be given away."""
    return Carry(optax.tree.zeros_like(params), optimizer.init(params))


def gradients_of(num_workers: int, size: int) -> jax.Array:
    """[M, D] float32, normal."""
    draw = jax.jit(jax.random.normal, static_argnums=1)
    return jax.block_until_ready(draw(jax.random.key(0), (num_workers, size)))


@jax.jit
def backlog_of(gradients: jax.Array) -> jax.Array:
    """Gradients of a first round, of which nothing is sent: they fill the memories e.

    As long runs leave them: with these gradients an entry's error grows steadily to the
    threshold and begins anew, so that in any round it is anywhere below it, and about
    SHARE of the entries pass it.
    """
    below = jax.random.uniform(jax.random.key(1), gradients.shape)
    return THRESHOLD * below * jnp.sign(gradients)


def call_of(num_workers: int, size: int) -> Callable[[], Carry]:
    """A call that does the next step of a run in which about SHARE is sent a round."""
    return calls_of(num_workers, size).call


def calls_of(
    num_workers: int, size: int, give: bool = False, native: bool = True
) -> Calls:
    """`call_of`, whose gradients are given away too, or without the kernels."""
    optimizer = optimizer_for(num_workers)
    step, places = step_of(optimizer, (0, 1) if give else (0,)), places_of(size)
    gradients = gradients_of(num_workers, size)
    fresh = jax.jit(jnp.copy)
    own = fresh(gradients) if give else gradients
    number = 0

    def following(gradients):
        nonlocal carry, number
        number += 1
        with _native.native_kernels(native), warnings.catch_warnings():
            # XLA has nothing to put into the gradients' buffer.
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            carry = step(carry, gradients, places[number % 2])
        return carry

    def call():
        return following(own)

    def before():
        nonlocal own
        own = fresh(gradients)
        return own

    carry = start(optimizer, places[0])
    carry = following(backlog_of(gradients))
    return Calls(call, before if give else None)


def abstract(num_workers: int, size: int) -> Any:
    """The compiled step without any arrays: what it needs of memory."""
    optimizer = optimizer_for(num_workers)
    params = jax.ShapeDtypeStruct((size,), jnp.float32)
    gradients = jax.ShapeDtypeStruct((num_workers, size), jnp.float32)
    carry = jax.eval_shape(lambda p: start(optimizer, p), params)
    return step_of(optimizer).lower(carry, gradients, params).compile()


def bytes_moved(num_workers: int, size: int) -> int:
    """What a step must read and write: every input and output once.

    (5 M + 4) D numbers and a few: g, h_m and e_m in, h_m and e_m out; params and the
    previous ones in, previous ones and the aggregate out. The server's h is the sum of
    the h_m, which are read anyway; the buffer that the aggregate is written to is not
    read. Counted from the arrays, so that other states are counted as they are.
    """
    optimizer = optimizer_for(num_workers)
    params = jax.ShapeDtypeStruct((size,), jnp.float32)
    carry = jax.eval_shape(lambda p: start(optimizer, p), params)
    gradients = 4 * num_workers * size
    return gradients + 4 * size + 2 * num_bytes(carry) - num_bytes(carry.updates)


def num_bytes(tree: Any) -> int:
    """Of all arrays of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def sent(carry: Carry) -> float:
    """The share of all entries that was sent in the last round."""
    entries = gdsec_jax.last_round(carry.state).entries
    return float(entries.sum() / (entries.size * carry.updates.size))

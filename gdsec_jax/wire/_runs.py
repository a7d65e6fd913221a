"""Bits of run lengths, counted in a compiled loop as `encode` writes them."""

import jax
import jax.numpy as jnp


def rle_bits(nonzero: jax.Array) -> jax.Array:
    """Bits of run lengths in Elias' code, of bool [D], D < 2^31: at most 1.5 D + 63."""
    codewords = jnp.where(nonzero, gamma_length(_zeros_before(nonzero) + 1), 0)
    return codewords.sum(dtype=jnp.uint32) + _length_of_number(nonzero)


def golomb_bits(nonzero: jax.Array) -> jax.Array:
    """Bits of run lengths in the cheapest Rice code, with b and n: at most D + 68."""
    runs = jnp.where(nonzero, _zeros_before(nonzero), 0).astype(jnp.uint32)
    number = nonzero.sum(dtype=jnp.uint32)

    def cost(b):
        return (runs >> b).sum(dtype=jnp.uint32) + number * (1 + b)

    def cheaper(carry):
        _, now, following = carry
        return following < now

    def step(carry):
        b, _, following = carry
        return b + 1, following, cost(b + 2)

    # The cost is convex in b: the first b that the next does not improve is the best.
    zero = jnp.zeros((), jnp.uint32)
    _, best, _ = jax.lax.while_loop(cheaper, step, (zero, cost(zero), cost(zero + 1)))
    return best + 5 + _length_of_number(nonzero)


def _length_of_number(nonzero: jax.Array) -> jax.Array:
    """gamma(n + 1), what the number of non-zeros costs."""
    return gamma_length(nonzero.sum(dtype=jnp.int32) + 1)


def _zeros_before(nonzero: jax.Array) -> jax.Array:
    """int32 [D], the zeros between an entry and the non-zero before it."""
    position = jnp.arange(nonzero.size, dtype=jnp.int32)
    latest = jax.lax.cummax(jnp.where(nonzero, position, -1))
    before = jnp.concatenate([jnp.full(1, -1, jnp.int32), latest[:-1]])
    return position - before - 1


def gamma_length(x: jax.Array) -> jax.Array:
    """Length in bits of x >= 1 in Elias' gamma code, 2 floor(log2 x) + 1; uint32.

    Counts leading zeros, since floor(log2 x) in float32 is wrong at 8192 and elsewhere.
    """
    return (63 - 2 * jax.lax.clz(x.astype(jnp.int32))).astype(jnp.uint32)

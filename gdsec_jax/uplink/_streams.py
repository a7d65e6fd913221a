"""The streams of a run's key: what is drawn for one purpose changes no other."""

import jax

# Large: an algorithm with the same key splits it and folds the numbers of rounds and
# workers in, whose streams would otherwise be these.
MINIBATCH, PARTICIPATION, CHANNEL = 2**31 - 3, 2**31 - 2, 2**31 - 4


def stream(key: jax.Array, purpose: int, number) -> jax.Array:
    """The key of a purpose in a round."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), number)

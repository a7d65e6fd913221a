"""An audit by canaries: how well a server finds out who was in a worker's data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import privacy, worker

SAMPLES, CANARIES, LENGTH = 200, 512, 2048
ROUNDS, GUESSES, DELTA = 50, 128, 1e-5
STEP, CLIP, BETA, FLOOR = 0.3, 1.0, 0.1, 3.0


class Audit(NamedTuple):
    """What is promised of a run, and what was found out about it."""

    promised: float  # the accountant's epsilon
    dense: float  # what the attack on whole messages proves
    censored: float  # on censored ones


def audit(epsilon: float, seed: int = 0) -> Audit:
    """Logistic regression of one worker with canaries, each in the data or not.

    The server knows the canaries and reads every message. Its score of a canary is how
    far the gradients that it has received go along the canary's own, round by round.
    """
    multiplier = privacy.noise_multiplier(epsilon, ROUNDS, delta=DELTA)
    promised = privacy.epsilon(multiplier, ROUNDS, delta=DELTA)
    noise = worker.gaussian_noise(multiplier, CLIP)
    censor = worker.censor(0.0, floor=FLOOR * multiplier * CLIP)
    memory = worker.gradient_difference(worker.error_feedback(censor), BETA)
    features, labels = _samples(seed)
    included = np.random.default_rng([seed, 1]).random(CANARIES) < 0.5

    def proven(pipeline, beta):
        weight = np.concatenate([np.ones(SAMPLES), included])
        given = map(jnp.float32, (features, labels, weight))
        scores = _scores(pipeline, beta, jax.random.key(seed), *given)
        return privacy.audited_epsilon(scores, included, GUESSES, delta=DELTA)

    dense = proven(worker.chain(noise, worker.whole()), 0.0)
    return Audit(promised, dense, proven(worker.chain(noise, memory), BETA))


def _samples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a logistic model, and behind them canaries: unit vectors at random."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((SAMPLES + CANARIES, LENGTH))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = np.sign(x @ rng.standard_normal(LENGTH))
    return x, labels


def _loss(params: jax.Array, sample: Any) -> jax.Array:
    x, y = sample
    return jnp.logaddexp(0.0, -y * (x @ params))


def _scores(pipeline, beta, key, features, labels, weight) -> np.ndarray:
    """Of each canary, by all messages of a run."""
    samples = (features, labels)
    gradient = worker.clip_per_example(_loss, CLIP)
    of_canary = jax.vmap(worker.clip_per_example(_loss, CLIP), (None, 0))
    canaries = jax.tree.map(lambda x: x[SAMPLES:, None], samples)

    def one_round(carry, key):
        params, previous, state, memory, scores = carry
        g = gradient(params, samples, weight)
        change = {"params_change": params - previous, "round": 0, "like": params}
        u, state = pipeline.update(g, state, params, key=key, **change)
        received = memory + u
        scores += of_canary(params, canaries) @ received
        after = params - STEP / SAMPLES * received
        return (after, params, state, memory + beta * u, scores), None

    @jax.jit
    def run(keys):
        zeros = jnp.zeros(features.shape[1])
        state = pipeline.init(zeros)
        start = (zeros, zeros, state, zeros, jnp.zeros(len(weight) - SAMPLES))
        return jax.lax.scan(one_round, start, keys)[0][-1]

    return np.asarray(run(jax.random.split(key, ROUNDS)))

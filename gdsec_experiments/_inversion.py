"""What a curious server sees of an image, in a gradient of softmax regression.

Of one sample it is x (p - y)^T, p the probabilities of the classes: each of its columns
is the image, but for a factor. The server takes the matrix of rank one that is nearest
to what it has received, and knows that no pixel is negative.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import data, privacy, worker

IMAGE, ROUNDS, STEP, BETA = 12, 60, 0.05, 0.1
XI, CLIP, EPSILON, DELTA = 40.0, 1.0, 8.0, 1e-5


def seen() -> dict[str, np.ndarray]:
    """The image, and what the server makes of each kind of message, [8, 8]."""
    digits = data.load("digits")
    x = np.asarray(digits.features / digits.features.max(), np.float32)
    y = digits.targets.astype(np.int32)
    others = np.random.default_rng(0).permutation(len(y))[:ROUNDS]
    order = np.concatenate([[IMAGE], others, [IMAGE]])
    samples = jnp.asarray(x[order]), jnp.asarray(y[order])
    multiplier = privacy.noise_multiplier(EPSILON, len(order), delta=DELTA)
    noise = worker.gaussian_noise(multiplier, CLIP)
    censor = worker.error_feedback(worker.censor(XI))
    memory = worker.gradient_difference(censor, BETA)
    dense = _messages(worker.whole(), 0.0, samples)
    sent = _messages(memory, BETA, samples)
    noised = _messages(worker.chain(noise, worker.whole()), 0.0, samples)
    both = _messages(worker.chain(noise, memory), BETA, samples)
    return {
        "the image": x[IMAGE].reshape(8, 8),
        "dense": _image(dense[-1]),
        "censored,\nfirst round": _image(sent[0]),
        f"censored,\nround {len(order)}": _image(sent[-1]),
        f"noised,\nepsilon {EPSILON:g}": _image(noised[-1]),
        "noised and\ncensored": _image(both[-1]),
    }


def _messages(pipeline, beta, samples) -> np.ndarray:
    """Of a worker with one sample a round, [K, 64, 10]."""
    gradient = worker.clip_per_example(_loss, CLIP)
    params = jnp.zeros((64, 10))

    def one_round(carry, given):
        params, previous, state, memory = carry
        sample, key = given
        g = gradient(params, jax.tree.map(lambda x: x[None], sample))
        told = {"params_change": params - previous, "round": 0, "like": params}
        u, state = pipeline.update(g, state, params, key=key, **told)
        after = params - STEP * (memory + u)
        return (after, params, state, memory + beta * u), u

    keys = jax.random.split(jax.random.key(0), len(samples[0]))
    start = (params, params, pipeline.init(params), jnp.zeros_like(params))
    run = jax.jit(lambda start, given: jax.lax.scan(one_round, start, given)[1])
    return np.asarray(run(start, (samples, keys)))


def _loss(params, sample):
    x, y = sample
    scores = x @ params
    return optax.softmax_cross_entropy_with_integer_labels(scores, y)


def _image(message: np.ndarray) -> np.ndarray:
    """What the nearest matrix of rank one says of the image, its largest pixel 1."""
    if not message.any():
        return np.zeros((8, 8))
    left, _, _ = np.linalg.svd(np.float64(message))
    image = left[:, 0] * np.sign(left[np.abs(left[:, 0]).argmax(), 0])
    image = np.maximum(image, 0)
    return (image / image.max()).reshape(8, 8)

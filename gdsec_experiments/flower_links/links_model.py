"""Three layers on digits, trained locally, in NumPy alone; and the methods' numbers."""

import functools
import importlib.util
import itertools
import zlib
from pathlib import Path

import numpy as np

from gdsec_jax import numpy_worker

WORKERS, STEPS, BATCH, RATE, HELD_OUT = 3, 2, 32, 0.05, 297
XI, BETA, SHARE = 10.0, 0.03, 0.01
METHODS = ("floor", "dense", "gdsec", "top_j", "qsgdsec")


@functools.cache
def digits():
    """Pixels from 0 to 1 and labels; of scikit-learn's file, which needs no import."""
    (folder,) = importlib.util.find_spec("sklearn").submodule_search_locations
    path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, np.float32, delimiter=",")
    return table[:, :-1] / 16, table[:, -1].astype(int)


def init_params(width):
    """Layers of 64 - width - width - 10, by He's rule; 1.1 million for 1,000."""
    rng, sizes = np.random.default_rng(0), (64, width, width, 10)
    layers = list(itertools.pairwise(sizes))
    return {
        "w": [
            (rng.normal(size=size) * np.sqrt(2 / size[0])).astype(np.float32)
            for size in layers
        ],
        "b": [np.zeros(size[1], np.float32) for size in layers],
    }


def outputs(params, x):
    """Of every layer; the last is no probability yet."""
    layers = [x]
    for number, (w, b) in enumerate(zip(params["w"], params["b"], strict=True)):
        x = x @ np.asarray(w) + np.asarray(b)
        x = np.maximum(x, 0) if number < 2 else x
        layers.append(x)
    return layers


def loss(params, x, y):
    """Cross entropy, the mean over samples."""
    scores = outputs(params, x)[-1].astype(np.float64)
    most = scores.max(1, keepdims=True)
    logs = np.log(np.exp(scores - most).sum(1)) + most[:, 0]
    return float((logs - scores[np.arange(len(y)), y]).mean())


def gradient(params, x, y):
    """Of the loss."""
    *layers, scores = outputs(params, x)
    slope = np.exp(scores - scores.max(1, keepdims=True))
    slope /= slope.sum(1, keepdims=True)
    slope[np.arange(len(y)), y] -= 1
    slope /= np.float32(len(y))
    w, b = [], []
    for number in (2, 1, 0):
        w.insert(0, layers[number].T @ slope)
        b.insert(0, slope.sum(0))
        if number:
            slope = (slope @ np.asarray(params["w"][number]).T) * (layers[number] > 0)
    return {"w": w, "b": b}


def difference(params, m):
    """How far a worker goes in its steps of SGD; batches depend on where it begins."""
    x, y = digits()
    own = np.random.default_rng(7).permutation(np.arange(HELD_OUT, len(y)))[m::WORKERS]
    seed = zlib.crc32(np.asarray(params["b"][-1]).tobytes())
    rng = np.random.default_rng([seed, m])
    at = {name: [np.array(leaf) for leaf in leaves] for name, leaves in params.items()}
    for _ in range(STEPS):
        batch = rng.choice(own, BATCH, replace=False)
        slope = gradient(at, x[batch], y[batch])
        for name, leaves in slope.items():
            for leaf, own_slope in zip(at[name], leaves, strict=True):
                leaf -= np.float32(RATE) * own_slope
    return {
        name: [np.asarray(p) - q for p, q in zip(params[name], at[name], strict=True)]
        for name in params
    }


def worker_of(name):
    """A client's method and its format; in the mean convention M counts as 1."""
    if name in ("floor", "dense"):
        return numpy_worker.GD(), "dense"
    kinds = {
        "gdsec": numpy_worker.GDSEC(1, XI, BETA),
        "top_j": numpy_worker.TopJ(SHARE),
        "qsgdsec": numpy_worker.QSGDSEC(1, XI, BETA, levels=127),
    }
    return kinds[name], "rle"


def compressed_down(name):
    """Whether the server's step is compressed, too."""
    return name not in ("floor", "dense")

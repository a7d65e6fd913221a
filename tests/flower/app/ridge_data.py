"""What server and clients know of the problem, in NumPy alone."""

import numpy as np

M, D, XI, BETA = 3, 6, 2.0, 2.0**-4
STEP = 2.0**-5


def gradient(params, m):
    """Of worker m, in float32, by products whose order is fixed."""
    rng = np.random.default_rng(m)
    features = rng.normal(size=(8, D)).astype(np.float32)
    left = features @ params - features @ np.arange(D, dtype=np.float32)
    return features.T @ left + np.float32(0.125) * params


def init_params():
    """theta^1."""
    return np.zeros(D, np.float32)

r"""The worker's half of the methods in NumPy alone: a device needs no JAX.

A method is a named tuple of its numbers with two pure functions. `init(params)` returns
what the worker keeps, a `Memory`; `update(gradient, memory, params_change)` returns a
`wire.Message`, of which `wire.encode` makes bytes, and what the worker keeps next:

>>> import numpy as np
>>> from gdsec_jax import numpy_worker, wire
>>> method, params = numpy_worker.GDSEC(num_workers=2, xi=4.0), np.zeros(3)
>>> gradient, change = np.array([1.0, 0.3, 2.0]), np.array([0.1, 0.2, 0.0])
>>> message, memory = method.update(gradient, method.init(params), change)
>>> wire.encode(message, "bitmap").hex()
'a7fe000000000000080000000000000000'

All of them are one formula, of which a method leaves parts out,

.. math:: v = \nabla f_m(\theta^k) - h + e, \quad u = C(v), \quad
   h \leftarrow h + \beta u, \quad e \leftarrow v - u

and the worker's side of the package's methods of the same names (`METHODS` has them by
name), whose server understands the messages: the same entries are sent, ties and
thresholds included, and with the same draws the same levels; values agree to rounding.

Parameters, gradients and changes are trees, dicts, lists, tuples or a single one, of
NumPy arrays. Every `update` takes these, and has no use for some of them:

- `params_change`, :math:`\theta^k - \theta^{k-1}`, zeros in the first round;
- `round`, its number, for schedules of xi; the first is 0;
- `uniforms`, float [D]: for every entry, in order, a draw from [0, 1);
- `delivered`, whether the message arrives. A lost one is, to the memories, as if it had
  been zero. Who knows that only later keeps the gradient and calls `update` again then.

Messages have the gradient's dtypes, without subnormal numbers and -0.0; memories have
the parameters', but float32 at least. A NaN is sent, never held back: a worker whose
gradient is not finite sits the round out, and keeps its memories. Conventions are those
of a sum of the workers' functions; where f is their mean, `num_workers` is 1.

`init` raises a ValueError for a number outside its range, and `update` where an
argument that it needs is missing, or the gradient is no tree of the parameters' shapes.
"""

from gdsec_jax.numpy_worker._compressors import censor, qsgd, top_k
from gdsec_jax.numpy_worker._methods import (
    CGD,
    EF21,
    GD,
    GDSEC,
    GDSOEC,
    METHODS,
    QGD,
    QSGDSEC,
    Memory,
    TopJ,
)

__all__ = [
    "CGD",
    "EF21",
    "GD",
    "GDSEC",
    "GDSOEC",
    "METHODS",
    "QGD",
    "QSGDSEC",
    "Memory",
    "TopJ",
    "censor",
    "qsgd",
    "top_k",
]

"""What tells runs apart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from inside import _chunks, _run, fingerprint

import gdsec_jax
from gdsec_jax import problems


def test_a_method_differs_in_any_number_of_its_own():
    def about(xi, key):
        pieces = gdsec_jax.gdsec(4, xi=xi), gdsec_jax.qgd(4, key=key)
        own = dict(zip("wb", pieces, strict=True))
        parts = optax.partition(own, {"w": "w", "b": "b"})
        chain = optax.chain(parts, optax.sgd(0.1))
        limits = _run.Limits(10, -np.inf, np.inf)
        given = limits, gdsec_jax.Uplink(), jax.random.key(0)
        inputs = _run.Inputs(_run.for_loop(on), *given)
        program = _chunks.OneRun(_chunks.Given(chain), _run.Options(1))
        words = fingerprint(on, program, inputs, gdsec_jax.Stop())
        assert words["target_error"] == "-inf"
        return words["method or options"]

    start = {"w": jnp.zeros(2000), "b": jnp.zeros(())}
    on = problems.from_loss(
        lambda p, d: jnp.sum((p["w"] - d) ** 2) + p["b"] ** 2, np.ones((4, 2000)), start
    )
    xi = np.linspace(1.0, 2.0, 2000, dtype=np.float32)
    other = xi.copy()
    other[1234] = np.nextafter(xi[1234], np.float32(2.0))
    xi, other = ({"w": jnp.asarray(x), "b": 0.0} for x in (xi, other))
    assert about(xi, 1) == about(xi, 1)
    assert len({about(xi, 1), about(other, 1), about(xi, 2)}) == 3

"""The attack and the audit of the figure on privacy, and the CNN's convolution."""

import importlib.util

import numpy as np
import pytest
from flax import nnx

from gdsec_experiments import _canaries, _inversion
from gdsec_experiments import _models as models

needs_accountant = pytest.mark.skipif(
    importlib.util.find_spec("dp_accounting") is None,
    reason="dp-accounting, of the extra privacy, is not installed",
)


@needs_accountant
def test_an_image_is_read_from_its_gradient_and_not_from_a_noised_one():
    seen = {name.replace("\n", " "): x.ravel() for name, x in _inversion.seen().items()}
    image = seen.pop("the image")
    like = {name: np.corrcoef(image, x)[0, 1] for name, x in seen.items()}
    np.testing.assert_allclose(seen["dense"], image / image.max(), atol=1e-5)
    np.testing.assert_allclose(seen["censored, first round"], seen["dense"], atol=1e-5)
    assert like["censored, round 62"] > 0.8  # censoring hides little
    assert abs(like["noised, epsilon 8"]) < 0.5


@needs_accountant
@pytest.mark.slow
def test_no_audit_proves_more_than_was_promised():
    audit = _canaries.audit(8.0)
    assert 7.9 < audit.promised <= 8.0
    # Of 95 % each; and an attack that finds nothing would prove nothing.
    assert 0.3 < audit.dense < audit.promised
    assert 0.3 < audit.censored < audit.promised


@pytest.mark.parametrize("side", [8, 9, 28])
def test_convolutions_by_slices_are_convolutions(side):
    usual, sliced = (
        models.LeNet(side**2, 10, sliced=own, rngs=nnx.Rngs(0), dtype=None)
        for own in (False, True)
    )
    x = np.random.default_rng(0).standard_normal((3, side, side, 1)).astype(np.float32)
    np.testing.assert_allclose(usual.first(x), sliced.first(x), rtol=1e-4, atol=1e-5)
    inner = usual.first(x)
    np.testing.assert_allclose(
        usual.second(inner), sliced.second(inner), rtol=1e-4, atol=1e-5
    )

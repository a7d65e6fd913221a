"""The attack and the audit of the figure on privacy, and the CNN's convolution."""

import importlib.util

import numpy as np
import pytest
import rich.console
from flax import nnx

from gdsec_experiments import _canaries, _inversion, privacy
from gdsec_experiments import _models as models
from gdsec_experiments import _noised as noised
from gdsec_jax.study import config as configs
from gdsec_jax.study import figures, report

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


def few(rows):
    """SGD and one that compresses, each at one setting."""
    return {
        label: row._replace(settings=row.settings[:1], public=row.public[:1])
        for label, row in rows.items()
        if label in (noised.DENSE, "top-j")
    }


@needs_accountant
@pytest.mark.slow
def test_the_figure_at_toy_size(tmp_path, monkeypatch):
    """Both problems at one epsilon and without noise, a few rounds of each."""
    config = configs.load(figures.sources()["privacy"])
    methods = {label: config.methods[label] for label in few(noised.ROWS)}
    few_rounds = {"num_rounds": 4, "eval_every": 2, "methods": methods}
    grid = {"step_factor": (4.0,)}
    config = config.model_copy(update=few_rounds | {"grid": grid})
    audits = {2.0: _canaries.Audit(2.0, 0.3, 0.2), 8.0: _canaries.Audit(8.0, 1.0, 9.0)}
    for name, value in {
        "EPSILONS": (8.0,),
        "ROWS": few(noised.ROWS),
        "NETWORK_ROWS": few(noised.NETWORK_ROWS),
        "NETWORK_STEPS": (1.0,),
        "NETWORK_ROUNDS": 4,
        "NETWORK_EVERY": 2,
        "REPORTING": range(10, 12),
        "NETWORK_REPORTING": range(10, 12),
    }.items():
        monkeypatch.setattr(noised, name, value)
    monkeypatch.setattr(_canaries, "audit", audits.get)
    console = rich.console.Console(quiet=True)
    study = figures.Study("privacy", config, tmp_path / "runs", console, progress=False)
    section = privacy.section(study)
    table, chosen = section.table, section.chosen
    assert table is not None and chosen is not None
    assert table["problem"].tolist() == ["softmax"] * 4 + ["CNN"] * 4
    given = table["epsilon"].tolist()
    assert given[2:4] == given[6:] == ["none"] * 2
    assert all(7.9 < float(x) <= 8.0 for x in given[:2] + given[4:6])
    dense = table["method"] == noised.DENSE
    bits = table["Mbit in all"].astype(float)
    assert (bits[dense] > 3 * bits[~dense].to_numpy()).all()
    assert set(section.data["problem"]) == {"softmax", "CNN"}
    assert set(section.data["seed"]) == {10, 11}  # no seed that has chosen is shown
    assert len(chosen) == 8 and len(section.claims) == 3
    assert section.claims[-1].holds is False  # one audit has proven too much
    paths = report.save(section, tmp_path)
    assert all(path.stat().st_size > 50 for path in paths)


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

"""The training script of flax's learns, and sends less than whole gradients."""

import pytest

from gdsec_experiments import flax_training as script


@pytest.mark.slow  # the networks of the figures are trained in the fast tests
def test_it_runs(capsys):
    accuracy, share = script.main(num_steps=20)
    assert accuracy > 0.3  # of ten classes, after 20 steps
    assert 0 < share < 0.8
    assert (
        f"accuracy {accuracy:.1%} for {share:.1%} of the bits"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_it_learns_as_without_the_line_for_a_tenth_of_the_bits():
    accuracy, share = script.main()
    dense, _ = script.main(xi=0.0)
    assert accuracy > 0.88
    assert accuracy > dense - 0.03
    assert share < 0.1

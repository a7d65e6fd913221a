"""Windows of text: what comes next is what they are to predict."""

import numpy as np
import pytest

from gdsec_jax import data


def test_windows_join_to_the_text_again():
    text = "Ünder the sun,\nover the m~o~on.\t"
    windows = data.characters(5, text=text)
    kept = "nder the sun,\nover the m~o~on."
    assert windows.features.shape == (5, 5)
    decoded = "".join(chr(c + 31) if c else "\n" for c in windows.features.ravel())
    assert decoded == kept[:25]
    following = "".join(chr(c + 31) if c else "\n" for c in windows.targets.ravel())
    assert following == kept[1:26]


def test_the_documentation_of_python_uses_most_characters():
    windows = data.characters()
    assert windows.features.dtype == np.int32
    used = np.unique(windows.features)
    assert used.min() == 0
    assert used.max() <= 95
    assert used.size > 80
    assert windows.features.shape[1] == 64


@pytest.mark.parametrize("text", ["", "abc", "ü" * 10])
def test_what_is_refused(text):
    with pytest.raises(ValueError, match="characters of ASCII, expected at least 4"):
        data.characters(3, text=text)
    with pytest.raises(ValueError, match="length is 0, expected an integer"):
        data.characters(0)

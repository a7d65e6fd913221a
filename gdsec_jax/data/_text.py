"""Text as windows of characters, each with the next ones as its targets."""

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.data._dataset import Dataset

NUM_CHARACTERS = 96  # the newline, and the printable ones of ASCII


def characters(length: int = 64, *, text: str | None = None) -> Dataset:
    r"""Windows of a text, one behind the other, to predict each next character.

    Characters are coded 0 for a newline and 1 to 95 for the printable ones of ASCII,
    blank to tilde, in their order; others are left out. With the codes c of the text,

    .. math:: x_{nt} = c_{nT + t}, \quad y_{nt} = c_{nT + t + 1}.

    Args:
      length: T, the characters of a window.
      text: of at least T + 1 of these characters; by default the reference
        documentation that Python carries for its `help`, which differs a little from
        one version of Python to the next.

    Returns:
      The data set, features and targets int32 [N, T].

    Raises:
      ValueError: length is no positive int, or the text is too short.

    Examples:
      >>> from gdsec_jax import data
      >>> windows = data.characters(3, text="abc abc")
      >>> windows.features.tolist(), windows.targets.tolist()
      ([[66, 67, 68], [1, 66, 67]], [[67, 68, 1], [66, 67, 68]])
      >>> data.characters(64).features.shape[0] > 5_000
      True
    """
    length = _checks.integer("length", length, 1)
    name = "text" if text is not None else "python_documentation"
    if text is None:
        from pydoc_data.topics import topics

        text = "\n\n".join(topics[topic] for topic in sorted(topics))
    codes = np.array([ord(c) - 31 if c != "\n" else 0 for c in text], np.int32)
    codes = codes[(codes >= 0) & (codes < NUM_CHARACTERS)]
    number = (codes.size - 1) // length
    if number < 1:
        raise ValueError(
            f"text has {codes.size} characters of ASCII, expected at least "
            f"{length + 1}, one more than a window's length."
        )
    cut = (codes[start : start + number * length] for start in (0, 1))
    return Dataset(name, *(part.reshape(number, length) for part in cut))

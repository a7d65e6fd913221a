"""What noised messages give away: an epsilon from above, and an audit from below.

Guarantees are of one sample: two sets of data are neighbours if one has a sample that
the other lacks. `problems.private` bounds what a sample is worth,
`worker.gaussian_noise` hides it, and `simulate` counts.
"""

from gdsec_jax.privacy._accounting import Accountant, epsilon, noise_multiplier
from gdsec_jax.privacy._audit import audited_epsilon, most_correct

__all__ = [
    "Accountant",
    "audited_epsilon",
    "epsilon",
    "most_correct",
    "noise_multiplier",
]

"""The seconds and joules of rounds, from what they met and the bits that were sent."""

from typing import Any, get_args

import numpy as np

from gdsec_jax import _checks
from gdsec_jax.uplink._channel import Conditions
from gdsec_jax.uplink._radio import Access


def upload_s(conditions: Conditions, bits: Any) -> np.ndarray:
    """Seconds that each upload takes, those that are lost too, float64 [..., M].

    Args:
      conditions: of one round, or of several, with fields [..., M].
      bits: integers [..., M], what each worker sent; a silent one takes no time. A
        ValueError is raised where they have another shape.

    Examples:
      >>> from gdsec_jax import channel
      >>> radio = channel.at_snr(channel.Radio(), 2, snr_db=20.0)
      >>> drawn = channel.conditions(channel.Channel(radio), 2, key=0)
      >>> channel.upload_s(drawn, [1_000_000, 0]).round(3)
      array([0.265, 0.   ])
    """
    return _times(bits, conditions.seconds_per_bit)


def energy_j(conditions: Conditions, bits: Any) -> np.ndarray:
    """Joules that all uploads of a round take, lost and late ones too, float64 [...].

    Args and errors are those of `upload_s`; computing is not counted.

    Examples:
      >>> from gdsec_jax import channel
      >>> radio = channel.at_snr(channel.Radio(), 2, snr_db=20.0)
      >>> drawn = channel.conditions(channel.Channel(radio), 2, key=0)
      >>> float(channel.energy_j(drawn, [1_000_000, 0]).round(4))
      0.0265
    """
    return _times(bits, conditions.joules_per_bit).sum(-1)


def round_time_s(
    conditions: Conditions,
    bits: Any,
    awaited: Any,
    access: Access,
    *,
    granted: bool = False,
) -> np.ndarray:
    """Seconds that a round lasts, float64 [...].

    The maximum over the workers of computing and upload ("fdma"), or the maximum of
    computing and then the sum of the uploads, one after the other ("tdma"). Whose
    delay is above 0 is not waited for, though in "tdma" its upload takes its turn; a
    round that waits for nobody takes no time, so seconds say little across delays.
    A silent worker takes no time to upload, but its computing is waited for: the server
    must know that it stays silent, is left out, or what it offers.

    Args:
      conditions: of one round, or of several, with fields [..., M].
      bits: integers [..., M], what each worker sent.
      awaited: bool [..., M], whose computing and upload are waited for: of
        `last_round` say.
      access: "fdma" or "tdma", that of the radio.
      granted: whether the server grants uploads: then none begins before all who are
        awaited have computed, and made their offers.

    Raises:
      ValueError: an argument has another shape than the conditions, or the access is
        unknown.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import channel
      >>> drawn = channel.Conditions(
      ...     delivered=np.array([True, False]), delay=np.array([0, 0]),
      ...     seconds_per_bit=np.array([1e-6, 2e-6]),
      ...     joules_per_bit=np.array([1e-7, 2e-7]), compute_s=np.array([0.5, 1.0]))
      >>> bits, everyone = np.array([1_000_000, 1_000_000]), np.array([True, True])
      >>> for access in ("fdma", "tdma"):
      ...     print(channel.round_time_s(drawn, bits, everyone, access))
      3.0
      4.0
    """
    _checks.one_of("access", access, get_args(Access))
    on_time = np.asarray(conditions.delay) == 0
    waited_for = _times(awaited, on_time, "awaited")
    computing = waited_for * np.asarray(conditions.compute_s, np.float64)
    uploads = upload_s(conditions, bits)
    if access == "tdma":
        return computing.max(-1) + uploads.sum(-1)
    sending = waited_for * uploads
    if granted:
        return computing.max(-1) + sending.max(-1)
    return (computing + sending).max(-1)


def _times(count: Any, each: Any, name: str = "bits") -> np.ndarray:
    """count * each in float64, 0 where the count is, even if `each` is infinite."""
    count, each = np.asarray(count), np.asarray(each, np.float64)
    if count.shape != each.shape:
        raise ValueError(
            f"{name} has shape {count.shape}, expected {each.shape}, that of the "
            "conditions."
        )
    return count * np.where(count != 0, each, 0.0)

"""A wireless uplink: which messages of a round arrive, how late, and what it took.

The first is drawn on the device, round by round; seconds and joules are worked out on
the host, from what the rounds met and the bits that were sent.
"""

import dataclasses
import math
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _trees
from gdsec_jax.uplink import _radio
from gdsec_jax.uplink._radio import Access, Radio

# Streams of the key of a round: what is drawn for one purpose changes no other.
_FADING, _ERASURE, _DELAY, _COMPUTE = range(4)


class Conditions(NamedTuple):
    """What one round's uploads meet; every field is [M]."""

    delivered: jax.Array  # bool: neither outage nor erasure
    delay: jax.Array  # int32: rounds until a delivered message arrives, 0 on time
    seconds_per_bit: jax.Array  # 1 / max(R_m, R_out); 0 without a radio
    joules_per_bit: jax.Array  # P seconds_per_bit
    compute_s: jax.Array  # seconds until the gradient is computed


@_radio.pytree("max_delay")
@dataclasses.dataclass(frozen=True, eq=False)
class Channel:
    """What the uploads of a round meet: fading, loss, delay, and slow workers.

    A pytree; its numbers may be traced, and are scalars or [M].

    Attributes:
      radio: the links' physics; None where uploads take no time or energy, and only
        erasures lose them.
      erasure_probability: of a packet, lost whatever its link's SNR.
      compute_s: seconds that a worker's gradient takes at least.
      straggler_s: the mean of what it takes beyond that, in seconds: a gradient's time
        is compute_s + straggler_s E with E ~ Exp(1), the shifted exponential, and all
        of a round's if a worker takes several local steps.
      max_delay: a delivered message arrives 0 to so many rounds late, each as likely;
        static.

    Raises:
      ValueError: a number is out of range, or the radio is no `Radio`.

    Examples:
      Every tenth message is lost, and every other one a round late:

      >>> from gdsec_jax import channel
      >>> lossy = channel.Channel(erasure_probability=0.1, max_delay=1)
      >>> drawn = channel.conditions(lossy, 1000, key=1)
      >>> int(drawn.delivered.sum()), int((drawn.delay == 1).sum())
      (904, 501)
    """

    radio: Radio | None = None
    erasure_probability: Any = 0.0
    compute_s: Any = 0.0
    straggler_s: Any = 0.0
    max_delay: int = 0

    def __post_init__(self):
        _checks.instance("radio", self.radio, Radio, "a Radio")
        _radio.check(self, "erasure_probability", high=1.0)
        for name in ("compute_s", "straggler_s"):
            _radio.check(self, name)
        _checks.integer("max_delay", self.max_delay, 0, 2**31 - 2)


def conditions(channel: Channel, num_workers: int, key: Any) -> Conditions:
    """Draw what the uploads of one round meet.

    Fading, erasures, delays and computing times come from separate streams of the key:
    what one of them is set to changes none of the others. Pure: it may be compiled,
    and vmapped over the channel's numbers and the key.

    Args:
      channel: with numbers that are scalars or [M].
      num_workers: M, a Python int.
      key: an int or a random key, of this round alone.

    Returns:
      `Conditions`, in float32, or in float64 where JAX has it enabled. A lost packet
      has a delay, too, of no meaning but in `round_time_s`.

    Raises:
      ValueError: one of the channel's numbers is neither a scalar nor [M].

    Examples:
      >>> from gdsec_jax import channel
      >>> radio = channel.at_snr(channel.Radio(), 2, snr_db=20.0)
      >>> drawn = channel.conditions(channel.Channel(radio), 2, key=0)
      >>> rates = 1e-6 / drawn.seconds_per_bit  # Mbit/s, of 0.5 MHz
      >>> drawn.delivered, rates.round(2)
      (Array([ True,  True], dtype=bool), Array([3.77, 2.2 ], dtype=float32))
    """
    _checks.of_kind("channel", channel, Channel, "a channel.Channel")
    _checks.number_of_workers(num_workers)
    key = _trees.as_key(key)
    shape = (num_workers,)

    def stream(purpose):
        return jax.random.fold_in(key, purpose)

    def of(node, name):
        return _radio.per_worker(node, name, num_workers)

    luck = jax.random.uniform(stream(_ERASURE), shape)
    delivered = luck >= of(channel, "erasure_probability")
    delay = jax.random.randint(
        stream(_DELAY), shape, 0, channel.max_delay + 1, jnp.int32
    )
    straggling = jax.random.exponential(stream(_COMPUTE), shape)
    compute_s = of(channel, "compute_s") + of(channel, "straggler_s") * straggling
    radio = channel.radio
    if radio is None:
        free = jnp.zeros(shape)
        return Conditions(delivered, delay, free, free, compute_s)
    fading = jax.random.exponential(stream(_FADING), shape)
    least = of(radio, "outage_snr")
    snr = radio.snr(num_workers) * jnp.maximum(fading, least)
    rate = radio.worker_bandwidth_hz(num_workers) * jnp.log1p(snr) / math.log(2)
    return Conditions(
        delivered=delivered & (fading >= least),
        delay=delay,
        seconds_per_bit=1 / rate,
        joules_per_bit=of(radio, "power_w") / rate,
        compute_s=compute_s,
    )


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
      conditions, bits: as in `upload_s`.
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


def ring_time_s(bits: Any, num_workers: int, bits_per_second: Any) -> Any:
    r"""Seconds of an all-reduce on a ring: no server, each link sends and receives.

    .. math:: t = 2 \frac{M - 1}{M} \frac{b}{B}

    of a vector of b bits over links of B bits a second, latency aside. In local
    training with H steps of t_s seconds between two of them, the share of the time in
    which workers compute is H t_s / (H t_s + t).

    Args:
      bits: b, of the dense vector; an array of any shape, or a number.
      num_workers: M.
      bits_per_second: B, of the slowest link; an array or a number.

    Raises:
      ValueError: num_workers is no positive int, bits are below 0, or bits_per_second
        not above 0.

    Examples:
      >>> from gdsec_jax import channel
      >>> float(channel.ring_time_s(32 * 1_000_000, num_workers=4, bits_per_second=1e9))
      0.048
    """
    _checks.number_of_workers(num_workers)
    _checks.in_range("bits", bits, 0.0, _checks.LARGEST)
    _checks.in_range(
        "bits_per_second", bits_per_second, _checks.SMALLEST, _checks.LARGEST
    )
    share = 2 * (num_workers - 1) / num_workers
    return share * np.asarray(bits, np.float64) / np.asarray(bits_per_second)


def _times(count: Any, each: Any, name: str = "bits") -> np.ndarray:
    """count * each in float64, 0 where the count is, even if `each` is infinite."""
    count, each = np.asarray(count), np.asarray(each, np.float64)
    if count.shape != each.shape:
        raise ValueError(
            f"{name} has shape {count.shape}, expected {each.shape}, that of the "
            "conditions."
        )
    return count * np.where(count != 0, each, 0.0)

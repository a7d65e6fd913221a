"""A wireless uplink: which messages arrive, how late, at what time and energy.

The device draws the `conditions` of every round; the host turns them, and the exact
bits that were sent, into seconds and joules.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _trees

Access = Literal["fdma", "tdma"]
_Node = TypeVar("_Node", bound=type)
# Streams of the key of a round: what is drawn for one purpose changes no other.
_FADING, _ERASURE, _DELAY, _COMPUTE = range(4)


class Conditions(NamedTuple):
    """What one round's uploads meet; every field is [M]."""

    delivered: jax.Array  # bool: neither outage nor erasure
    delay: jax.Array  # int32: rounds until a delivered message arrives, 0 on time
    seconds_per_bit: jax.Array  # 1 / max(R_m, R_out); 0 without a radio
    joules_per_bit: jax.Array  # P seconds_per_bit
    compute_s: jax.Array  # seconds until the gradient is computed


def _pytree(*, static: str):
    """Register a dataclass, of which one field is static.

    Its constructor alone checks what it is handed: JAX also fills such trees with axes,
    shapes and placeholders, and `register_dataclass` would hand them to it.
    """

    def register(node: _Node) -> _Node:
        fields = dataclasses.fields(node)
        names = [field.name for field in fields if field.name != static]

        def flatten(value):
            return [getattr(value, name) for name in names], getattr(value, static)

        def flatten_with_keys(value):
            leaves, meta = flatten(value)
            keys = map(jax.tree_util.GetAttrKey, names)
            return list(zip(keys, leaves, strict=True)), meta

        def unflatten(meta, leaves):
            value = object.__new__(node)
            vars(value).update(zip(names, leaves, strict=True), **{static: meta})
            return value

        jax.tree_util.register_pytree_with_keys(
            node, flatten_with_keys, unflatten, flatten
        )
        return node

    return register


@_pytree(static="access")
@dataclasses.dataclass(frozen=True, eq=False)
class Radio:
    r"""The physics of the workers' links to the server.

    .. math::
      \text{SNR}_m = \frac{P_m d_m^{-\eta}}{N_0 W_m}, \qquad
      R_m = W_m \log_2(1 + \text{SNR}_m |c_m|^2), \qquad |c_m|^2 \sim \text{Exp}(1)

    The fading :math:`|c_m|^2` is drawn anew each round and does not change within it
    (Rayleigh block fading). Where the rate is below
    :math:`R_{out} = W_m \log_2(1 + s \, \text{SNR}_m)`, s the outage_snr, the
    packet was sent at R_out and is lost, with probability 1 - exp(-s). Without such a
    floor the mean time of an upload is infinite.

    A pytree; its numbers may be traced, and are scalars or [M]. The defaults are a
    small device half a kilometre from a base station in a city. The law has no loss at
    the first metre, where that of [1] has 15 dB: `at_snr` sets the SNR instead.

    Attributes:
      distance_m: d_m, to the server, in metres.
      power_w: P_m, while sending, in watts; 0.1 W are 20 dBm.
      bandwidth_hz: W, the whole band, in hertz. Each worker has W_m = W/M of it all the
        time ("fdma"), or all of it in turn ("tdma").
      noise_w_per_hz: N0, the density of the noise, in W/Hz; by default thermal noise at
        290 K, -174 dBm/Hz, in a receiver with a noise figure of 5 dB.
      path_loss_exponent: eta; 2 in free space, 3.76 between buildings [1].
      outage_snr: the fraction of the mean SNR below which a packet is lost.
      access: "fdma" or "tdma"; static.

    Raises:
      ValueError: a number is out of range, or the access is unknown.

    Examples:
      >>> from gdsec_jax import channel
      >>> radio = channel.Radio(power_w=1.0, noise_w_per_hz=1e-18)
      >>> radio.snr(num_workers=2).round(1), 500**-3.76 / (1e-18 * 5e5)
      (Array([142.2, 142.2], dtype=float32), 142.20104219500124)

    References:
      [1] 3GPP TR 36.942, macro cells in urban areas: 128.1 dB + 37.6 dB log10(d/1 km)
    """

    distance_m: Any = 500.0
    power_w: Any = 0.1
    bandwidth_hz: Any = 1e6
    noise_w_per_hz: Any = 10 ** ((-174 + 5 - 30) / 10)
    path_loss_exponent: Any = 3.76
    outage_snr: Any = 0.05
    access: Access = "fdma"

    def __post_init__(self):
        _checks.one_of("access", self.access, get_args(Access))
        _take(self, "path_loss_exponent")
        for name in ("distance_m", "power_w", "bandwidth_hz", "noise_w_per_hz"):
            _take(self, name, _checks.SMALLEST)
        _take(self, "outage_snr", _checks.SMALLEST)

    def worker_bandwidth_hz(self, num_workers: int) -> jax.Array:
        """W_m [M], in hertz, that a worker has while it sends."""
        whole = _per_worker("bandwidth_hz", self.bandwidth_hz, num_workers)
        return whole / num_workers if self.access == "fdma" else whole

    def snr(self, num_workers: int) -> jax.Array:
        """SNR_m [M], the mean over the fading; a ratio, no decibels."""
        distance = _per_worker("distance_m", self.distance_m, num_workers)
        exponent = _per_worker(
            "path_loss_exponent", self.path_loss_exponent, num_workers
        )
        power = _per_worker("power_w", self.power_w, num_workers)
        density = _per_worker("noise_w_per_hz", self.noise_w_per_hz, num_workers)
        noise = density * self.worker_bandwidth_hz(num_workers)
        return power / noise * distance**-exponent


@_pytree(static="max_delay")
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
        if not (self.radio is None or isinstance(self.radio, Radio)):
            raise ValueError(f"radio is {self.radio!r}, expected a Radio or None.")
        _take(self, "erasure_probability", high=1.0)
        _take(self, "compute_s")
        _take(self, "straggler_s")
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
    _checks.number_of_workers(num_workers)
    key = _trees.as_key(key)
    shape, dtype = (num_workers,), _float()

    def stream(purpose):
        return jax.random.fold_in(key, purpose)

    def of(node, name):
        return _per_worker(name, getattr(node, name), num_workers)

    luck = jax.random.uniform(stream(_ERASURE), shape, dtype)
    delivered = luck >= of(channel, "erasure_probability")
    delay = jax.random.randint(
        stream(_DELAY), shape, 0, channel.max_delay + 1, jnp.int32
    )
    straggling = jax.random.exponential(stream(_COMPUTE), shape, dtype)
    compute_s = of(channel, "compute_s") + of(channel, "straggler_s") * straggling
    radio = channel.radio
    if radio is None:
        free = jnp.zeros(shape, dtype)
        return Conditions(delivered, delay, free, free, compute_s)
    fading = jax.random.exponential(stream(_FADING), shape, dtype)
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


def at_snr(radio: Radio, num_workers: int, snr_db: Any) -> Radio:
    """The radio with the noise at which the median worker's mean SNR is given.

    Args:
      radio: whose noise_w_per_hz is replaced by a multiple of it.
      num_workers: M, a Python int.
      snr_db: in decibels, with the bandwidth that a worker has: the same noise gives an
        M-th of the SNR with the other access, "tdma", as with "fdma". May be traced.

    Raises:
      ValueError: the SNR is not between -100 and 100 dB.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gdsec_jax import channel
      >>> radio = channel.Radio(distance_m=jnp.array([100.0, 200.0, 1000.0]))
      >>> channel.at_snr(radio, 3, snr_db=20.0).snr(3)[1].round(2)
      Array(100., dtype=float32)
    """
    _checks.number_in_range("snr_db", snr_db, -100.0, 100.0)
    wanted = 10 ** (jnp.asarray(snr_db, _float()) / 10)
    factor = jnp.median(radio.snr(num_workers)) / wanted
    noise = jnp.asarray(radio.noise_w_per_hz, _float()) * factor
    return dataclasses.replace(radio, noise_w_per_hz=noise)


def upload_s(conditions: Conditions, bits: Any) -> np.ndarray:
    """Seconds that each upload takes, those that are lost too, float64 [..., M].

    Args:
      conditions: of one round, or of several, with fields [..., M].
      bits: integers [..., M], what each worker sent; a silent one takes no time.

    Raises:
      ValueError: the bits have another shape than the conditions.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import channel
      >>> drawn = channel.Conditions(
      ...     delivered=np.array([True, False]), delay=np.array([0, 0]),
      ...     seconds_per_bit=np.array([1e-6, 2e-6]),
      ...     joules_per_bit=np.array([1e-7, 2e-7]), compute_s=np.array([0.5, 1.0]))
      >>> channel.upload_s(drawn, [1_000_000, 0])
      array([1., 0.])
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


def _float() -> Any:
    """float32, or float64 where JAX has it enabled."""
    return jnp.result_type(float)


def _per_worker(name: str, value: Any, num_workers: int) -> jax.Array:
    """A scalar for each worker, or what already is [M]."""
    if jnp.shape(value) not in ((), (num_workers,)):
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}, expected () or ({num_workers},)."
        )
    return jnp.broadcast_to(jnp.asarray(value, _float()), (num_workers,))


def _take(
    node: Radio | Channel, name: str, low: float = 0.0, high: float = _checks.LARGEST
) -> None:
    """Check a field, numbers, perhaps traced, in [low, high]; an int becomes a float.

    JAX would take 5,000,000,000 Hz for an integer of 32 bits.
    """
    value = getattr(node, name)
    if not isinstance(value, int | float | np.number | np.ndarray | jax.Array):
        raise ValueError(f"{name} is {value!r}, expected a number or an array of them.")
    _checks.in_range(name, value, low, high)
    if isinstance(value, int):
        object.__setattr__(node, name, float(value))

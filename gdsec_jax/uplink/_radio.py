"""The workers' links to the server: their numbers, and the physics of a radio."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks

Access = Literal["fdma", "tdma"]
_Node = TypeVar("_Node", bound=type)


def pytree(*static: str) -> Callable[[_Node], _Node]:
    """Register a dataclass as a pytree whose named fields are static.

    Only its constructor checks what it is handed: JAX also fills such trees with axes,
    shapes and placeholders, which `register_dataclass` would hand to the constructor.
    """

    def register(node: _Node) -> _Node:
        names = [f.name for f in dataclasses.fields(node) if f.name not in static]

        def flatten(value):
            keyed = [(jax.tree_util.GetAttrKey(n), getattr(value, n)) for n in names]
            return keyed, tuple(getattr(value, name) for name in static)

        def unflatten(meta, leaves):
            value = object.__new__(node)
            vars(value).update(zip(static, meta, strict=True))
            vars(value).update(zip(names, leaves, strict=True))
            return value

        jax.tree_util.register_pytree_with_keys(node, flatten, unflatten)
        return node

    return register


def per_worker(node: Any, name: str, num_workers: int) -> jax.Array:
    """A field as [M]: a scalar for each worker, or what already is [M]."""
    value = getattr(node, name)
    if jnp.shape(value) not in ((), (num_workers,)):
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}, expected () or ({num_workers},)."
        )
    return jnp.broadcast_to(jnp.asarray(value, float), (num_workers,))


def check(
    node: Any, name: str, low: float = 0.0, high: float = _checks.LARGEST
) -> None:
    """Check a field: numbers, perhaps traced, in [low, high]. An int becomes a float.

    JAX would take 5,000,000,000 Hz for an integer of 32 bits.
    """
    value = getattr(node, name)
    if not isinstance(value, int | float | np.number | np.ndarray | jax.Array):
        raise ValueError(f"{name} is {value!r}, expected a number or an array of them.")
    _checks.in_range(name, value, low, high)
    if isinstance(value, int):
        object.__setattr__(node, name, float(value))


@pytree("access")
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
        check(self, "path_loss_exponent")
        positive = ("distance_m", "power_w", "bandwidth_hz", "noise_w_per_hz")
        for name in (*positive, "outage_snr"):
            check(self, name, _checks.SMALLEST)

    def worker_bandwidth_hz(self, num_workers: int) -> jax.Array:
        """W_m [M], in hertz, that a worker has while it sends."""
        whole = per_worker(self, "bandwidth_hz", num_workers)
        return whole / num_workers if self.access == "fdma" else whole

    def snr(self, num_workers: int) -> jax.Array:
        """SNR_m [M], the mean over the fading; a ratio, no decibels."""
        distance = per_worker(self, "distance_m", num_workers)
        exponent = per_worker(self, "path_loss_exponent", num_workers)
        power = per_worker(self, "power_w", num_workers)
        density = per_worker(self, "noise_w_per_hz", num_workers)
        noise = density * self.worker_bandwidth_hz(num_workers)
        return power / noise * distance**-exponent


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
    _checks.of_kind("radio", radio, Radio, "a channel.Radio")
    _checks.number_of_workers(num_workers)
    _checks.number_in_range("snr_db", snr_db, -100.0, 100.0)
    wanted = 10 ** (jnp.asarray(snr_db, float) / 10)
    factor = jnp.median(radio.snr(num_workers)) / wanted
    noise = jnp.asarray(radio.noise_w_per_hz, float) * factor
    return dataclasses.replace(radio, noise_w_per_hz=noise)

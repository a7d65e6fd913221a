"""What stands between the workers and the server: channel, participation, grants."""

import functools
from typing import Annotated, Any, Literal

import jax
import pydantic
from pydantic import Field

from gdsec_jax import channel as channels
from gdsec_jax import participation as rules
from gdsec_jax.study.config._fields import Fraction, Model, NonNegative, Positive
from gdsec_jax.uplink import Uplink

RuleName = Literal["uniform", "bernoulli", "round_robin"]
_RADIO = (
    *("access", "bandwidth_hz", "distance_m", "power_w"),
    *("path_loss_exponent", "outage_snr"),
)


class ChannelConfig(Model):
    """What the uploads meet; with a mean SNR they take time and energy, too."""

    snr_db: Annotated[float, Field(ge=-100, le=100)] | None = None
    """Mean signal-to-noise ratio of the median worker, in dB; without one uploads take
    no time."""
    access: channels.Access = "fdma"
    """Workers send side by side, or in turn."""
    bandwidth_hz: Positive = 1e6
    """Of the whole band."""
    distance_m: Positive | tuple[Positive, ...] = 500.0
    """To the server, of all workers or of each."""
    power_w: Positive = 0.1
    """Of a sender."""
    path_loss_exponent: NonNegative = 3.76
    """eta."""
    outage_snr: Positive = 0.05
    """Share of its mean SNR below which a packet is lost."""
    erasure_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of a packet, whatever its SNR."""
    compute_s: NonNegative = 0.0
    """Seconds that a gradient takes at least."""
    straggler_s: NonNegative = 0.0
    """Mean of what it takes beyond that, exponential."""
    max_delay: Annotated[int, Field(ge=0, le=1000, strict=True)] = 0
    """Rounds that a message is late at most."""

    @pydantic.model_validator(mode="after")
    def _has_a_radio(self):
        for name in _RADIO:  # what was saved, or read from options, names all fields
            default = type(self).model_fields[name].default
            if self.snr_db is None and getattr(self, name) != default:
                said = "needs an snr_db: without one there is no radio"
                raise ValueError(f"{name} {said}")
        return self


def make_channel(config: ChannelConfig, num_workers: int) -> channels.Channel:
    """The channel that a config describes."""
    given: dict[str, Any] = dict(config)
    radio = {name: given.pop(name) for name in _RADIO}
    snr_db = given.pop("snr_db")
    if snr_db is None:
        return channels.Channel(**given)
    if isinstance(distance := radio["distance_m"], tuple):
        if len(distance) != num_workers:
            raise ValueError(
                f"channel.distance_m has {len(distance)} numbers, expected "
                f"{num_workers}, one for each worker."
            )
        radio["distance_m"] = jax.numpy.asarray(distance, float)
    radio = channels.at_snr(channels.Radio(**radio), num_workers, snr_db)
    return channels.Channel(radio, **given)


class UplinkConfig(Model):
    """What stands between the workers of one method and the server."""

    participation: Fraction | None = None
    """Share of the workers that take part in a round."""
    participation_rule: RuleName | None = None
    """Which ones; by default they are drawn uniformly."""
    budget_bits: NonNegative | None = None
    """Of a round: the largest unsent energy goes first, up to so many."""
    absent: Literal["hold", "accumulate"] | None = None
    """What absent workers do; by default they hold."""
    channel: ChannelConfig | None = None
    """Of this method, in the place of that of all."""


def make_uplink(
    method: UplinkConfig, channel: ChannelConfig | None, num_workers: int
) -> Uplink:
    """The uplink of a method in a `sweep`, which hands it the fields that it names.

    `channel` is that of all methods, for one that has none of its own.
    """
    rule = method.participation_rule or "uniform"
    drawn = functools.partial(takes_part, num_workers=num_workers, rule=rule)
    channel = method.channel or channel
    return Uplink(
        participation=None if method.participation is None else drawn,
        absent=method.absent or "hold",
        grant=None if method.budget_bits is None else _granted,
        channel=None if channel is None else make_channel(channel, num_workers),
    )


def takes_part(key, round, participation, *, num_workers: int, rule: RuleName):
    """bool [M], the workers of a round, by a rule with this share."""
    return getattr(rules, rule)(num_workers, participation)(key, round)


def _granted(offers: rules.Offers, budget_bits: Any) -> jax.Array:
    return rules.largest_energy(budget_bits)(offers)

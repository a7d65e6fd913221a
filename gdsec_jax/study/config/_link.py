"""What stands between the workers and the server: channel, participation, grants."""

import functools
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import pydantic
from pydantic import Field

from gdsec_jax import channel as channels
from gdsec_jax import participation as rules
from gdsec_jax.simulation import _grid
from gdsec_jax.study.config._grid import Model
from gdsec_jax.uplink import Uplink

if TYPE_CHECKING:
    from gdsec_jax.study.config._schema import MethodConfig, RunConfig

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
RuleName = Literal["uniform", "bernoulli", "round_robin"]


class ChannelConfig(Model):
    """What the uploads meet; with a mean SNR they take time and energy, too."""

    snr_db: Annotated[float, Field(ge=-100, le=100)] | None = Field(
        default=None,
        description="Mean signal-to-noise ratio of the median worker, in dB; without "
        "one uploads take no time.",
    )
    access: channels.Access = Field(
        default="fdma", description="Workers send side by side, or in turn."
    )
    bandwidth_hz: _Positive = Field(default=1e6, description="Of the whole band.")
    distance_m: _Positive | tuple[_Positive, ...] = Field(
        default=500.0, description="To the server, of all workers or of each."
    )
    power_w: _Positive = Field(default=0.1, description="Of a sender.")
    path_loss_exponent: _NonNegative = Field(default=3.76, description="eta.")
    outage_snr: _Positive = Field(
        default=0.05, description="Share of its mean SNR below which a packet is lost."
    )
    erasure_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Of a packet, whatever its SNR."
    )
    compute_s: _NonNegative = Field(
        default=0.0, description="Seconds that a gradient takes at least."
    )
    straggler_s: _NonNegative = Field(
        default=0.0, description="Mean of what it takes beyond that, exponential."
    )
    max_delay: Annotated[int, Field(ge=0, le=1000, strict=True)] = Field(
        default=0, description="Rounds that a message is late at most."
    )

    @pydantic.model_validator(mode="after")
    def _has_a_radio(self):
        radio = ("access", "bandwidth_hz", "distance_m", "power_w")
        radio += ("path_loss_exponent", "outage_snr")
        # What was saved, or read from options, names all fields.
        fields = type(self).model_fields
        given = [name for name in radio if getattr(self, name) != fields[name].default]
        if self.snr_db is None and given:
            raise ValueError(
                f"{given[0]} needs an snr_db: without one there is no radio"
            )
        return self


def make_channel(config: ChannelConfig, num_workers: int) -> channels.Channel:
    """The channel that a config describes.

    Raises:
      ValueError: the distances are not one for each worker.
    """
    radio = None
    if config.snr_db is not None:
        distance: Any = config.distance_m
        if isinstance(distance, tuple):
            if len(distance) != num_workers:
                raise ValueError(
                    f"channel.distance_m has {len(distance)} numbers, expected "
                    f"{num_workers}, one for each worker."
                )
            distance = jax.numpy.asarray(distance, float)
        radio = channels.Radio(
            distance_m=distance,
            power_w=config.power_w,
            bandwidth_hz=config.bandwidth_hz,
            path_loss_exponent=config.path_loss_exponent,
            outage_snr=config.outage_snr,
            access=config.access,
        )
        radio = channels.at_snr(radio, num_workers, config.snr_db)
    return channels.Channel(
        radio,
        erasure_probability=config.erasure_probability,
        compute_s=config.compute_s,
        straggler_s=config.straggler_s,
        max_delay=config.max_delay,
    )


def channel_of(method: "MethodConfig", config: "RunConfig") -> ChannelConfig | None:
    """A method's own channel, or that of all."""
    return config.channel if method.channel is None else method.channel


def around(method: "MethodConfig", config: "RunConfig", num_workers: int) -> Uplink:
    """What stands around a method's optimizer.

    Its functions take `participation` and `budget_bits` by name; `bound` gives them the
    method's.
    """
    options: dict[str, Any] = {}
    if method.participation is not None:
        rule = method.participation_rule or "uniform"
        options["participation"] = functools.partial(
            takes_part, num_workers=num_workers, rule=rule
        )
    if method.budget_bits is not None:
        options["grant"] = _granted
    if method.absent is not None:
        options["absent"] = method.absent
    channel = channel_of(method, config)
    if channel is not None:
        options["channel"] = make_channel(channel, num_workers)
    return Uplink(**options)


def bound(uplink: Uplink, method: "MethodConfig") -> Uplink:
    """The same for `simulate`."""
    own = {name: getattr(method, name) for name in ("participation", "budget_bits")}
    return _grid.UplinkOf(uplink)(**own)


def takes_part(
    key: jax.Array,
    round: jax.Array,
    participation: Any,
    *,
    num_workers: int,
    rule: RuleName,
) -> jax.Array:
    """bool [M], the workers of a round, by a rule with this share."""
    return getattr(rules, rule)(num_workers, participation)(key, round)


def _granted(offers: rules.Offers, budget_bits: Any) -> jax.Array:
    return rules.largest_energy(budget_bits)(offers)

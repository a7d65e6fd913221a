"""What stands between the workers and the server in a run, as one object."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._attendance import Absent, Grant, Rule
from gdsec_jax.server import LateMessagesState
from gdsec_jax.uplink import _channel
from gdsec_jax.uplink._channel import Channel, Conditions
from gdsec_jax.uplink._radio import pytree

# Streams of a run's key: what is drawn for one purpose changes no other. They are
# large: an algorithm with the same key splits it, and folds in the numbers of rounds
# and of workers.
MINIBATCH, PARTICIPATION, CHANNEL = 2**31 - 3, 2**31 - 2, 2**31 - 4


def stream(key: jax.Array, purpose: int, number) -> jax.Array:
    """The key of a purpose in a round."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), number)


class Draw(NamedTuple):
    """What one round's workers and uploads meet; None where it is nothing special."""

    active: jax.Array | None  # bool [M], who takes part
    absent: Absent | None  # what the others do
    grant: Grant | None  # who of them may send
    delivered: jax.Array | None  # bool [M], whose message arrives
    delay: jax.Array | None  # int32 [M], after how many rounds
    conditions: Conditions | tuple[()]  # all that the channel drew

    def arguments(self) -> dict[str, Any]:
        """The extra arguments that an optimizer's `update` takes of it."""
        own = self._replace(conditions=None)._asdict()
        return {name: x for name, x in own.items() if x is not None}


class Costs(NamedTuple):
    """What rounds took over a channel, float64 on the host."""

    time_s: np.ndarray  # [...], the seconds that each round lasted
    energy_j: np.ndarray  # [...], the joules of its uploads
    worker_time_s: np.ndarray  # [..., M], seconds of computing and sending; 0 if absent


@pytree("participation", "absent", "grant")
@dataclasses.dataclass(frozen=True)
class Uplink:
    """What stands between the workers and the server: who sends, and what arrives.

    It says of each round who takes part, who may send, which messages arrive and when,
    and what the round took in seconds and joules. It sees no message. `simulate` and
    `sweep` ask it; so can a loop of one's own.

    A pytree: the channel's numbers may be traced, all else is static. In a sweep every
    function is also handed the grid's parameters that it names.

    Attributes:
      participation: from a round's random key and number, the first is 0, to bool [M],
        the workers of the round: a rule of `gdsec_jax.participation`, say. None: all.
        A function that is defined once is compiled once.
      absent: what the other workers do: "hold", compute nothing, and their memories are
        frozen; or "accumulate", compute, and keep it all in their memories.
      grant: who of them may send, once it is known what they would, as
        `participation.largest_energy`; the others are absent.
      channel: what the uploads meet: losses, delays, and the seconds and joules that
        rounds then take; in a sweep also a function of grid parameters that makes one.
        Messages that may be late need an algorithm with as large a `max_delay`.

    Raises:
      ValueError: participation or grant is no such function; absent is unknown, or said
        where nobody is absent; the channel is none.

    Examples:
      >>> import jax
      >>> from gdsec_jax import Uplink, channel, participation
      >>> uplink = Uplink(
      ...     participation=participation.round_robin(4, 0.5),
      ...     channel=channel.Channel(erasure_probability=0.5))
      >>> drawn = uplink.draw(jax.random.key(0), 0, num_workers=4)
      >>> drawn.active.tolist(), sorted(drawn.arguments())
      ([True, True, False, False], ['absent', 'active', 'delivered'])
    """

    participation: Rule | Callable[..., jax.Array] | None = None
    absent: Absent = "hold"
    grant: Grant | Callable[..., jax.Array] | None = None
    channel: Channel | Callable[..., Channel] | None = None

    def __post_init__(self):
        _checks.function("participation", self.participation)
        _checks.function("grant", self.grant)
        if self.participation is not None and not _takes_two(self.participation):
            raise ValueError(
                f"participation is {self.participation!r}, expected a function of a "
                "round's key and its number, such as participation.uniform(5, 0.5)."
            )
        _checks.one_of("absent", self.absent, get_args(Absent))
        nobody = self.participation is None and self.grant is None
        if self.absent != "hold" and nobody:
            raise ValueError(
                f"absent is {self.absent!r}, expected a participation or a grant "
                "beside it: nobody is absent."
            )
        if not callable(self.channel):
            _checks.instance("channel", self.channel, Channel, "a channel.Channel")

    @property
    def draws(self) -> bool:
        """Whether it needs a random key."""
        return self.participation is not None or self.channel is not None

    def check(self, num_workers: int) -> None:
        """A ValueError if the channel is a function still, or a link's SNR no number.

        Then uploads would take no time, or for ever.
        """
        channel = self.channel
        if callable(channel):
            raise ValueError(
                f"channel is {channel!r}, expected a channel.Channel or None: only a "
                "sweep has parameters for a function."
            )
        if channel is None or channel.radio is None:
            return
        for m, snr in enumerate(np.asarray(channel.radio.snr(num_workers))):
            if not (snr > 0 and math.isfinite(snr)):
                raise ValueError(
                    f"channel.radio has the mean SNR {snr:g} for worker {m}, expected "
                    "a finite number above 0."
                )

    def check_delays(self, state: Any) -> None:
        """A ValueError if messages may be later than an optimizer waits for them."""
        most = self.channel.max_delay if isinstance(self.channel, Channel) else 0
        waits = [
            jax.tree.leaves(each)[0].shape[0]
            for each in _trees.of_type(state, LateMessagesState)
        ]
        if most > min(waits, default=0):
            raise ValueError(
                f"channel has max_delay {most}, expected at most that of server.late, "
                f"{min(waits, default=0)}."
            )

    def draw(
        self, key: Any, number: Any, num_workers: int, num_gradients: Any = 1
    ) -> Draw:
        """What a round's workers meet.

        Args:
          key: the run's, an int or a random key.
          number: of the round, the first is 0; may be traced.
          num_workers: M.
          num_gradients: that each worker computes in the round: who is slow in a round
            is so at each of them.

        Raises:
          ValueError: the participation returns no bool [M], or a number of the channel
            is neither a scalar nor [M].
        """
        key = _trees.as_key(key)
        active = delivered = delay = None
        met: Conditions | tuple[()] = ()
        if self.participation is not None:
            drawn = self.participation(stream(key, PARTICIPATION, number), number)
            active = _checks.mask("participation's mask", drawn, num_workers)
        if isinstance(self.channel, Channel):
            own = stream(key, CHANNEL, number)
            met = _channel.conditions(self.channel, num_workers, own)
            times = jnp.asarray(num_gradients, met.compute_s.dtype)
            met = met._replace(compute_s=times * met.compute_s)
            delivered = met.delivered
            delay = met.delay if self.channel.max_delay else None
        nobody = active is None and self.grant is None
        absent = None if nobody else self.absent
        return Draw(active, absent, self.grant, delivered, delay, met)

    def costs(self, met: Any, sent: Any) -> Costs | None:
        """What rounds took; None without a channel.

        Of the `conditions` of their draws, on the host, fields [..., M], and of their
        `LastRound`, with the same leading axes.
        """
        if not isinstance(self.channel, Channel):
            return None
        radio = self.channel.radio
        access = "fdma" if radio is None else radio.access
        granted = self.grant is not None
        bits, awaited = sent.bits, sent.awaited
        busy = met.compute_s + _channel.upload_s(met, bits)
        return Costs(
            _channel.round_time_s(met, bits, awaited, access, granted=granted),
            _channel.energy_j(met, bits),
            np.where(sent.computed, busy, 0.0),
        )


def _takes_two(rule: Any) -> bool:
    """Whether a function takes two arguments, beside what a sweep hands it by name."""
    try:
        inspect.signature(rule).bind_partial(None, None)
    except TypeError:
        return False
    except ValueError:
        pass  # some have no signature
    return True

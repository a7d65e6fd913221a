"""What stands between the workers and the server in a run, and what it costs."""

import inspect
import math
from typing import Any, NamedTuple, get_args

import jax
import numpy as np

from gdsec_jax import _checks, _trees
from gdsec_jax.federation._attendance import Absent, Grant
from gdsec_jax.problems import Problem
from gdsec_jax.server import LateMessagesState
from gdsec_jax.uplink._channel import (
    Channel,
    Conditions,
    conditions,
    energy_j,
    round_time_s,
    upload_s,
)
from gdsec_jax.uplink._participation import Rule
from gdsec_jax.uplink._streams import CHANNEL, PARTICIPATION, stream

SUMMED = ("time_s", "energy_j")  # columns of floats that add up over rounds


class Around(NamedTuple):
    """What stands around an optimizer, as of `simulate`; functions and words."""

    participation: Rule | None = None
    absent: Absent = "hold"
    grant: Grant | None = None


def check(around: Around, channel: Any, num_workers: int) -> None:
    """What stands around an optimizer is what it should be.

    Raises:
      ValueError: participation or grant is no such function; absent is unknown, or
        said of nobody; the channel is none, or so good or so bad that uploads would
        take no time, or for ever.
    """
    _checks.function("participation", around.participation)
    _checks.function("grant", around.grant)
    if around.participation is not None and not _takes_two(around.participation):
        raise ValueError(
            f"participation is {around.participation!r}, expected a function of a "
            "round's key and its number, such as participation.uniform(5, 0.5)."
        )
    absent = around.absent
    _checks.one_of("absent", absent, get_args(Absent))
    nobody = around.participation is None and around.grant is None
    if absent != "hold" and nobody:
        raise ValueError(
            f"absent is {absent!r}, expected a participation or a grant beside it: "
            "nobody is absent."
        )
    if not (channel is None or isinstance(channel, Channel)):
        raise ValueError(f"channel is {channel!r}, expected a channel.Channel or None.")
    if channel is not None and channel.radio is not None:
        for m, snr in enumerate(np.asarray(channel.radio.snr(num_workers))):
            if not (snr > 0 and math.isfinite(snr)):
                raise ValueError(
                    f"channel.radio has the mean SNR {snr:g} for worker {m}, expected "
                    "a finite number above 0."
                )


def _takes_two(rule: Any) -> bool:
    """Whether a function takes two arguments, beside what a sweep hands it by name."""
    try:
        inspect.signature(rule).bind_partial(None, None)
    except TypeError:
        return False
    except ValueError:  # some have no signature
        return True
    return True


def check_delays(channel: Channel | None, state: Any) -> None:
    """The optimizer waits as long as messages may be late."""
    most = 0 if channel is None else channel.max_delay
    waits = [
        jax.tree.leaves(each)[0].shape[0]
        for each in _trees.of_type(state, LateMessagesState)
    ]
    if most > min(waits, default=0):
        raise ValueError(
            f"channel has max_delay {most}, expected at most the algorithm's, "
            f"{min(waits, default=0)}."
        )


def fate(problem: Problem, around: Around, channel: Channel | None, key, number):
    """What befalls a round's workers, as `federate` takes it; the channel's draws."""
    num_workers = problem.num_workers
    said: dict[str, Any] = {}
    if around.participation is not None:
        drawn = around.participation(stream(key, PARTICIPATION, number), number)
        drawn = _checks.mask("participation's mask", drawn, num_workers)
        said = {"active": drawn, "absent": around.absent}
    if around.grant is not None:
        said |= {"grant": around.grant, "absent": around.absent}
    if channel is None:
        return said, ()
    met = conditions(channel, num_workers, stream(key, CHANNEL, number))
    # Who is slow in a round is so at each of its gradients.
    met = met._replace(compute_s=problem.num_local_steps * met.compute_s)
    if channel.max_delay:
        said |= {"delay": met.delay}
    return said | {"delivered": met.delivered}, met


def costs(
    met: Conditions, sent: Any, channel: Channel | None, granted: bool
) -> dict[str, Any]:
    """float64, the seconds and joules of rounds, if there is a channel.

    Args:
      met: of the rounds, on the host.
      sent: `LastRound` of them.
      channel: or None.
      granted: whether the server granted the uploads.
    """
    if channel is None:
        return {}
    access = "fdma" if channel.radio is None else channel.radio.access
    return {
        "time_s": round_time_s(met, sent.bits, sent.awaited, access, granted=granted),
        "energy_j": energy_j(met, sent.bits),
    }


def worker_time_s(met: Any, sent: Any) -> np.ndarray | None:
    """float64 [K, M], the seconds that each worker computed and sent; 0 if absent."""
    if not met:
        return None
    seconds = met.compute_s + upload_s(met, sent.bits)
    return np.where(sent.computed, seconds, 0.0)

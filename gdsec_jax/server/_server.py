"""How the server makes one direction of what the workers said."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

from gdsec_jax import _checks, _trees
from gdsec_jax.server._memory import (
    ServerMemoryState,
    gradient_estimate,
    late_messages,
    server_memory,
    weighted_estimate,
)
from gdsec_jax.server._sum import sparse_sum
from gdsec_jax.server._two_shot import cut, second_rounding
from gdsec_jax.worker import Piece, chain
from gdsec_jax.worker._piece import as_piece, declare, no_state

IDENTITY = declare(
    optax.GradientTransformation(no_state, optax.identity().update), component_wise=True
)


def _sum(messages: Any, late: Any) -> Any:
    del late
    return _trees.over_workers(messages)


class Server(NamedTuple):
    """What the server does in a round: it prepares, combines, and steps.

    `total`, `running`, `sparse`, `two_shot`, `late` and `robust` make one. A method
    whose workers keep a memory h_m completes it: by `prepare`, if the server
    `estimates`, or by a `step` with a memory of the server's own.

    Attributes:
      prepare: (message u_m, the pipeline's state before the round) of one worker to
        what is combined, `gradient_estimate` say; None for the message itself.
      combine: from what is prepared, leaves [M, *param], and by how many rounds each is
        late, int32 [M] or None, to leaves [*param]; with a max_delay
        [max_delay + 1, *param], what is on time first.
      step: a transformation of what is combined, `server_memory` say.
      estimates: whether it combines h_m + u_m where the workers keep a memory; else
        the messages alone.
      adds_up: whether `combine` is a sum over the workers, which may be formed of
        batches of them; None for a function of which nothing is known.
      capacity: entries of a message that can be taken; None for all.
      parts: into how many parts of components `combine` cuts the sum, for a `step` that
        joins them: [parts, ceil(D / parts)]; None for leaves [*param].
      max_delay: the most rounds that a message may come late.
      acknowledges: whether workers with an error memory move their h_m in the round in
        which a message arrives, late or not, and not in that in which it was sent.
      max_norm_ratio: of a gradient's norm to the running median; None for any.
      asks: from a round's common key and its number to bool [M], whom the server asks
        for a message, a rule of `participation` say; the state of the others is frozen.
        Needs a key. None: all.
      apart: what a server in a process of its own keeps of each worker, whose memory
        h_m it cannot see: from its messages to h_m + u_m. None: there is no memory.
    """

    prepare: Callable[[Any, Any], Any] | None = None
    combine: Callable[[Any, Any], Any] = _sum
    step: Piece = IDENTITY
    estimates: bool = True
    adds_up: bool | None = None
    capacity: int | None = None
    parts: int | None = None
    max_delay: int = 0
    acknowledges: bool = False
    max_norm_ratio: Any = None
    asks: Callable[[Any, Any], Any] | None = None
    apart: Piece | None = None

    @property
    def batches(self) -> bool:
        """Whether it can combine batch by batch of workers."""
        return self.combine is _sum if self.adds_up is None else self.adds_up

    @property
    def exchanges(self) -> bool:
        """Whether it adds up messages alone, on time: any encoding of them will do."""
        plain = self.combine is _sum or self.capacity is not None or self.parts
        return bool(plain) and self.prepare is None and not self.max_delay

    @property
    def component_wise(self) -> bool:
        """Whether every component is combined, and steps, by itself."""
        return self.capacity is None and self.adds_entries  # of all components together

    @property
    def adds_entries(self) -> bool:
        """The same of messages of no more entries than it can take."""
        return (
            (self.combine is _sum or self.capacity is not None)
            and self.prepare in (None, gradient_estimate)
            and as_piece(self.step).component_wise
        )

    def with_memories(self, beta, state_dtype, weight=1.0) -> "Server":
        """Completed for workers that keep a memory h_m, with this beta and dtype.

        Where a weight other than 1 is given, messages are added up times that.

        Raises:
          ValueError: it prepares messages by a function of its own; and, when the state
            is made, it has a memory.
        """
        if self.prepare not in (None, gradient_estimate):
            raise ValueError(
                f"server.prepare is {self.prepare!r}, expected None for a method whose "
                "workers keep a memory: use federate."
            )
        memory = server_memory(beta, state_dtype=state_dtype, weight=weight)
        if self.estimates:
            return self._replace(prepare=weighted_estimate(weight), apart=memory)
        both = behind(self.step, memory)

        def init(params):
            state = both.init(params)
            if len(_trees.of_type(state, ServerMemoryState)) > 1:
                raise ValueError(
                    "server has a server_memory, expected none for a method that adds "
                    "its own: use server.running()."
                )
            return state

        step = Piece(init, both.update, component_wise=both.component_wise)
        return self._replace(step=step, apart=memory)


def behind(first: Piece, second: Piece) -> Piece:
    """One step and then another."""
    if IDENTITY in (first, second):
        return second if first == IDENTITY else first
    return chain(first, second)


def total(*, max_norm_ratio=None) -> Server:
    r"""The sum over the workers, which every algorithm takes by default.

    Of the messages; or, where the workers keep memories, of :math:`h_m + u_m`, which a
    simulation sees: without the drift of a memory of the server's own.

    Args:
      max_norm_ratio: a worker is left out for the round, like one whose gradient is not
        finite, if the norm of its gradient is more than so many times the running
        median: that over all workers of the last norm that is known of each, which
        grows at most tenfold a round. 100 is usual where the f_m are of one kind; None
        judges nobody. May be traced.

    Raises:
      ValueError: max_norm_ratio is below 1.

    Examples:
      >>> import gdsec_jax
      >>> from gdsec_jax import server
      >>> guarded = server.total(max_norm_ratio=100)
      >>> algorithm = gdsec_jax.gdsec(5, xi=1.0, server=guarded)
    """
    if max_norm_ratio is not None:
        _checks.number_in_range("max_norm_ratio", max_norm_ratio, 1.0, _checks.LARGEST)
    return Server(max_norm_ratio=max_norm_ratio)


def running(*, max_norm_ratio=None) -> Server:
    """The sum of the messages, added to a memory h of the server's own.

    What a real server does. The same as `total` but for rounding, which lets a running
    sum drift.

    Args:
      max_norm_ratio: see `total`.

    Examples:
      >>> import gdsec_jax
      >>> from gdsec_jax import server
      >>> algorithm = gdsec_jax.gdsec(5, xi=1.0, server=server.running())
    """
    return total(max_norm_ratio=max_norm_ratio)._replace(estimates=False)


def sparse(capacity: int, *, max_norm_ratio=None) -> Server:
    """`running`, where what travels between devices are buffers of the non-zeros.

    What is summed over devices is gathered from all of them as buffers of so many
    entries a worker, indices and values, instead of all D. A message with more leaves
    its worker out for the round, so that nothing is lost; the algorithms that censor
    send the largest entries alone and keep the others. In a pipeline of your own let
    `worker.top_k(capacity)` be the last compressor inside its memories.

    Args:
      capacity: at least 1.
      max_norm_ratio: see `total`.

    Raises:
      ValueError: capacity is no positive int.

    Examples:
      >>> import gdsec_jax
      >>> from gdsec_jax import server
      >>> algorithm = gdsec_jax.gdsec(5, xi=1.0, server=server.sparse(capacity=10))
    """
    _checks.integer("capacity", capacity, 1, 2**31 - 1)
    return running(max_norm_ratio=max_norm_ratio)._replace(
        combine=lambda messages, late: sparse_sum(messages, capacity),
        adds_up=True,
        capacity=capacity,
    )


def two_shot(compressor: Piece, parts: int, *, max_norm_ratio=None) -> Server:
    r"""`running`, where the sum is cut into parts, and each part rounded once more.

    .. math:: v = \sum_m u_m + e, \quad s = C(v) \text{ part by part}, \quad
       e \leftarrow v - s, \quad \text{update} = s

    For messages that are codes (`qgd`, `laq`, `sign_ef`, …), over so many devices that
    to gather all of them costs too much: each device gets its part of every message,
    adds them up, rounds the sum with an error memory of its own, and sends that to all.
    A device receives twice :math:`(N - 1) / N` of a message, instead of N - 1 messages.

    Args:
      compressor: C, of codes as `worker.grid(bits)` or `worker.sign()`, for one part.
      parts: as many as devices that the workers lie on; on one device the same parts
        are computed there.
      max_norm_ratio: see `total`.

    Raises:
      ValueError: parts is no positive int.

    Examples:
      >>> import gdsec_jax
      >>> from gdsec_jax import server, worker
      >>> two_shot = server.two_shot(worker.grid(bits=4), parts=8)
      >>> algorithm = gdsec_jax.qgd(8, levels=7, server=two_shot)

    References:
      Seide et al., 1-Bit Stochastic Gradient Descent, 2014, whose second rounding is
      this one.
    """
    _checks.integer("parts", parts, 1, 2**31 - 1)
    return running(max_norm_ratio=max_norm_ratio)._replace(
        combine=lambda messages, late: cut(_trees.over_workers(messages), parts),
        step=second_rounding(as_piece(compressor), parts),
        adds_up=True,
        parts=parts,
    )


def late(max_delay: int, *, acknowledged: bool = True, max_norm_ratio=None) -> Server:
    r"""`running`, where messages may come late, by the extra argument `delay`.

    What is under way waits in the server's state, as many sums as the rounds: see
    `late_messages`. As with `running` rounding lets a running sum drift: with a
    `state_dtype` of bfloat16 by a percent, and more, of all that is summed.

    Where a worker keeps an error memory (`gdsec`, `qsgdsec`) its h_m by default moves
    when its message has arrived, like the server's h, and with p what is under way
    nothing is lost:

    .. math:: \sum_k d^k + \sum_m e_m + p = \sum_k \sum_m \nabla f_m(\theta^k)

    A worker keeps what it sent until then, max_delay times the parameters. With a large
    beta its h_m hears of itself too late, and swings: moved by beta, tau rounds late,
    it is stable for :math:`\beta < 2 \sin(\pi / (4 \tau + 2))` alone, and for less
    where much is censored: half of that was too much in what we have run.

    Args:
      max_delay: at least 1, the rounds that a message may be late.
      acknowledged: False moves h_m when the message is sent: stable for any beta, but
        the directions d^k miss beta times the sum of what was under way for good. So it
        is for methods without an error memory, whatever is said here.
      max_norm_ratio: see `total`.

    Raises:
      ValueError: max_delay is no int from 1 to 10,000.

    Examples:
      >>> import gdsec_jax
      >>> from gdsec_jax import server
      >>> algorithm = gdsec_jax.gdsec(5, xi=1.0, server=server.late(max_delay=2))
    """
    _checks.integer("max_delay", max_delay, 1, 10_000)
    return running(max_norm_ratio=max_norm_ratio)._replace(
        combine=lambda messages, late: _trees.over_workers_by(
            late, messages, max_delay + 1
        ),
        step=as_piece(late_messages(max_delay)),
        adds_up=True,
        max_delay=max_delay,
        acknowledges=acknowledged,
    )


def robust(rule: Callable[[Any], Any], *, max_norm_ratio=None) -> Server:
    """A rule that a few workers cannot bend, in the place of the sum.

    Where the workers keep memories it is handed :math:`h_m + u_m`. Nothing is conserved
    then, and all workers are needed at once.

    Args:
      rule: from leaves [M, *param] to leaves [*param], at the scale of a sum:
        `gdsec_jax.robust.median` or `trimmed_mean(share)`.
      max_norm_ratio: see `total`.

    Raises:
      ValueError: the rule is no function.

    Examples:
      >>> import gdsec_jax
      >>> from gdsec_jax import robust, server
      >>> algorithm = gdsec_jax.gdsec(5, xi=1.0, server=server.robust(robust.median))
    """
    if not callable(rule):
        raise ValueError(
            f"rule is {rule!r}, expected a function such as robust.median."
        )
    return total(max_norm_ratio=max_norm_ratio)._replace(
        combine=lambda summands, late: rule(summands), adds_up=False
    )


def _checked(server: Server) -> Server:
    """The server, once its fields are what they must be."""
    _checks.function("server.prepare", server.prepare)
    _checks.function("server.asks", server.asks)
    if not callable(server.combine):
        raise ValueError(
            f"server.combine is {server.combine!r}, expected a function of messages "
            "and delays."
        )
    if not isinstance(server.step, optax.GradientTransformation):
        raise ValueError(
            f"server.step is {server.step!r}, expected an optax transformation."
        )
    for name, known in (("estimates", True), ("adds_up", False)):
        value = getattr(server, name)
        if not (isinstance(value, bool) or (value is None and not known)):
            raise ValueError(f"server.{name} is {value!r}, expected True or False.")
    if server.capacity is not None:
        _checks.integer("server.capacity", server.capacity, 1, 2**31 - 1)
    _checks.integer("server.max_delay", server.max_delay, 0, 10_000)
    if server.max_delay and server.combine is _sum:
        raise ValueError(
            f"server.max_delay is {server.max_delay}, expected 0 with the sum, which "
            "knows no delays: use server.late."
        )
    total(max_norm_ratio=server.max_norm_ratio)  # checks it
    return server._replace(step=as_piece(server.step))


def as_server(value: Any) -> Server:
    """A server: itself, or the sum and then a transformation of it; None is the sum."""
    if value is None:
        return Server()
    if isinstance(value, Server):
        return _checked(value)
    if isinstance(value, optax.GradientTransformation):
        return Server(step=as_piece(value), estimates=False)
    raise ValueError(
        f"server is {value!r}, expected one of gdsec_jax.server: total(), running(), "
        "sparse(capacity), two_shot(compressor, parts), late(max_delay) or "
        "robust(rule)."
    )


def fitting_capacity(entries, capacity: int) -> int:
    """The capacity of the next rounds, from what the workers sent in the last ones.

    A capacity is a part of the compiled program. Where it moves by factors of two, and
    between chunks of rounds alone, there are few programs, and the optimizer's state
    goes on: it does not depend on it. What does not fit waits in the workers' memories.

    Args:
      entries: int, of any shape: `last_round(state).entries`, over the rounds of a
        chunk, say. A message of `capacity` entries is taken to be full.
      capacity: of these rounds.

    Returns:
      Twice the capacity if more than a tenth of the messages were full; half of it if
      none had more than a quarter; else the same. At least 1.

    Raises:
      ValueError: capacity is no positive int, there are no entries, or more in a
        message than the capacity.

    Examples:
      >>> from gdsec_jax import server
      >>> server.fitting_capacity([[80, 100], [100, 100]], capacity=100)
      200
      >>> server.fitting_capacity([[3, 20], [0, 7]], capacity=100)
      50
    """
    _checks.integer("capacity", capacity, 1, 2**31 - 1)
    sent = np.asarray(entries)
    if not sent.size:
        raise ValueError("entries are empty, expected those of a round at least.")
    if sent.max() > capacity:
        raise ValueError(
            f"entries reach {sent.max()}, expected at most the capacity, {capacity}."
        )
    if (sent == capacity).mean() > 0.1:
        return min(2 * capacity, 2**31 - 1)
    return max(capacity // 2, 1) if sent.max() <= capacity / 4 else capacity

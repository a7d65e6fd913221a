"""A run with faults, and the ledger of what the workers had to say.

The loop is written out, by the public pieces that `simulate` is made of, since a run's
history has no place for what only this figure asks: whether the server got it all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdsec_jax import channel, last_round, participation, worker
from gdsec_jax.server import LateMessagesState, ServerMemoryState

PRESENT, LINK, DELAY, BROKEN = range(4)  # streams of a round's key


class Faults(NamedTuple):
    """Of a run; numbers, perhaps traced."""

    erased: Any = 0.0  # probability that a message is lost
    absent: Any = 0.0  # share of the workers that do not take part
    delay: Any = 0  # rounds that a message is late at most
    broken: Any = 0.0  # probability that a gradient is NaN
    excessive: Any = 0.0  # probability that it is a million times too long


class Course(NamedTuple):
    """Of a run of K rounds."""

    error: jax.Array  # [K]
    bits: jax.Array  # [K], of all workers
    lost: jax.Array  # [K], messages
    left_out: jax.Array  # [K], workers dropped for what they computed
    missing: jax.Array  # [K], of what the workers had to say, see `Ledger`
    drift: jax.Array  # [K], of the server's memory from the workers'


class Ledger(NamedTuple):
    r"""What the server has made of what the workers had to say.

    Nothing is lost if at every round

    .. math:: \sum_k d^k + \sum_m e_m + p + \beta \sum_k p^k = \sum_k \sum_m g_m^k,

    where d is the server's direction, p the sum of the messages under way, and an
    absent worker's gradient counts as what the server knows of it, h_m; and if the
    server's memory and beta p add up to the workers' memories.
    """

    balance: jax.Array  # [D]: all d, and beta p before the round, less all g
    said: jax.Array  # the sum of the rounds' |g|, to compare with


def run(problem, algorithm, beta, step, num_rounds: int, absent, seed=0):
    """From `Faults` to the `Course`, to be compiled and vmapped.

    Args:
      problem: of M workers, without minibatches.
      algorithm: for them, with a max_delay.
      beta: of its memory of the gradient, 0 if it has none.
      step: the learning rate.
      num_rounds: K.
      absent: "hold" or "accumulate".
      seed: of the faults.
    """
    num_workers = problem.num_workers
    optimizer = optax.chain(algorithm, optax.sgd(step))

    def course(faults: Faults) -> Course:
        def one_round(carry, number):
            params, state, ledger = carry
            keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), 4)
            true = problem.gradients(params, keys[BROKEN])
            luck = jax.random.uniform(keys[BROKEN], (2, num_workers, 1))
            given = jnp.where(luck[0] < faults.excessive, 1e6 * true, true)
            given = jnp.where(luck[1] < faults.broken, jnp.nan, given)
            rule = participation.uniform(num_workers, 1 - faults.absent)
            active = rule(keys[PRESENT], number)
            met = channel.conditions(
                channel.Channel(erasure_probability=faults.erased),
                num_workers,
                keys[LINK],
            )
            late = jax.random.uniform(keys[DELAY], (num_workers,)) * (faults.delay + 1)
            updates, after = optimizer.update(
                given,
                state,
                params,
                active=active,
                absent=absent,
                delivered=met.delivered,
                delay=late.astype(jnp.int32),
            )
            sent = last_round(after)
            speaks = sent.participants
            if absent == "accumulate":  # all compute, and all have their say
                speaks = sent.computed & ~sent.parts[0].dropped
            before, now = _memories(state), _memories(after)
            due = jnp.where(speaks[:, None], true, before.h).sum(0)
            ledger = Ledger(
                ledger.balance - updates / step + beta * before.under_way - due,
                ledger.said + jnp.linalg.norm(due),
            )
            rest = ledger.balance + now.error + now.under_way
            apart = now.server + beta * now.under_way - now.h.sum(0)
            params = optax.apply_updates(params, updates)
            out = Course(
                error=problem.error(params),
                bits=jnp.asarray(sent.bits).sum(),
                lost=sent.lost.sum(),
                left_out=sent.dropped,
                missing=jnp.linalg.norm(rest) / ledger.said,
                drift=jnp.linalg.norm(apart) / ledger.said,
            )
            return (params, after, ledger), out

        params = problem.init_params
        ledger = Ledger(jnp.zeros_like(params), jnp.zeros((), params.dtype))
        start = (params, optimizer.init(params), ledger)
        return jax.lax.scan(one_round, start, jnp.arange(num_rounds))[1]

    return course


class _Memories(NamedTuple):
    h: jax.Array  # [M, D], the workers'
    error: jax.Array  # [D], the sum of their error memories
    server: jax.Array  # [D]
    under_way: jax.Array  # [D]


def _memories(state) -> _Memories:
    """Those that a method keeps, and 0 in the place of the others."""

    def of(kind, field):
        is_kind = lambda node: isinstance(node, kind)  # noqa: E731
        nodes = jax.tree.leaves(state, is_leaf=is_kind)
        found = [getattr(node, field) for node in nodes if is_kind(node)]
        return found[0] if found else None

    under_way = of(LateMessagesState, "under_way").sum(0)
    zero = jnp.zeros_like(under_way)
    h = of(worker.GradientDifferenceState, "memory")
    error = of(worker.ErrorFeedbackState, "error")
    server = of(ServerMemoryState, "memory")
    return _Memories(
        jnp.zeros((1, zero.size), zero.dtype) if h is None else h,
        zero if error is None else error.sum(0),
        zero if server is None else server,
        under_way,
    )

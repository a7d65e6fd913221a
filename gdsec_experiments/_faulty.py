"""Runs with faults, and the ledger of what the workers had to say."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdsec_jax import (
    Round,
    Stop,
    Uplink,
    channel,
    last_round,
    participation,
    sweep,
    worker,
)
from gdsec_jax.server import LateMessagesState, ServerMemoryState


class Faults(NamedTuple):
    """Of a run."""

    erased: float = 0.0  # probability that a message is lost
    absent: float = 0.0  # share of the workers that do not take part
    delay: int = 0  # rounds that a message is late at most
    broken: float = 0.0  # probability that a gradient is NaN
    excessive: float = 0.0  # probability that it is a million times too long


class Course(NamedTuple):
    """Of a run of K rounds."""

    error: np.ndarray  # [K]
    bits: np.ndarray  # [K], of all workers
    lost: np.ndarray  # [K], messages
    left_out: np.ndarray  # [K], workers dropped for what they computed
    missing: np.ndarray  # [K], of what the workers had to say, see `ledger`
    drift: np.ndarray  # [K], of the server's memory from the workers'


def run(problem, algorithm, beta, step, num_rounds: int, absent, cases, seed=0):
    """The `Course` of each case, side by side where they differ in numbers alone.

    Args:
      problem: of M workers, without minibatches.
      algorithm: for them, with a max_delay.
      beta: of its workers' memories of the gradient, if they move when a message is
        sent; 0 if they move when it has arrived, or if there are none.
      step: the learning rate.
      num_rounds: K.
      absent: "hold" or "accumulate".
      cases: a list of `Faults`.
      seed: of the faults.
    """
    num_workers = problem.num_workers

    def optimizer(broken, excessive):
        faulty = _spoilt(broken, excessive, seed)
        return optax.chain(faulty, algorithm, optax.sgd(step))

    def present(key, round, absent):
        return participation.uniform(num_workers, 1 - absent)(key, round)

    def link(erased, delay):
        return channel.Channel(erasure_probability=erased, max_delay=delay)

    swept = sweep(
        problem,
        optimizer,
        {Faults._fields: cases},
        num_rounds,
        key=seed,
        uplink=Uplink(present, absent, channel=link),
        stop=Stop(divergence_factor=1e300),
        observe=functools.partial(_ledger, beta=beta, step=step, absent=absent),
        progress=False,
    )
    return [
        _course(swept.isel({"_".join(Faults._fields): i})) for i in range(len(cases))
    ]


def _course(one) -> Course:
    def each(name):
        return np.diff(one[f"total_{name}"].values, prepend=0)

    balance = np.cumsum(one["moved"].values, axis=0)
    said = np.cumsum(one["due"].values)
    return Course(
        error=one["objective_error"].values,
        bits=each("bits"),
        lost=each("lost"),
        left_out=each("dropped"),
        missing=np.linalg.norm(balance + one["kept"].values, axis=1) / said,
        drift=one["apart"].values / said,
    )


class _Spoilt(NamedTuple):
    key: jax.Array  # of the rounds to come


def _spoilt(broken, excessive, seed) -> optax.GradientTransformation:
    """Some workers' gradients, NaN or a million times too long."""

    def update(gradients, state, params=None):
        del params
        key, now = jax.random.split(state.key)
        luck = jax.random.uniform(now, (2, gradients.shape[0], 1))
        given = jnp.where(luck[0] < excessive, 1e6 * gradients, gradients)
        return jnp.where(luck[1] < broken, jnp.nan, given), _Spoilt(key)

    return optax.GradientTransformation(
        lambda params: _Spoilt(jax.random.key(seed)), update
    )


def _ledger(now: Round, *, beta, step, absent) -> dict[str, jax.Array]:
    r"""What the server has made in a round of what the workers had to say.

    Nothing is lost if at every round

    .. math:: \sum_k d^k + \sum_m e_m + p + \beta \sum_k p^k = \sum_k \sum_m g_m^k,

    where d is the server's direction, p the sum of the messages under way, and an
    absent worker's gradient counts as what the server knows of it, h_m; and if the
    server's memory and beta p add up to the workers' memories. Workers whose memories
    wait for their messages to arrive have a beta of 0 here: nothing is missing.

    Returns:
      moved: [D], the round's d and the beta p before it, less its g.
      due: the round's :math:`|\sum_m g_m|`, to compare with.
      kept: [D], the e and p after it.
      apart: how far the server's memory and beta p are from the workers' memories.
    """
    sent = last_round(now.new_state)
    speaks = sent.participants
    if absent == "accumulate":  # all compute, and all have their say
        speaks = sent.computed & ~sent.parts[0].dropped
    before, after = _memories(now.state), _memories(now.new_state)
    due = jnp.where(speaks[:, None], now.gradients, before.h).sum(0)
    apart = after.server + beta * after.under_way - after.h.sum(0)
    return {
        "moved": beta * before.under_way - now.updates / step - due,
        "due": jnp.linalg.norm(due),
        "kept": after.error + after.under_way,
        "apart": jnp.linalg.norm(apart),
    }


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

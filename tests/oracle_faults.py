"""A float64 NumPy oracle of workers that are absent, lost, late or left out.

As in oracle.py a visible formula comes before speed.  `run` loops over the rounds and
workers of a `Method` of oracle_rivals.py.  Messages cost what the format "coo" says, a
value having 64 bits.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from oracle import coo_bits
from oracle_rivals import Memory, Method, Round

VALUE_BITS = 64
Gradient = Callable[[int, int, np.ndarray], np.ndarray]  # (k, m, theta) -> g_m


class Faults(NamedTuple):
    """What befalls the workers; arrays are [rounds, M]."""

    active: np.ndarray  # bool
    accumulate: bool  # what the others do; else they hold
    delivered: np.ndarray  # bool
    delay: np.ndarray  # int, rounds
    budget_bits: float = math.inf  # of a round, in the order of energies
    most: float = math.inf  # times the running median of the gradients' norms


class Course(NamedTuple):
    """All that happened; row k of a [rounds + 1] array is before round k."""

    thetas: np.ndarray  # [rounds + 1, D]
    h: np.ndarray  # [rounds + 1, M, D]
    e: np.ndarray  # [rounds + 1, M, D]
    server: np.ndarray  # [rounds + 1, D], 0 without a memory
    under_way: np.ndarray  # [rounds + 1, D], sent and not yet arrived
    bits: np.ndarray  # int [rounds, M]
    computed: np.ndarray  # bool [rounds, M], who computed a gradient
    sent: np.ndarray  # bool [rounds, M], who was let to send
    lost: np.ndarray  # bool [rounds, M]
    dropped: np.ndarray  # bool [rounds, M]


# Rounds


def bits_of(message: np.ndarray, whole: bool) -> int:
    """Return what a message costs; a silent one nothing."""
    if whole:
        return VALUE_BITS * message.size if message.any() else 0
    return coo_bits(message, VALUE_BITS)


def grants(energies: list[float], bits: list[int], budget_bits: float) -> np.ndarray:
    """Let workers send, the largest energy first, while the bits fit the budget.

    The first is always let to, and so is who has nothing to send.
    """
    granted = np.array([b == 0 for b in bits])
    spent = 0
    order = sorted(range(len(bits)), key=lambda m: -energies[m])
    for place, m in enumerate(order):
        spent += bits[m]
        granted[m] |= place == 0 or spent <= budget_bits
    return granted


def proportionate(
    norms: np.ndarray, known: np.ndarray, computes: np.ndarray, most: float
) -> np.ndarray:
    """Tell whose norm is at most so many times the median of the latest norms."""
    latest = [
        norms[m] if computes[m] and np.isfinite(norms[m]) else known[m]
        for m in range(len(norms))
    ]
    latest = [norm for norm in latest if not np.isnan(norm)]
    median = np.median(latest) if latest else 0.0
    if not median > 0:
        return np.ones(len(norms), bool)
    return np.array([not norm > most * median for norm in norms])


def run(
    method: Method,
    gradient: Gradient,
    theta: np.ndarray,
    alpha: float,
    rounds: int,
    num_workers: int,
    faults: Faults,
    acknowledged: bool = False,
) -> Course:
    """Run a method; theta <- theta - alpha (h + what arrives).

    If it is `acknowledged`, h_m moves when its message arrives, else when it is sent.
    """
    length = len(theta)
    masks = (rounds, num_workers)
    out = Course(
        thetas=np.zeros((rounds + 1, length)),
        h=np.zeros((rounds + 1, num_workers, length)),
        e=np.zeros((rounds + 1, num_workers, length)),
        server=np.zeros((rounds + 1, length)),
        under_way=np.zeros((rounds + 1, length)),
        bits=np.zeros(masks, np.int64),
        **{name: np.zeros(masks, bool) for name in Course._fields[-4:]},
    )
    out.thetas[0] = theta
    zero = np.zeros(length)
    memories = [Memory(zero, zero, zero, False) for _ in range(num_workers)]
    known = np.full(num_workers, np.nan)  # norms of the last accepted gradients
    later = rounds + int(faults.delay.max()) + 1
    arriving = np.zeros((later, length))
    owed = np.zeros((later, num_workers, length))  # by what h_m moves in a round
    for k in range(rounds):
        now, before = out.thetas[k], out.thetas[max(k - 1, 0)]  # theta^0 = theta^1
        threshold = np.abs(now - before) / num_workers
        computes = faults.active[k] | faults.accumulate
        out.computed[k] = computes
        g = np.array([gradient(k, m, now) for m in range(num_workers)])
        norms = np.sqrt(np.sum(g**2, axis=1))
        sound = proportionate(norms, known, computes, faults.most)
        sound &= np.isfinite(g).all(axis=1)
        offers = []
        for m in range(num_workers):
            message, whole = zero, False
            if sound[m] and computes[m]:
                about = Round(k, m, threshold)
                message, whole = method.offer(about, g[m], memories[m])
            offers.append((message, whole))
        may_send = faults.active[k].copy()
        if math.isfinite(faults.budget_bits):
            heard = [u if may_send[m] else zero for m, (u, _) in enumerate(offers)]
            granted = grants(
                [float(np.sum(u**2)) for u in heard],
                [bits_of(u, offers[m][1]) for m, u in enumerate(heard)],
                faults.budget_bits,
            )
            may_send &= granted
            computes &= granted | faults.accumulate
        for m, (message, whole) in enumerate(offers):
            out.dropped[k, m] = computes[m] and not sound[m]
            if not (computes[m] and sound[m]):
                continue  # its memories are as they were
            known[m] = norms[m]
            out.sent[k, m] = may_send[m]
            arrives = may_send[m] and faults.delivered[k, m]
            arrived = message if arrives else zero
            if may_send[m]:
                out.bits[k, m] = bits_of(message, whole)
                out.lost[k, m] = message.any() and not arrives
            arriving[k + faults.delay[k, m]] += arrived
            h = memories[m].h
            about = Round(k, m, threshold)
            memories[m] = method.settle(about, g[m], memories[m], arrived, arrives)
            if acknowledged:  # h_m moves when the message is there
                owed[k + faults.delay[k, m], m] += memories[m].h - h
                memories[m] = memories[m]._replace(h=h)
        memories = [
            each._replace(h=each.h + owed[k, m]) for m, each in enumerate(memories)
        ]
        out.under_way[k + 1] = arriving[k + 1 :].sum(axis=0)
        out.h[k + 1] = [memory.h for memory in memories]
        out.e[k + 1] = [memory.e for memory in memories]
        if method.beta is not None:
            out.server[k + 1] = out.server[k] + method.beta * arriving[k]
        out.thetas[k + 1] = now - alpha * (out.server[k] + arriving[k])
    return out

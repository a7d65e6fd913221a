"""Whatever is lost, and whoever restarts: nothing is lost or counted twice.

A model that knows what really befell each client predicts every direction, and keeps
the law of error feedback over all of it: with d the directions, e_m what the clients
keep, and c_m the gradient of who computed it and remembers, else what the server knew,

  sum_k d^k + sum_m e_m + lost = sum_k sum_m c_m^k + waiting + gone,

where lost are the e_m of states that are gone; waiting are messages that were added up
and forgotten by their senders, until these are heard again and they are taken back; and
gone are those of them whose senders lost all state meanwhile.
"""

import collections
import functools
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
from apart import Federation
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from inside import _protocol as protocol
from inside import _saved as saved
from inside import _trees

import gdsec_jax
from gdsec_jax.worker import ErrorFeedbackState, GradientDifferenceState

M, D, BETA, STEP = 3, 5, 0.1, 2.0**-6


class Event(NamedTuple):
    """What a client did in a round."""

    computed: bool = False  # a message was made
    rests: bool = False  # its gradient was not finite
    stored: bool = False
    arrives: bool = False
    copied: bool = False  # what is stored is another copy's, which was not heard
    values: np.ndarray = np.zeros(D)


def acts(**chosen):
    """A rule for a worker that has done nothing yet in this round."""

    def of(function):
        @functools.wraps(function)
        def alone(self, which, **chosen):
            left = [m for m in range(M) if m not in self.made]
            function(self, left[which % len(left)], **chosen)

        someone = precondition(lambda self: len(self.made) < M)
        return rule(which=st.integers(0, M - 1), **chosen)(someone(alone))

    return of


class Protocol(RuleBasedStateMachine):
    """A federation, and what must hold of it; who does nothing in a round is absent."""

    def __init__(self, real, folder, tally):
        super().__init__()
        self.real, self.folder, self.tally = real, folder, tally
        self.made = {}  # in this round: a worker's event, and its replies

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begins(self, seed):
        self.rng = np.random.default_rng(seed)
        self.real.state = self.real.server.init()
        self.real.gradient = lambda params, m: self.gradients[m]
        for client in self.real.clients:
            client.kept = None
        self.h, self.pending, self.waiting = np.zeros((3, M, D))
        self.ever = [False] * M  # whether the server has heard it
        self.fresh = [True] * M  # whether its state has begun since
        self.behind = [False] * M  # whether that does not know of the last one heard
        self.last_heard = [False] * M  # whether the last message that it knows of was
        self.late = [None] * M
        self.sums = {n: np.zeros(D) for n in ("direction", "counted", "lost", "gone")}
        self.round_begins()

    def round_begins(self):
        self.gradients = self.rng.normal(size=(M, D)) * 10.0 ** self.rng.integers(-2, 3)
        self.made = {}

    @rule(killed=st.sampled_from([False, False, False, False, True]))
    def the_round_ends(self, killed):
        before = np.asarray(self.real.state.params)
        replies = [(m, data) for m, (_, own) in self.made.items() for data in own]
        if killed:  # and started again: it ends the round, in which nobody was heard
            saved.save(self.folder, self.real.server, self.real.state)
            self.real.state = saved.load(self.folder, self.real.server)
            replies = []
        made = [self.made.get(m, (Event(), []))[0] for m in range(M)]
        events = [own._replace(arrives=own.arrives and not killed) for own in made]
        expected = sum(self.account(m, event) for m, event in enumerate(events))
        said = self.real.close(replies)
        out = [sentence for sentence in said if "left out" in sentence]
        rests = sum(event.rests and event.arrives for event in events)
        assert len(said) - len(out) == rests, said
        assert len(replies) - len(out) == sum(event.arrives for event in events), said
        direction = (before - np.asarray(self.real.state.params)) / STEP
        size = 1 + np.abs(expected).max() + np.abs(before).max() / STEP
        np.testing.assert_allclose(direction, expected, rtol=0, atol=1e-11 * size)
        self.sums["direction"] += direction
        row = self.real.state.rows[-1]
        for name in ("taken_back", "forgotten", "dropped"):
            self.tally[name] += getattr(row, name)
        self.round_begins()

    @acts()
    def is_heard(self, m):
        self.answers(m)

    @acts()
    def is_lost(self, m):
        self.answers(m, lambda data: [], arrives=False)

    @acts(arrives=st.booleans())
    def crashes_before_it_stores(self, m, arrives):
        self.answers(m, lambda data: [data][: int(arrives)], False, arrives)

    @acts()
    def loses_its_state(self, m):
        self.sums["lost"] += self.error(m)
        self.real.clients[m].kept = None
        self.fresh[m], self.behind[m], self.last_heard[m] = True, False, False

    @acts()
    def has_no_finite_gradient(self, m):
        self.gradients[m, 1] = np.nan
        self.answers(m)

    @acts()
    def is_a_new_node(self, m):
        self.answers(m, there=False)

    @acts()
    def repeats_its_last_reply_and_is_heard(self, m):
        late = self.late[m]
        self.answers(m, lambda data: [data] if late is None else [late, data])

    @acts()
    def is_heard_twice(self, m):
        self.answers(m, lambda data: [data, data])

    @acts()
    def is_heard_after_a_forgery(self, m):
        def both(data):
            own = protocol.read_reply(data)._replace(built_on=2**62, number=2**63)
            return [protocol.write_reply(own), data]

        self.answers(m, both)

    @acts(share=st.floats(0, 1, exclude_max=True), how=st.integers(0, 2))
    def is_damaged(self, m, share, how):
        def damaged(data):
            n = int(share * len(data))
            flipped = data[:n] + bytes([data[n] ^ 64]) + data[n + 1 :]
            return [(data[:n], self.rng.bytes(n), flipped)[how]]

        self.answers(m, damaged, arrives=False)

    @acts()
    def is_an_older_copy_and_its_own_reply_is_lost(self, m):
        client = self.real.clients[m]
        if client.kept is None or self.fresh[m]:
            return self.answers(m)
        older, gradients = client.kept, self.gradients.copy()
        self.real.reply_of(m)
        newer, client.kept = client.kept, older
        self.gradients = self.rng.normal(size=(M, D)) * np.abs(gradients[m]).max()
        self.answers(m)
        event, replies = self.made[m]
        self.gradients, client.kept = gradients, newer
        self.made[m] = event._replace(copied=event.computed), replies
        return None

    def answers(
        self, m, sent=lambda data: [data], stored=True, arrives=True, there=True
    ):
        """A worker's round; what is sent of its reply."""
        data = self.real.reply_of(m, store=stored, there=there)
        reply, self.late[m] = protocol.read_reply(data), data
        if reply.kind == "behind":
            self.made[m] = Event(), sent(data)
            return
        values = np.zeros(D)
        if reply.kind == "message":
            values = self.real.server.agreed.decode(reply.payload, reply.whole)
        kinds = reply.kind == "message", reply.kind == "rests"
        assert kinds[1] == bool(np.isnan(self.gradients[m]).any())
        self.made[m] = Event(*kinds, stored, arrives, False, values), sent(data)

    def account(self, m, event):
        """The worker's part of the direction; what is known of it moves on."""
        known = self.h[m] + BETA * self.pending[m]
        if not event.arrives:
            agrees = not self.behind[m] and not (self.fresh[m] and self.ever[m])
            remembers = event.computed and event.stored
            self.sums["counted"] += self.gradients[m] if remembers and agrees else known
            if remembers:
                self.last_heard[m] = False
            return known
        undone = np.zeros(D)
        if self.fresh[m] and self.ever[m]:
            if event.computed:  # all that was known of it is forgotten
                self.sums["gone"] += self.waiting[m]
                known, self.pending[m], self.waiting[m] = np.zeros(D), 0, 0
                self.h[m] = 0
        else:
            agreed = not self.behind[m]
            if self.behind[m]:
                undone, known = self.pending[m].copy(), self.h[m].copy()
                self.waiting[m], self.behind[m] = 0, False
            self.h[m], self.pending[m] = known, 0
        if event.rests:
            self.sums["counted"] += known
            return known - undone
        # Of a state that was there before the server had heard anything it knows now.
        exists = self.real.clients[m].kept is not None
        remembers = not self.fresh[m] or (exists and not self.ever[m])
        self.pending[m], self.ever[m] = event.values, True
        if event.copied:
            self.sums["counted"] += self.gradients[m] if agreed else known
            self.waiting[m], self.behind[m] = event.values, True
            self.last_heard[m] = False
        elif event.stored:
            self.sums["counted"] += self.gradients[m]
            self.fresh[m], self.last_heard[m] = False, True
        else:
            self.sums["counted"] += known
            self.waiting[m] = event.values
            self.fresh[m], self.behind[m] = not remembers, remembers
        return known + event.values - undone

    def error(self, m):
        """e_m of the state that counts."""
        state = self.real.clients[m].state
        if state is None:
            return np.zeros(D)
        own = state.heard if self.last_heard[m] else state.lost
        return _trees.of_type(own, ErrorFeedbackState)[0].error

    @invariant()
    def the_law_holds(self):
        """And both ends know the same of every worker."""
        self.tally["steps"] += 1
        if self.made:
            return  # within a round
        sums = self.sums
        left = sums["direction"] + sum(map(self.error, range(M))) + sums["lost"]
        right = sums["counted"] + self.waiting.sum(0) + sums["gone"]
        size = 1 + np.abs(left).max() + np.abs(right).max()
        gap = float(np.abs(left - right).max() / size)
        self.tally["gap"] = max(self.tally["gap"], gap)
        assert gap <= 1e-9
        known = map(jax.tree.leaves, self.real.state.side.known)
        server = np.stack([leaf for (leaf,) in known])
        np.testing.assert_allclose(server, self.h, rtol=1e-12, atol=1e-12)
        for m, client in enumerate(self.real.clients):
            if self.fresh[m] or self.behind[m]:
                continue
            own = client.state.heard if self.last_heard[m] else client.state.lost
            memory = _trees.of_type(own, GradientDifferenceState)[0].memory
            known = self.h[m] + BETA * self.pending[m]
            np.testing.assert_allclose(memory, known, rtol=1e-12, atol=1e-12)


@pytest.fixture
def federation(x64):
    algorithm = gdsec_jax.gdsec(M, 20.0, BETA, wire="rle")
    return Federation(algorithm, optax.sgd(STEP), np.zeros(D), None)


def plays(federation, folder, examples, steps, **more):
    """What befell it, in so many examples of so many steps."""
    tally = collections.Counter()
    run_state_machine_as_test(
        functools.partial(Protocol, federation, folder, tally),
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None,
            suppress_health_check=list(HealthCheck), **more,
        ),
    )  # fmt: skip
    return tally


def test_the_law_holds_whatever_befalls(federation, tmp_path):
    plays(federation, tmp_path, examples=12, steps=30)


@pytest.mark.slow
def test_the_law_holds_over_two_thousand_steps(federation, tmp_path):
    tally = plays(
        federation, tmp_path, examples=24, steps=100, derandomize=True, database=None
    )
    print(dict(tally))
    assert tally["steps"] >= 2_000
    # All that is to be borne has been.
    assert min(tally[name] for name in ("taken_back", "forgotten", "dropped")) > 20

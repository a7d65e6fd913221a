"""Whatever is lost, and whoever restarts: nothing is lost or counted twice.

A model that knows what really befell each client predicts every direction, and keeps
the law of error feedback over all of it: with d the directions, e_m what the clients
keep, and c_m the gradient of who computed it and remembers, else what the server knew,

  sum_k d^k + sum_m e_m + lost = sum_k sum_m c_m^k + waiting + gone,

where lost are the e_m of states that are gone; waiting are messages that were added up
and forgotten by their senders, until these are heard again and they are taken back; and
gone are those of them whose senders lost all state meanwhile.
"""

import random
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
from apart import Federation
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import _protocol as protocol
from inside import _saved as saved
from inside import _trees

import gdsec_jax
from gdsec_jax.worker import ErrorFeedbackState, GradientDifferenceState

M, D, BETA, STEP = 3, 5, 0.1, 2.0**-6
FATES = (
    *("heard", "heard", "heard", "reply lost", "absent", "crash, heard", "crash, lost"),
    *("state gone", "not a number", "hostile", "late", "twice", "forged", "new node"),
    "copied",
)


class Event(NamedTuple):
    """What a client did in a round."""

    computed: bool = False  # a message was made
    rests: bool = False  # its gradient was not finite
    stored: bool = False
    arrives: bool = False
    copied: bool = False  # what is stored is another copy's, which was not heard
    values: np.ndarray = np.zeros(D)


class Model:
    """A federation, and what must hold of it."""

    def __init__(self, folder):
        algorithm = gdsec_jax.gdsec(M, 20.0, BETA, wire="rle")
        self.real = Federation(
            algorithm, optax.sgd(STEP), np.zeros(D), lambda params, m: self.gradients[m]
        )
        self.folder = folder

    def begin(self, seed):
        """Anew, with the same compiled programs."""
        self.rng = np.random.default_rng(seed)
        self.real.state = self.real.server.init()
        for client in self.real.clients:
            client.kept = None
        self.h, self.pending, self.waiting = np.zeros((3, M, D))
        self.ever = [False] * M  # whether the server has heard it
        self.fresh = [True] * M  # whether its state has begun since
        self.behind = [False] * M  # whether that does not know of the last one heard
        self.last_heard = [False] * M  # whether the last message that it knows of was
        self.late = [None] * M
        self.sums = {n: np.zeros(D) for n in ("direction", "counted", "lost", "gone")}
        return self

    def play(self, rounds, every=1):
        """Rounds of the clients' fates, and whether the server is killed."""
        for number, (fates, killed) in enumerate(rounds):
            self.round(fates, killed)
            if number % every == 0:
                self.check()
        self.check()

    def round(self, fates, killed):
        self.gradients = self.rng.normal(size=(M, D)) * 10.0 ** self.rng.integers(-2, 3)
        before = np.asarray(self.real.state.params)
        made = [self.client(m, fate) for m, fate in enumerate(fates)]
        replies = [(m, data) for m, (_, own) in enumerate(made) for data in own]
        if killed:  # and started again: it ends the round, in which nobody was heard
            saved.save(self.folder, self.real.server, self.real.state)
            self.real.state = saved.load(self.folder, self.real.server)
            replies = []
        events = [
            event._replace(arrives=event.arrives and not killed) for event, _ in made
        ]
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

    def client(self, m, fate):
        """What a client does, and the replies that come of it."""
        if fate == "absent":
            return Event(), []
        if fate == "state gone":
            self.lose(m)
        if fate == "not a number":
            self.gradients[m, 1] = np.nan
        stored, there = not fate.startswith("crash"), fate != "new node"
        own = self.real.clients[m]
        if fate == "copied" and own.kept is not None and not self.fresh[m]:
            return self.copied(m)
        data = self.real.reply_of(m, store=stored, there=there)
        reply = protocol.read_reply(data)
        late, self.late[m] = self.late[m], data
        if reply.kind == "behind":
            return Event(), [data]
        values = np.zeros(D)
        if reply.kind == "message":
            values = self.real.server.agreed.decode(reply.payload, reply.whole)
        event = Event(
            reply.kind == "message", reply.kind == "rests", stored, True, False, values
        )
        assert event.rests == (fate == "not a number")
        if fate in ("reply lost", "crash, lost"):
            return event._replace(arrives=False), []
        if fate == "hostile":
            return event._replace(arrives=False), [self.hostile(data)]
        forged = reply._replace(built_on=2**62, number=2**63)
        before = {
            "late": [late] if late else [],
            "forged": [protocol.write_reply(forged)],
        }
        after = [data] if fate == "twice" else []
        return event, [*before.get(fate, []), data, *after]

    def copied(self, m):
        """An older copy of the state answers, and the client's own reply is lost."""
        client, older = self.real.clients[m], self.real.clients[m].kept
        gradients = self.gradients.copy()
        self.real.reply_of(m)
        newer, client.kept = client.kept, older
        self.gradients = self.rng.normal(size=(M, D)) * np.abs(gradients[m]).max()
        data = self.real.reply_of(m)
        self.gradients, client.kept, self.late[m] = gradients, newer, data
        reply = protocol.read_reply(data)
        if reply.kind == "behind":
            return Event(), [data]
        assert reply.kind == "message"
        values = self.real.server.agreed.decode(reply.payload, reply.whole)
        return Event(True, False, True, True, True, values), [data]

    def hostile(self, data):
        where = int(self.rng.integers(len(data)))
        return (
            data[:where],
            self.rng.bytes(where),
            data[:where] + bytes([data[where] ^ 64]) + data[where + 1 :],
        )[self.rng.integers(3)]

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

    def lose(self, m):
        self.sums["lost"] += self.error(m)
        self.real.clients[m].kept = None
        self.fresh[m], self.behind[m], self.last_heard[m] = True, False, False

    def error(self, m):
        """e_m of the state that counts."""
        state = self.real.clients[m].state
        if state is None:
            return np.zeros(D)
        own = state.heard if self.last_heard[m] else state.lost
        return _trees.of_type(own, ErrorFeedbackState)[0].error

    def check(self):
        """The law, and that both ends know the same of every worker."""
        left = (
            self.sums["direction"] + sum(map(self.error, range(M))) + self.sums["lost"]
        )
        right = self.sums["counted"] + self.waiting.sum(0) + self.sums["gone"]
        size = 1 + np.abs(left).max() + np.abs(right).max()
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-9 * size)
        server = np.asarray(jax.tree.leaves(self.real.state.side.known)[0])
        np.testing.assert_allclose(server, self.h, rtol=1e-12, atol=1e-12)
        for m, client in enumerate(self.real.clients):
            if self.fresh[m] or self.behind[m]:
                continue
            own = client.state.heard if self.last_heard[m] else client.state.lost
            memory = _trees.of_type(own, GradientDifferenceState)[0].memory
            known = self.h[m] + BETA * self.pending[m]
            np.testing.assert_allclose(memory, known, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with jax.enable_x64(True):
        yield Model(tmp_path_factory.mktemp("server"))


ROUNDS = st.tuples(
    st.tuples(*[st.sampled_from(FATES)] * M),
    st.sampled_from([False, False, False, True]),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(ROUNDS, min_size=1, max_size=14), st.integers(0, 99))
def test_the_law_holds_whatever_befalls(model, rounds, seed):
    with jax.enable_x64(True):
        model.begin(seed).play(rounds)


@pytest.mark.slow
def test_the_law_holds_over_ten_thousand_steps(model):
    chosen = random.Random(1)
    number = 10_000 // M + 1
    with jax.enable_x64(True):
        model.begin(1).play(
            (
                (tuple(chosen.choices(FATES, k=M)), chosen.random() < 0.1)
                for _ in range(number)
            ),
            every=20,
        )
    rows = model.real.state.rows
    assert len(rows) * M >= 10_000
    # All that is to be borne has been.
    assert sum(row.taken_back for row in rows) > 100
    assert sum(row.forgotten for row in rows) > 100
    assert sum(row.dropped for row in rows) > 100

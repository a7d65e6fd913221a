"""A server and clients apart compute what the simulator does, bit for bit."""

import re
import sys

import jax
import numpy as np
import optax
import pytest
from apart import a_network, a_problem, of_problem, step_of
from cases import slow_but
from inside import _numpy, _server, _worker, history_of, read_state
from inside import _protocol as protocol
from inside import _saved as saved

import gdsec_jax
from gdsec_jax import flower, numpy_worker, robust, server, worker

POWER = 2.0**-4  # a product with it is exact: compilers may merge it with a sum or not


# Where the sum is formed otherwise than in the simulator.
ROUNDED = ("gdsec, running", "mean, weights", "iag")


ALGORITHMS = {
    "gd": lambda: gdsec_jax.gd(3),
    "gdsec": lambda: gdsec_jax.gdsec(3, 2.0, POWER, wire="rle"),
    "gdsec, running": lambda: gdsec_jax.gdsec(3, 2.0, POWER, server=server.running()),
    "qsgdsec": lambda: gdsec_jax.qsgdsec(3, 2.0, POWER, levels=7, key=3, wire="rle"),
    "top_j": lambda: gdsec_jax.top_j(3, 2, wire="golomb"),
    "ef21": lambda: gdsec_jax.ef21(3, 2, wire="rle"),
    "sign_ef": lambda: gdsec_jax.sign_ef(3),
    "sign_majority": lambda: gdsec_jax.sign_majority(3),
    "terngrad": lambda: gdsec_jax.terngrad(3, key=4, wire="bitmap"),
    "laq": lambda: gdsec_jax.laq(3, learning_rate=0.1),
    "clag": lambda: gdsec_jax.clag(3, 2),
    "marina": lambda: gdsec_jax.marina(3, worker.random_k(2), key=1),
    "ef_bv": lambda: gdsec_jax.ef_bv(3, worker.top_k(3), nu=0.5, beta=0.5),
    "iag": lambda: gdsec_jax.iag(3, [0.25, 0.25, 0.5], key=5),
    "mean, weights": lambda: gdsec_jax.gdsec(
        3, 1.0, POWER, reduction="mean", weights=[1.0, 2.0, 5.0]
    ),
    "own pipeline": lambda: gdsec_jax.federate(
        optax.chain(optax.clip(50.0), worker.natural()), 3, key=2
    ),
}


def in_the_simulator(problem, algorithm, optimizer, rounds):
    return gdsec_jax.simulate(
        problem, optax.chain(algorithm, optimizer), rounds, progress=False
    )


# Memories, a whole first message, who is asked; the others are slow to compile.
QUICK = ("gdsec", "ef21", "iag")


@pytest.mark.parametrize("name", slow_but(QUICK, ALGORITHMS))
def test_iterates_and_bits_are_the_simulators(name):
    rounds = 30 if name in QUICK else 8
    problem, algorithm = a_problem(), ALGORITHMS[name]()
    sgd = optax.sgd(step_of(problem))
    expected = in_the_simulator(problem, algorithm, sgd, rounds)
    apart = of_problem(problem, algorithm, sgd, error=problem.error)
    for _ in range(rounds):
        assert apart.round() == []
    found = history_of(
        apart.state, initial_error=expected.initial_error, error_name="error",
        wire=apart.server.agreed.form,
    )  # fmt: skip
    np.testing.assert_array_equal(found.bits, expected.bits)
    np.testing.assert_array_equal(found.entries, expected.entries)
    np.testing.assert_array_equal(found.participants, expected.participants)
    np.testing.assert_array_equal(found.broadcast_bits, expected.broadcast_bits)
    np.testing.assert_array_equal(found.observed["payload_bytes"], -(-found.bits // 8))
    assert found.bits.sum() > 0
    same = {"rtol": 1e-6, "atol": 0} if name in ROUNDED else None
    for own, theirs in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True
    ):
        if same is None:
            np.testing.assert_array_equal(own, theirs)
        else:
            np.testing.assert_allclose(own, theirs, **same)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: a_problem(np.float64), a_network])
def test_many_rounds_are_the_simulators(make, x64):
    problem = make()
    algorithm = gdsec_jax.gdsec(3, 2.0, 0.1, wire="rle")
    sgd = optax.sgd(step_of(problem))
    expected = in_the_simulator(problem, algorithm, sgd, 60)
    apart = of_problem(problem, algorithm, sgd)
    for _ in range(60):
        assert apart.round() == []
    np.testing.assert_array_equal([row.bits for row in apart.state.rows], expected.bits)
    jax.tree.map(
        lambda own, theirs: np.testing.assert_allclose(own, theirs, 1e-12, 1e-12),
        apart.state.params, expected.params,
    )  # fmt: skip


REFUSED = {
    "trains": (lambda: gdsec_jax.scaffold(3, 0.1, 2), "expected one of gdsec_jax"),
    "a chain": (lambda: optax.chain(gdsec_jax.gd(3), optax.sgd(0.1)), "optax.chain"),
    "sums": (lambda: gdsec_jax.power_sgd(3), "power_sgd sums .* top_j in the"),
    "factors": (lambda: gdsec_jax.low_rank(3), "low_rank sends factors"),
    "a controller": (
        lambda: gdsec_jax.gdsec(3, gdsec_jax.adaptive_xi()), "is a Controller",
    ),
    "late": (lambda: gdsec_jax.gd(3, server=server.late(1)), "server of gd is late"),
    "robust": (
        lambda: gdsec_jax.gd(3, server=server.robust(robust.median)), "is no sum",
    ),
    "a combine of one's own": (
        lambda: gdsec_jax.gd(3, server=server.Server(combine=lambda u, late: u)),
        "is no sum",
    ),
    "senders": (
        lambda: gdsec_jax.top_j(3, 2, reduction="senders"), "reduction of top_j is 's",
    ),
    "judged": (lambda: gdsec_jax.gd(3, server=server.total(max_norm_ratio=9)), "norms"),
    "unknown h": (
        lambda: gdsec_jax.federate(worker.gradient_difference(worker.top_k(1)), 3),
        "of which its server knows nothing",
    ),
    "prepared": (
        lambda: gdsec_jax.federate(
            worker.top_k(1), 3, server=server.Server(prepare=lambda u, state: u)
        ),
        "prepares messages by what workers keep",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_apart_is_refused_in_a_sentence(name):
    make, why = REFUSED[name]
    with pytest.raises(ValueError, match=why):
        of_problem(a_problem(), make(), optax.sgd(0.1))
    with pytest.raises(
        ValueError, match=r"index is 3, expected an integer from 0 to 2"
    ):
        _worker.worker_of(gdsec_jax.gd(3), np.zeros(2, np.float32), 3)


def test_a_broadcast_of_factors_is_refused():
    down = gdsec_jax.broadcast(worker.low_rank(1))
    with pytest.raises(ValueError, match=r"broadcast's compressor sends factors"):
        of_problem(a_problem(), gdsec_jax.gd(3), optax.chain(optax.sgd(0.1), down))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:10], "is no state of a server"),
        (lambda data: b"x" + data[1:], "begins otherwise"),
        (lambda data: data[:-3], "is damaged, expected another checksum"),
        (lambda data: data[:90] + b"\0" + data[91:], "is damaged, expected another"),
    ],
)
def test_a_broken_file_of_a_server_is_refused(change, why, tmp_path):
    apart = of_problem(a_problem(), gdsec_jax.gd(3), optax.sgd(0.1))
    saved.save(tmp_path, apart.server, apart.state)
    path = tmp_path / "server.state"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=why):
        saved.load(tmp_path, apart.server)
    assert saved.load(tmp_path / "none", apart.server) is None


def test_a_servers_folder_of_another_run_is_refused_or_said(tmp_path, caplog):
    apart = of_problem(a_problem(), gdsec_jax.gd(3), optax.sgd(0.1))
    apart.round()
    saved.save(tmp_path, apart.server, apart.state)

    def loaded(workers=3, optimizer=None, begin=0.0):
        params = np.full(6, begin, np.float32)
        optimizer = optimizer or optax.sgd(0.1)
        own = _server.Server(gdsec_jax.gd(workers), optimizer, params)
        return saved.load(tmp_path, own)

    with pytest.raises(ValueError, match=r"state is of 3 workers, expected 4: name"):
        loaded(workers=4)
    with pytest.raises(ValueError, match=r"of another optimizer: the arrays are"):
        loaded(optimizer=optax.adam(0.1))
    with caplog.at_level("INFO", logger="flwr"):
        assert loaded().round == 1
        assert re.search(r"server.state goes on: 1 rounds are done", caplog.text)
        assert "began at other" not in caplog.text
        found = loaded(begin=1.0)
    assert "server.state began at other parameters than these, which are" in caplog.text
    np.testing.assert_array_equal(found.params, apart.state.params)


def test_in_the_first_round_parameters_go_down_once():
    apart = of_problem(a_problem(), gdsec_jax.gd(3), optax.sgd(0.1))
    first = protocol.read_instructions(apart.told(0))
    assert (len(first.step), first.whole) == (0, False)
    assert first.base
    apart.round()
    second = protocol.read_instructions(apart.told(0))
    assert (len(second.step), second.whole, second.base) == (4 * 6, True, b"")


def test_a_client_knows_its_own_state_alone():
    apart = of_problem(a_problem(), gdsec_jax.gdsec(3, 2.0), optax.sgd(0.1))
    apart.round()
    client = apart.clients[0]
    kept = client.kept
    state = client.state
    assert state.epoch
    assert state.last >> 32 == 1
    assert (state.if_heard, state.if_lost) == (state.last, 0)
    for data, why in (
        (b"", r"what it keeps is 0 bytes, expected \d+ or more"),
        (kept[:-1], "what it keeps is damaged"),
        (kept + b"1234", "what it keeps is damaged"),
        (kept[:90] + bytes([kept[90] ^ 1]) + kept[91:], "what it keeps is damaged"),
        (kept[:4] + b"\2" + kept[5:], "what it keeps is of version 2, expected 1"),
        (protocol.checked(kept[4:], b"1234"), "is of another method, expected gdsec"),
    ):
        with pytest.raises(ValueError, match=why):
            read_state(client.worker, data)
    other = _worker.worker_of(gdsec_jax.top_j(3, 2), apart.server.agreed.like, 0)
    with pytest.raises(ValueError, match=r"is of another method, expected top_j .* on"):
        read_state(other, kept)


def test_another_version_is_refused_in_a_sentence():
    apart = of_problem(a_problem(), gdsec_jax.gdsec(3, 2.0), optax.sgd(0.1))
    data = apart.reply_of(1)
    (said,) = apart.close([(1, data[:4] + b"\2" + data[5:])])
    assert re.search(
        r"node 1 is left out in round 1: the reply is of version 2, ", said
    )
    told = apart.told(0)
    with pytest.raises(ValueError, match=r"instructions are of version 3, expected 1"):
        protocol.read_instructions(told[:4] + b"\3" + told[5:])


def test_both_ends_agree_on_the_workers_and_their_weights():
    like = {"a": np.zeros((0, 2), np.float32), "b": np.zeros(3, np.float32)}

    def server_says(**options):
        return _worker.agreed(gdsec_jax.gdsec(3, 1.0, **options), like).text

    def client_says(method):
        return _numpy.worker_of(method, like).describe

    weights = [1.0, 2.0, 5.0]
    text = server_says()
    assert text == client_says(numpy_worker.GDSEC(3, 1.0))
    assert text == (
        "gdsec (coo, float, beta 0.01, xi/3) on ['a'] 0x2 float32, ['b'] 3 float32"
    )
    assert text != client_says(numpy_worker.GDSEC(4, 1.0))
    assert server_says(reduction="mean") == client_says(numpy_worker.GDSEC(1, 1.0))
    assert ", weights 1, 2, 5 ... (sum " in server_says(weights=weights)
    assert len({text, *(server_says(weights=w) for w in (weights, [1, 2, 5.1]))}) == 3
    for method, algorithm in (
        (numpy_worker.EF21(1), gdsec_jax.ef21(5, 1)),
        (numpy_worker.GD(), gdsec_jax.gd(5)),
        (numpy_worker.CGD(5, 1.0), gdsec_jax.cgd(5, 1.0)),
    ):
        assert client_says(method) == _worker.agreed(algorithm, like).text
    empty = {"a": np.zeros((0, 2), np.float32)}
    assert "gdsec" in _worker.agreed(gdsec_jax.gdsec(3, 1.0), empty).text


def test_a_refusal_says_its_own_reason():
    apart = of_problem(a_problem(), gdsec_jax.gdsec(3, 2.0), optax.sgd(0.1))
    told = apart.told(0)
    seen, client = [], apart.clients[0]
    for _ in range(2):
        seen.append(client.respond(told, lambda params: apart.gradient(params, 0)))
    (said,) = apart.close([(0, seen[1])])
    assert said == (
        "node 0 is left out in round 1: worker 0 refuses: 'it has seen round 1 of this "
        "run already'."
    )


def test_metrics_are_of_who_was_heard_and_none_is_too_large():
    apart = of_problem(a_problem(), gdsec_jax.gdsec(3, 2.0), optax.sgd(0.1))
    replies = [protocol.read_reply(apart.reply_of(m)) for m in range(3)]
    changes = ({"loss": 2.0, "a": "x"}, {"loss": 10**400}, {"loss": 3})
    told = [r._replace(told=own) for r, own in zip(replies, changes, strict=True)]
    told[2] = told[2]._replace(run=1)
    said = apart.close([(m, protocol.write_reply(r)) for m, r in enumerate(told)])
    assert apart.told_by == {"loss-0": 2.0}
    assert re.search(r"worker 1 sent no message: it tells .* expected numbers", said[0])
    assert "worker 2 answers another federation, or a run before this" in said[1]
    assert len(said) == 2
    assert apart.state.rows[-1].participants == [True, False, False]


@pytest.mark.parametrize("function", [flower.client, flower.Compressed])
def test_without_flower_it_is_a_sentence(function, monkeypatch):
    for name in ["flwr", *(n for n in sys.modules if n.startswith("flwr."))]:
        monkeypatch.setitem(sys.modules, name, None)
    last = (lambda p, c: p) if function is flower.client else np.zeros(2)
    with pytest.raises(ModuleNotFoundError, match=r"Flower is not installed, expected"):
        function(gdsec_jax.gd(3), optax.sgd(0.1), last)

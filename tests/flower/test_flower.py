"""Flower's own objects in one process: a Strategy and ClientApps without a network."""

import doctest
import inspect
import logging
import re
import threading

import jax
import numpy as np
import optax
import pytest
from apart import a_network, a_problem, step_of
from inside import _protocol as protocol

import gdsec_jax
from gdsec_jax import flower, numpy_worker, worker

flwr = pytest.importorskip(
    "flwr", reason="Flower is not installed: pip install 'gdsec-jax[flower]'"
)

M = 3
POWER = 2.0**-4  # a product with it is exact: compilers may merge it with a sum or not


@pytest.fixture(autouse=True)
def identity():
    """What Flower's processes know of themselves."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 3


@pytest.fixture(scope="module")
def problem():
    return a_problem()


class Grid:
    """Nodes that are ClientApps in this process, and what befalls their replies."""

    def __init__(self, apps):
        from flwr.app import Context, RecordDict

        self.apps, self.befalls = apps, lambda round, index, reply: reply
        self.contexts = {
            100 - m: Context(7, 100 - m, {"partition-id": m}, RecordDict(), {})
            for m in range(len(apps))
        }

    def get_node_ids(self):
        return list(self.contexts)

    def send_and_receive(self, messages, timeout=None):
        replies = []
        for message in messages:
            context = self.contexts[message.metadata.dst_node_id]
            index = context.node_config["partition-id"]
            reply = self.reply(self.apps[index], message, context)
            number = int(message.metadata.group_id)
            replies.append(self.befalls(number, index, reply))
        return [reply for reply in replies if reply is not None]

    def reply(self, app, message, context):
        from flwr.app import Error, Message

        try:
            return app(message, context)
        except Exception as error:  # as Flower does
            return Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=message)


def gradients_of(problem):
    own = jax.jit(problem.gradients)

    def gradient(params, context):
        m = context.node_config["partition-id"]
        return jax.tree.map(lambda x: x[m], own(params)), {"loss": 2.0 * m}

    return gradient


def optimizer_of(problem, *behind):
    return optax.chain(optax.sgd(step_of(problem)), *behind)


def federation(problem, algorithm, *behind, **options):
    """A strategy and a grid of its clients."""
    gradient, like = gradients_of(problem), problem.init_params
    app = flower.client(algorithm, like, gradient)
    strategy = flower.Compressed(
        algorithm, optimizer_of(problem, *behind), like, error=problem.error, **options
    )
    return strategy, Grid([app] * M)


def simulated(problem, optimizer, **masks):
    """The parameters after rounds in which not all is well, masks [K, M]."""

    @jax.jit
    def one(params, state, **said):
        updates, state = optimizer.update(
            problem.gradients(params), state, params, **said
        )
        return optax.apply_updates(params, updates), state

    params, state = problem.init_params, optimizer.init(problem.init_params)
    for each in zip(*(np.array(mask) for mask in masks.values()), strict=True):
        params, state = one(params, state, **dict(zip(masks, each, strict=True)))
    return params


def test_iterates_bits_and_metrics_are_the_simulators(problem):
    algorithm = gdsec_jax.gdsec(M, 2.0, POWER, wire="rle")
    strategy, grid = federation(problem, algorithm)
    result = strategy.start(grid, flwr.app.ArrayRecord(), num_rounds=12)
    optimizer = optax.chain(algorithm, optimizer_of(problem))
    expected = gdsec_jax.simulate(problem, optimizer, 12, progress=False)
    found = strategy.history
    np.testing.assert_array_equal(found.params, expected.params)
    np.testing.assert_array_equal(found.bits, expected.bits)
    np.testing.assert_allclose(
        found.objective_error, expected.objective_error, rtol=1e-5
    )
    (arrays,) = result.arrays.to_numpy_ndarrays()
    np.testing.assert_array_equal(arrays, expected.params)
    last = result.train_metrics_clientapp[12]
    assert last["bits"] == expected.bits[-1].tolist()
    assert (last["participants"], last["loss-2"]) == (3, 4.0)
    assert last["bytes-up"] == found.observed["reply_bytes"][-1].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: a_problem(np.float64), a_network])
def test_two_hundred_rounds_are_the_simulators(make, x64):
    problem, algorithm = make(), gdsec_jax.gdsec(M, 2.0, 0.1, wire="rle")
    strategy, grid = federation(problem, algorithm)
    found = strategy.run(grid, 200)
    optimizer = optax.chain(algorithm, optimizer_of(problem))
    expected = gdsec_jax.simulate(problem, optimizer, 200, progress=False)
    np.testing.assert_array_equal(found.bits, expected.bits)
    jax.tree.map(
        lambda own, theirs: np.testing.assert_allclose(own, theirs, 1e-12, 1e-12),
        found.params, expected.params,
    )  # fmt: skip


@pytest.mark.parametrize(
    "change", [lambda x: x[:-1], lambda x: x[:90] + bytes([x[90] ^ 4]) + x[91:]]
)
def test_a_damaged_state_is_said_and_the_client_begins_anew(
    change, problem, tmp_path, caplog
):
    algorithm = gdsec_jax.gdsec(M, 50.0, 0.5, wire="rle")
    gradient, like = gradients_of(problem), problem.init_params
    app = flower.client(algorithm, like, gradient, folder=tmp_path)
    strategy = flower.Compressed(algorithm, optimizer_of(problem), like)
    grid, path = Grid([app] * M), tmp_path / "worker-1.state"

    def damages(k, m, reply):
        if (k, m) == (6, 2):  # worker 1 comes after it
            path.write_bytes(change(path.read_bytes()))
        return reply

    grid.befalls = damages
    with caplog.at_level(logging.WARNING, logger="flwr"):
        history = strategy.run(grid, 10)
    # It lacks what all know, too, and is told that in the next round.
    assert history.participants[5].tolist() == [True, False, True]
    assert history.entries[6, 1] == 6
    assert history.observed["forgotten"].tolist() == [3, *[0] * 5, 1, 0, 0, 0]
    begins = "worker 1 begins anew with a whole message: what it keeps is damaged, "
    assert [x for x in warned(caplog) if "anew" in x] == [
        f"{begins}expected another checksum."
    ] * 2


def test_a_clients_state_of_another_run_is_said(problem, tmp_path, caplog):
    algorithm = gdsec_jax.gdsec(M, 2.0, POWER, wire="rle")
    gradient, like = gradients_of(problem), problem.init_params
    app = flower.client(algorithm, like, gradient, folder=tmp_path)
    for _ in range(2):
        strategy = flower.Compressed(algorithm, optimizer_of(problem), like)
        with caplog.at_level(logging.WARNING, logger="flwr"):
            assert strategy.run(Grid([app] * M), 2).participants.all()
    assert warned(caplog) == [
        f"worker {m} begins anew with a whole message: what it keeps is of another run."
        for m in (2, 1, 0)
    ]


def test_initial_arrays_are_the_strategys_own_or_none(problem):
    strategy, grid = federation(problem, gdsec_jax.gd(M))
    other = flwr.app.ArrayRecord([np.ones(6, np.float32)])
    with pytest.raises(ValueError, match=r"initial_arrays are other parameters than"):
        strategy.start(grid, other, num_rounds=1)
    own = flwr.app.ArrayRecord([np.asarray(problem.init_params)])
    strategy.start(grid, own, num_rounds=1)
    assert strategy.history.participants.all()


def test_who_is_waited_for_is_said(problem, caplog):
    strategy, grid = federation(problem, gdsec_jax.gd(M), patience=0.01)
    first = strategy.run(grid, 1)
    assert first.participants.all()
    with caplog.at_level(logging.INFO, logger="flwr"):
        strategy.run(grid, 1)
        del grid.contexts[100 - 1]
        strategy.run(grid, 2)
    told = [x.getMessage() for x in caplog.records]
    assert "1 rounds are done already." in told
    assert "waiting 0.01 s at most for 1 of 3 workers (number 1)." in told
    assert "1 of 3 workers (number 1) did not come: the round begins." in told


def test_a_history_is_saved_and_drawn_as_the_simulators(problem, tmp_path):
    import matplotlib

    matplotlib.use("agg")
    strategy, grid = federation(problem, gdsec_jax.top_j(M, 2, wire="rle"))
    history = strategy.run(grid, 5)
    history.save(tmp_path / "run.nc")
    again = gdsec_jax.History.load(tmp_path / "run.nc")
    np.testing.assert_array_equal(again.bits, history.bits)
    np.testing.assert_array_equal(again.params, history.params)
    axes = gdsec_jax.plot.convergence({"top-j": again})
    assert axes is not None


def test_a_compressed_broadcast_reaches_who_was_away(problem):
    down = gdsec_jax.broadcast(worker.error_feedback(worker.top_k(2)))
    algorithm = gdsec_jax.gdsec(M, 2.0, POWER, wire="rle")
    strategy, grid = federation(problem, algorithm, down)
    away = {(4, 1), (5, 1), (7, 0)}
    grid.befalls = lambda k, m, reply: None if (k, m) in away else reply
    history = strategy.run(grid, 12)
    assert history.lost.tolist() == [0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0]
    optimizer = optax.chain(algorithm, optimizer_of(problem, down))
    heard = [[(k, m) not in away for m in range(M)] for k in range(1, 13)]
    expected = simulated(problem, optimizer, delivered=heard)
    np.testing.assert_array_equal(history.params, expected)
    sent = history.observed["instruction_bytes"]
    assert sent[3].max() < 150  # the step alone
    assert sent[4, 1] > sent[4, 0]  # and what all know


def test_who_cannot_be_used_is_left_out_with_a_sentence(problem, caplog):
    algorithm = gdsec_jax.gdsec(M, 2.0, POWER, wire="rle")
    strategy, grid = federation(problem, algorithm)
    gradient, like = gradients_of(problem), problem.init_params
    wrong_shape = flower.client(algorithm, np.zeros(7, np.float32), gradient)
    wrong_method = flower.client(gdsec_jax.top_j(M, 2), like, gradient)

    def nans(params, context):
        return np.full(6, np.nan, np.float32)

    def raises(params, context):
        raise RuntimeError("no data here")

    cases = {
        2: (wrong_shape, r"worker 1 has 'gdsec .* 7 float32', expected gdsec .* 6 "),
        3: (wrong_method, r"worker 1 has 'top_j .*', expected gdsec"),
        4: (flower.client(algorithm, like, nans), None),
        5: (flower.client(algorithm, like, raises), r"it failed: .*no data here"),
        6: (flower.client(algorithm, like, lambda p, c: p[:3]), r"gradient has shape"),
    }
    good, apps = grid.apps[1], dict.fromkeys(range(1, 9))
    apps.update({k: app for k, (app, _) in cases.items()})

    def hostile(k, m, reply):
        if (k, m) == (7, 1):
            reply.content["gdsec_jax"]["bytes"] = b"\1" * 99
        if (k, m) == (8, 1):
            del reply.content["gdsec_jax"]
        if m == 0:  # the last one of a round
            grid.apps = [good, apps.get(k + 1) or good, good]
        return reply

    grid.befalls = hostile
    with caplog.at_level(logging.WARNING, logger="flwr"):
        history = strategy.run(grid, 9)
    assert history.participants.sum(1).tolist() == [3, 2, 2, 2, 2, 2, 2, 2, 3]
    assert history.dropped.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert "worker 1 rests in round 4: its gradient is not finite." in warned(caplog)
    said = [x.getMessage() for x in caplog.records if "left out" in x.getMessage()]
    sentences = [why for _, why in cases.values() if why] + ["checksum", "no record"]
    assert len(said) == len(sentences)
    for text, expected in zip(said, sentences, strict=True):
        assert re.search(expected, text), text


def test_a_server_goes_on_from_its_folder(problem, tmp_path):
    def run(folder, *parts):
        grid = None
        for rounds in parts:
            algorithm = gdsec_jax.gdsec(M, 2.0, POWER, wire="rle")
            strategy, fresh = federation(problem, algorithm, folder=folder)
            grid = grid or fresh
            history = strategy.run(grid, rounds)
        return history

    whole, broken = run(tmp_path / "one", 9), run(tmp_path / "two", 4, 9)
    assert broken.num_rounds == whole.num_rounds == 9
    # It ended the round in which it was: nobody was heard.
    assert broken.participants.sum(1).tolist() == [3, 3, 3, 3, 0, 3, 3, 3, 3]
    optimizer = optax.chain(gdsec_jax.gdsec(M, 2.0, POWER), optimizer_of(problem))
    active = [[k != 4] * M for k in range(9)]
    expected = simulated(problem, optimizer, active=active)
    np.testing.assert_array_equal(broken.params, expected)
    with pytest.raises(
        ValueError, match=r"server.state is of gdsec .*, expected top_j"
    ):
        federation(problem, gdsec_jax.top_j(M, 2), folder=tmp_path / "two")


def test_a_client_that_lost_its_state_begins_with_a_whole_message(problem):
    algorithm = gdsec_jax.gdsec(M, 50.0, 0.5, wire="rle")
    strategy, grid = federation(problem, algorithm)

    def forgets(k, m, reply):
        if (k, m) == (6, 1):
            grid.contexts[99].state.clear()
        return reply

    grid.befalls = forgets
    history = strategy.run(grid, 10)
    entries = history.entries
    assert history.participants[6].tolist() == [True, False, True]
    assert entries[7, 1] == entries[0, 1] == 6
    assert history.observed["forgotten"].tolist() == [3, *[0] * 6, 1, 0, 0]


def test_a_client_in_numpy_sends_what_a_client_in_jax_does(problem):
    like = problem.init_params

    def xi(round):
        return 40.0 * 0.5**round

    for name, method, algorithm in (
        ("gdsec", numpy_worker.GDSEC(M, 2.0, POWER), gdsec_jax.gdsec(M, 2.0, POWER)),
        ("ef21", numpy_worker.EF21(2), gdsec_jax.ef21(M, 2)),
        ("top_j", numpy_worker.TopJ(2), gdsec_jax.top_j(M, 2)),
        ("schedule", numpy_worker.GDSEC(M, xi), gdsec_jax.gdsec(M, xi)),
        ("mean", numpy_worker.GDSEC(1, 2.0), gdsec_jax.gdsec(M, 2.0, reduction="mean")),
    ):
        ran = []
        for own in (algorithm, method):
            app = flower.client(own, like, gradients_of(problem))
            strategy = flower.Compressed(algorithm, optimizer_of(problem), like)
            ran.append(strategy.run(Grid([app] * M), 10))
        np.testing.assert_array_equal(ran[0].bits, ran[1].bits, name)
        np.testing.assert_allclose(ran[0].params, ran[1].params, rtol=1e-6)


def rewritten(reply, **fields):
    """The reply with other fields."""
    record = reply.content["gdsec_jax"]
    own = protocol.read_reply(record["bytes"])
    record["bytes"] = protocol.write_reply(own._replace(**fields))
    return reply


def test_a_node_that_once_named_another_worker_is_heard_again(problem):
    strategy, grid = federation(problem, gdsec_jax.gdsec(M, 2.0, POWER))
    grid.befalls = lambda k, m, reply: (
        rewritten(reply, index=0) if (k, m) == (2, 2) else reply
    )
    heard = strategy.run(grid, 6).participants[:, 2]
    assert heard.tolist() == [True, False, False, True, True, True]


def test_a_metric_larger_than_any_float_ends_no_run(problem):
    strategy, grid = federation(problem, gdsec_jax.gdsec(M, 2.0, POWER))
    grid.befalls = lambda k, m, reply: (
        rewritten(reply, told={"loss": 10**400}) if (k, m) == (2, 1) else reply
    )
    result = strategy.start(grid, strategy._arrays(), num_rounds=3)
    assert strategy.history.participants.sum(1).tolist() == [3, 2, 3]
    told = [set(result.train_metrics_clientapp[k]) for k in (1, 2, 3)]
    assert told[0] == told[2] == told[1] | {"loss-1"}


def test_parameters_may_be_a_pair_of_an_array_and_a_dict():
    like = (np.zeros(2, np.float32), {"w": np.zeros(3, np.float32)})

    def gradient(params, context):
        return jax.tree.map(lambda x: np.asarray(x) - 1, params)

    def with_metrics(params, context):
        return gradient(params, context), {"loss": 1.0}

    for own in (gradient, with_metrics):
        app = flower.client(gdsec_jax.gd(M), like, own)
        strategy = flower.Compressed(gdsec_jax.gd(M), optax.sgd(1 / M), like)
        assert strategy.run(Grid([app] * M), 1).participants.all()
        for leaf in jax.tree.leaves(strategy.params):
            np.testing.assert_allclose(leaf, 1.0, rtol=1e-6)


def warned(caplog):
    return [x.getMessage() for x in caplog.records if x.levelno >= logging.WARNING]


def test_who_is_not_heard_is_named_by_its_number(problem, caplog):
    from flwr.app import Error, Message

    strategy, grid = federation(problem, gdsec_jax.gdsec(M, 2.0, POWER))

    def befalls(k, m, reply):
        if m != 2 or k in (1, 4):
            return reply
        if k == 2:
            return None
        error = Message(Error(5, "the node is gone"), reply_to=reply)
        error.metadata.__dict__["_src_node_id"] = 1  # the SuperLink speaks
        return error

    grid.befalls = befalls
    with caplog.at_level(logging.WARNING, logger="flwr"):
        history = strategy.run(grid, 4)
    assert history.lost.tolist() == [0, 1, 1, 0]
    begins = "worker 2 is left out in round"
    assert warned(caplog) == [
        f"{begins} 2: it is not heard: no reply came in time.",
        f"{begins} 3: it is not heard: the node is gone.",
    ]


def test_a_strategy_runs_on_and_idle_workers_are_no_warning(problem, caplog):
    algorithm = gdsec_jax.iag(M, [0.25, 0.25, 0.5], key=5)
    ran = []
    for parts in ((6,), (2, 6)):
        strategy, grid = federation(problem, algorithm)
        with caplog.at_level(logging.WARNING, logger="flwr"):
            for rounds in parts:
                history = strategy.run(grid, rounds)
        ran.append(history)
    assert warned(caplog) == []
    np.testing.assert_array_equal(ran[0].participants, ran[1].participants)
    np.testing.assert_array_equal(ran[0].params, ran[1].params)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"algorithm": "gdsec"}, r"algorithm is 'gdsec', expected one of gdsec_jax"),
        ({"algorithm": numpy_worker.GDSEC}, r"algorithm is <class .*GDSEC'>, expected"),
        ({"gradient": np.zeros(2)}, r"gradient is array\(.*\), expected a function"),
        ({"wire": "rle"}, r"wire is 'rle', expected None: the algorithm knows it"),
        ({"algorithm": numpy_worker.GD(), "wire": "rel"}, r"wire is 'rel', did you"),
    ],
)
def test_a_client_that_cannot_be_is_refused_when_it_is_made(changes, why):
    own = {"algorithm": gdsec_jax.gd(M), "gradient": lambda p, c: p, "wire": None}
    own |= changes
    with pytest.raises(ValueError, match=why):
        flower.client(own["algorithm"], np.zeros(2), own["gradient"], wire=own["wire"])


def test_mods_that_change_arrays_are_refused_and_others_compose(problem):
    from flwr.clientapp import mod

    algorithm, like = gdsec_jax.gdsec(M, 2.0, POWER), problem.init_params
    gradient = gradients_of(problem)
    private = mod.LocalDpMod(1.0, 1.0, 1.0, 1e-5)
    for one in (mod.fixedclipping_mod, mod.adaptiveclipping_mod, private):
        with pytest.raises(ValueError, match=r"mods has \w+, which clips an ArrayRec"):
            flower.client(algorithm, like, gradient, mods=[one])
    app = flower.client(
        algorithm, like, gradient, mods=[mod.message_size_mod, mod.arrays_size_mod]
    )
    strategy = flower.Compressed(algorithm, optimizer_of(problem), like)
    history = strategy.run(Grid([app] * M), 3)
    assert history.participants.all()


@pytest.mark.parametrize("side", ["Server", "Client"])
@pytest.mark.parametrize("how", ["Fixed", "Adaptive"])
def test_wrappers_that_change_the_parameters_are_refused(problem, side, how):
    """They would add noise to a copy, and the run would go on without it."""
    from flwr.serverapp import strategy as strategies

    wrapper = getattr(strategies, f"DifferentialPrivacy{side}Side{how}Clipping")
    numbers = (0.1, 1.0, M) if how == "Fixed" else (0.1, M)
    own, grid = federation(problem, gdsec_jax.gdsec(M, 2.0, POWER))
    with pytest.raises(ValueError, match=r"the parameters were changed outside of"):
        wrapper(own, *numbers).start(grid, own._arrays(), num_rounds=2)


def test_secure_aggregation_is_refused_on_both_sides(problem, monkeypatch):
    from flwr.client.mod import secagg_mod, secaggplus_mod
    from flwr.server import LegacyContext, ServerConfig, workflow
    from flwr.server.workflow import default_workflows

    for one in (secagg_mod, secaggplus_mod):
        with pytest.raises(ValueError, match=r"mods has secagg\w*_mod, which masks"):
            flower.client(gdsec_jax.gd(M), problem.init_params, abs, mods=[one])
    strategy, grid = federation(problem, gdsec_jax.gdsec(M, 2.0, POWER))
    done = threading.Event()
    done.set()
    monkeypatch.setattr(  # it would look for nodes for ever
        default_workflows,
        "start_update_client_manager_thread",
        lambda grid, manager: (None, done, done),
    )
    context = LegacyContext(grid.contexts[100], ServerConfig(1), strategy)
    masked = workflow.SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2)
    with pytest.raises(ValueError, match=r"Compressed was given to an older server of"):
        workflow.DefaultWorkflow(fit_workflow=masked)(grid, context)


def test_instructions_that_are_none_of_ours_are_refused():
    for data in (b"", b"\1" * 200, "text"):
        with pytest.raises(ValueError, match=r"the instructions (are|is)"):
            protocol.read_instructions(data)


@pytest.mark.parametrize("function", [flower.client, flower.Compressed])
def test_the_examples_run_where_flower_is(function):
    text = inspect.getdoc(function).replace("  # doctest: +SKIP", "")
    test = doctest.DocTestParser().get_doctest(text, {}, function.__name__, None, 0)
    assert doctest.DocTestRunner().run(test) == (0, len(test.examples))

"""Runs and sweeps over an uplink: what it does to them, and what it costs."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from cases import methods, slow_but
from inside import _uplink
from test_checkpoint import KilledError, killed_at
from test_mesh import on_four_devices
from test_simulate import assert_same_course

import gdsec_jax
from gdsec_jax import Uplink, channel, logs, problems, server, simulate, sweep
from gdsec_jax import participation as rules
from gdsec_jax.channel import Channel, Radio

M, ROUNDS, MAX_DELAY = 4, 40, 2


@functools.cache
def problem():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6))
    y = x @ rng.standard_normal(6) + rng.standard_normal(40)
    return problems.ridge(x, y, M, dtype="float32")


@functools.cache
def optimizer(name="gdsec", max_delay=None, xi=2.0):
    own = {"gdsec": {"xi": xi, "beta": 0.1, "wire": "rle"}}.get(name, {})
    own["server"] = None if max_delay is None else server.late(max_delay)
    algorithm = getattr(gdsec_jax, name)(M, **own)
    return optax.chain(algorithm, optax.sgd(0.2 / problem().smoothness))


def noisy(snr_db=10.0, erasure=0.2, max_delay=0, access="fdma"):
    """Losses, outages, stragglers, and perhaps delays."""
    distances = np.array([100.0, 200.0, 300.0, 400.0])
    radio = channel.at_snr(Radio(distance_m=distances, access=access), M, snr_db)
    return Channel(
        radio,
        erasure_probability=erasure,
        compute_s=1e-4,
        straggler_s=np.array([0.0, 1e-4, 2e-4, 3e-4]),
        max_delay=max_delay,
    )


def run(chain=None, key=3, rounds=ROUNDS, **options):
    parts = [f.name for f in dataclasses.fields(Uplink) if f.name in options]
    uplink = Uplink(**{name: options.pop(name) for name in parts})
    options = {"key": key, "uplink": uplink} | options
    return simulate(problem(), chain or optimizer(), rounds, **options)


def assert_same_links(one, other):
    """The same in what it took, too."""
    assert_same_course(one, other)
    assert one.time_s is not None and other.time_s is not None


# One run


@methods(dear=True, core=("gdsec",))
def test_a_channel_that_loses_nothing_is_none(method):
    options = {"key": 5} if method.draws else {}
    step = optax.sgd(0.1 / problem().smoothness)
    chain = optax.chain(method.make(M, **options), step)
    expected, harmless = run(chain), run(chain, channel=Channel())
    np.testing.assert_array_equal(harmless.bits, expected.bits)
    # Two programs, which XLA may round otherwise.
    np.testing.assert_allclose(harmless.params, expected.params, rtol=1e-6)
    assert not harmless.lost.any() and not harmless.time_s.any()


@pytest.mark.parametrize("access", slow_but(("fdma",), ("fdma", "tdma")))
def test_what_a_run_took_follows_from_what_was_drawn(access):
    """Every column, by loops over the formulas and the draws of the stream."""
    given = noisy(max_delay=MAX_DELAY, access=access)
    history = run(
        optimizer(max_delay=MAX_DELAY), channel=given, absent="accumulate",
        participation=rules.bernoulli(M, 0.7),
    )  # fmt: skip
    key = jax.random.key(3)
    for k in range(ROUNDS):
        stream = _uplink.stream(key, _uplink.CHANNEL, k)
        met = jax.tree.map(np.asarray, channel.conditions(given, M, stream))
        bits, present = history.bits[k], history.participants[k]
        upload = [int(b) * float(s) for b, s in zip(bits, met[2], strict=True)]
        assert history.lost[k] == np.sum((bits > 0) & ~met.delivered)
        waits = [m for m in range(M) if present[m] and met.delay[m] == 0]
        compute = [float(c) for c in met.compute_s]
        if access == "fdma":
            lasts = max((compute[m] + upload[m] for m in waits), default=0.0)
        else:
            slowest = max((compute[m] for m in waits), default=0.0)
            lasts = slowest + sum(upload)
        joules = np.dot(bits.astype(float), met.joules_per_bit.astype(float))
        np.testing.assert_allclose(history.time_s[k], lasts, rtol=1e-6)
        np.testing.assert_allclose(history.energy_j[k], joules, rtol=1e-6)
        each = np.add(compute, upload)  # all compute: the absent accumulate
        np.testing.assert_allclose(history.worker_time_s[k], each, rtol=1e-6)
    assert history.lost.sum() > 5
    assert not history.bits[~history.participants].any()


@pytest.mark.parametrize("absent", ["hold", "accumulate"])
def test_a_grant_waits_for_all_offers(absent):
    """Whoever is asked computes first; the absent are not, even if they accumulate."""
    some = rules.round_robin(M, 0.5)
    given = Channel(compute_s=np.array([1.0, 2.0, 3.0, 4.0]))
    grant = rules.largest_energy(0.0)
    history = run(
        rounds=4, channel=given, grant=grant, participation=some, absent=absent
    )
    np.testing.assert_array_equal(history.time_s, [2, 4, 2, 4])
    assert (history.participants.sum(1) == 1).all()


def test_who_is_left_out_is_waited_for():
    algorithm = gdsec_jax.gd(M, server=server.total(max_norm_ratio=1.0))
    chain = optax.chain(algorithm, optax.sgd(0.1 / problem().smoothness))
    with pytest.warns(RuntimeWarning, match="dropped"):
        history = run(chain, rounds=5, channel=Channel(compute_s=1.0))
    assert history.dropped.all()
    np.testing.assert_array_equal(history.time_s, 1.0)


def test_local_steps_take_their_time():
    one = run(rounds=5, channel=noisy())
    sent = gdsec_jax.gd(M, reduction="mean")
    trained = gdsec_jax.local(M, optax.sgd(0.01), 7)
    chain = optax.chain(trained, sent, optax.sgd(1.0))
    several = run(chain, rounds=5, channel=noisy())
    link = [each.worker_time_s[0] for each in (one, several)]
    drawn = channel.conditions(
        noisy(), M, _uplink.stream(jax.random.key(3), _uplink.CHANNEL, 0)
    )
    for steps, history in ((1, one), (7, several)):
        sending = channel.upload_s(jax.tree.map(np.asarray, drawn), history.bits[0])
        wanted = steps * np.asarray(drawn.compute_s) + sending
        np.testing.assert_allclose(history.worker_time_s[0], wanted, rtol=1e-6)
    assert (link[1] > link[0]).all()


def test_a_run_draws_its_channel_from_its_key():
    one, same, other = (run(channel=noisy(), key=key) for key in (1, 1, 2))
    assert_same_links(one, same)
    assert (one.time_s != other.time_s).any()
    assert (one.lost != other.lost).any()
    # Another channel changes nothing that is drawn for others.
    some = rules.bernoulli(M, 0.5)
    masks = [
        run(channel=given, participation=some).participants
        for given in (noisy(), noisy(20.0, 0.9))
    ]
    np.testing.assert_array_equal(*masks)


def test_lost_messages_are_made_up_for():
    """With a tenth of the messages lost GD-SEC still converges; gd's error stays."""
    given = Channel(erasure_probability=0.1)
    kept, forgotten = (
        run(optimizer(name), rounds=600, channel=given) for name in ("gdsec", "gd")
    )
    assert kept.objective_error[-1] < 1e-6 * kept.initial_error
    assert forgotten.objective_error[-1] > 1e-5 * forgotten.initial_error


def test_logs_are_told_of_seconds_and_joules(tmp_path):
    with logs.csv(tmp_path / "run.csv") as log:
        history = run(channel=noisy(), log=log)
    with (tmp_path / "run.csv").open() as file:
        table = np.genfromtxt(file, delimiter=",", names=True)
    for name in ("lost", "time_s", "energy_j"):
        np.testing.assert_allclose(table[name], getattr(history, name), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_batches_of_workers_meet_the_same_channel(size):
    given = noisy(max_delay=MAX_DELAY)
    chain = optimizer(max_delay=MAX_DELAY)
    whole, grouped = (
        run(chain, channel=given, worker_batch=batch) for batch in (None, size)
    )
    np.testing.assert_allclose(grouped.params, whole.params, rtol=1e-4)
    for name in ("lost", "participants"):
        np.testing.assert_array_equal(getattr(grouped, name), getattr(whole, name))


# Checkpoints


def test_a_run_over_a_channel_goes_on_as_if_undisturbed(tmp_path):
    chain = optimizer(max_delay=MAX_DELAY)
    options = {
        "channel": noisy(max_delay=MAX_DELAY),
        "participation": rules.uniform(M, 0.75),
        "absent": "accumulate",
        "grant": rules.largest_energy(500.0),
    }
    expected = run(chain, **options)
    folder = {"checkpoint": gdsec_jax.Checkpoints(tmp_path / "a", 10)}
    with pytest.raises(KilledError):
        run(chain, **options, **folder, log=killed_at(25))
    assert_same_links(run(chain, **options, **folder), expected)


def test_another_channel_is_another_run(tmp_path):
    folder = {"checkpoint": gdsec_jax.Checkpoints(tmp_path / "a", 10)}
    run(channel=noisy(), **folder)
    louder = dataclasses.replace(noisy().radio, power_w=0.2)
    others = {
        "data": (noisy(erasure=0.3), dataclasses.replace(noisy(), radio=louder)),
        "method or options": (noisy(access="tdma"), Channel(), None),
    }
    for changed, channels in others.items():
        for other in channels:
            with pytest.raises(ValueError, match=changed):
                run(channel=other, **folder)
    given = {"participation": rules.bernoulli(M, 0.5), "channel": noisy()}
    for own in ({"absent": "accumulate"}, {"grant": rules.largest_energy(9)}):
        with pytest.raises(ValueError, match="method or options"):
            run(**given, **own, **folder)


# Devices


@pytest.mark.slow
def test_a_channel_over_four_devices():
    on_four_devices(
        """
        from gdsec_jax import channel, participation, server
        lossy = channel.Channel(
            channel.at_snr(channel.Radio(), M, 10.0), erasure_probability=0.2,
            straggler_s=0.1, max_delay=2,
        )
        algorithms = {
            "gdsec": gdsec_jax.gdsec(M, 5.0, 0.01, wire="rle", server=server.late(2)),
            "marina": gdsec_jax.marina(M, worker.random_k(3), server=server.late(2)),
        }
        for name, algorithm in algorithms.items():
            alone, spread = (
                gdsec_jax.simulate(
                    problem, optax.chain(algorithm, step), 40, key=1, mesh=where,
                    uplink=gdsec_jax.Uplink(
                        participation.bernoulli(M, 0.7), "accumulate",
                        participation.largest_energy(1500.0), lossy,
                    ),
                )
                for where in (None, mesh)
            )
            np.testing.assert_allclose(spread.params, alone.params, rtol=1e-11)
            for column in ("bits", "participants", "lost", "dropped"):
                pair = (getattr(one, column) for one in (spread, alone))
                np.testing.assert_array_equal(*pair, err_msg=f"{name} {column}")
            for column in ("time_s", "energy_j", "worker_time_s"):
                pair = (getattr(one, column) for one in (spread, alone))
                np.testing.assert_allclose(*pair, rtol=1e-12)
            assert alone.lost.sum() > 10
        """
    )


# What is refused


def swept_late(max_delay):
    return Uplink(channel=Channel(max_delay=max_delay))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: run(channel=Channel(max_delay=1)),
            "channel has max_delay 1, expected at most that of server.late, 0",
        ),
        (
            lambda: run(optimizer(max_delay=2), channel=Channel(max_delay=3)),
            "channel has max_delay 3, expected at most that of server.late, 2",
        ),
        (
            lambda: run(channel=Channel(erasure_probability=np.zeros(3))),
            r"erasure_probability has shape \(3,\), expected \(\) or \(4,\)",
        ),
        (
            lambda: run(grant=rules.largest_energy(9), worker_batch=2),
            "expected those of all workers at once, which grant looks at",
        ),
        (
            lambda: sweep(
                *(problem(), lambda: optimizer(), {"max_delay": [1]}, 3),
                key=1,
                uplink=swept_late,
            ),
            "channel has max_delay 1, expected at most that of server.late, 0",
        ),
        (lambda: run(absent="sleep"), "absent is 'sleep', expected one of hold, accum"),
        (lambda: run(participation=0.5), "participation is 0.5, expected a function."),
        (lambda: Uplink(grant=1000), "grant is 1000, expected a function."),
        (
            lambda: run(channel="lossy"),
            "channel is 'lossy', expected a channel.Channel",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_an_uplink_was_made_of_goes_on_for_a_release():
    given = {"participation": rules.bernoulli(M, 0.5), "channel": Channel()}
    expected = run(rounds=2, **given)
    instead = r"use uplink=Uplink\(participation=..., channel=...\)"
    with pytest.warns(DeprecationWarning, match=instead):
        old = simulate(problem(), optimizer(), 2, key=3, **given)
    assert_same_links(old, expected)
    with pytest.raises(ValueError, match="channel is given beside uplink"):
        simulate(problem(), optimizer(), 2, uplink=Uplink(), channel=Channel())


def test_an_uplink_of_the_grid_is_the_same_as_its_parts():
    grid = {"erasure": [0.0, 0.5], "share": [0.5]}

    def parts(key, round, share):
        return rules.uniform(M, share)(key, round)

    def whole(erasure, share):
        link = Channel(erasure_probability=erasure)
        return Uplink(rules.uniform(M, share), channel=link)

    link = Uplink(parts, channel=lambda erasure: Channel(erasure_probability=erasure))
    one, other = (
        sweep(problem(), lambda: optimizer(), grid, 5, key=1, uplink=uplink)
        for uplink in (link, whole)
    )
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], name)

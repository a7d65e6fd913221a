"""Sweeps over what stands around a method: each setting is its run."""

import functools
import json

import numpy as np
import optax
import pytest
from test_uplink_runs import MAX_DELAY, ROUNDS, M, noisy, optimizer, problem, run

import gdsec_jax
from gdsec_jax import Uplink, participation, server, sweep


def assert_is_the_run(swept, history):
    rounds = swept["eval_round"].values
    assert str(swept["outcome"].values) == history.outcome
    for name, column in {
        "bits": history.bits.sum(1),
        "participants": history.participants.sum(1),
        "lost": history.lost,
        "gradient_evaluations": history.gradient_evaluations,
    }.items():
        total = np.cumsum(column)[rounds - 1]
        np.testing.assert_array_equal(swept[f"total_{name}"], total, name)
    for name in ("time_s", "energy_j"):
        total = np.cumsum(getattr(history, name))[rounds - 1]
        np.testing.assert_allclose(swept[f"total_{name}"], total, rtol=1e-5)
    errors = swept["objective_error"].values, history.objective_error
    np.testing.assert_allclose(*errors, rtol=1e-3, atol=1e-6)


def of_setting(snr_db, erasure, access="fdma"):
    return noisy(snr_db, erasure, MAX_DELAY, access)


def swept_chain(xi=2.0):
    algorithm = gdsec_jax.gdsec(M, xi, 0.1, wire="rle", server=server.late(MAX_DELAY))
    return optax.chain(algorithm, optax.sgd(0.2 / problem().smoothness))


def granted(offers, budget):
    return participation.largest_energy(budget)(offers)


def taking_part(key, round, share):
    return participation.uniform(M, share)(key, round)


@pytest.mark.slow
def test_each_setting_of_a_sweep_is_its_run():
    grid = {"snr_db": [0.0, 20.0], "erasure": [0.0, 0.5], "seed": [1, 2]}
    uplink = Uplink(channel=of_setting)
    swept = sweep(problem(), lambda: swept_chain(), grid, ROUNDS, uplink=uplink)
    for setting in ((0.0, 0.5, 1), (20.0, 0.0, 2), (20.0, 0.5, 1)):
        own = dict(zip(grid, setting, strict=True))
        chain, key = optimizer(max_delay=MAX_DELAY), own.pop("seed")
        history = run(chain, key=key, channel=of_setting(**own))
        at = dict(zip(grid, setting, strict=True))
        assert_is_the_run(swept.sel(at), history)
    last = swept.isel(eval_round=-1)
    lost = last["total_lost"].sum(("snr_db", "seed"))
    assert lost.sel(erasure=0.5) > 2 * lost.sel(erasure=0.0) > 0
    seconds = last["total_time_s"].sel(erasure=0.0)
    assert (seconds.sel(snr_db=0.0) > 2 * seconds.sel(snr_db=20.0)).all()


@pytest.mark.slow
def test_settings_of_all_that_stands_around_a_method():
    grid = {
        "access": ["fdma", "tdma"], "share": [0.5, 1.0], "budget": [300.0, 2000.0],
        "xi": [0.5, 4.0], "snr_db": [5.0],
    }  # fmt: skip
    swept = sweep(
        problem(), swept_chain, grid, ROUNDS, key=3,
        uplink=Uplink(
            taking_part, "accumulate", granted,
            functools.partial(of_setting, erasure=0.2),
        ),
    )  # fmt: skip
    for i in (0, -1):
        own = {name: values[i] for name, values in grid.items()}
        history = run(
            optimizer(max_delay=MAX_DELAY, xi=own["xi"]), absent="accumulate",
            channel=of_setting(own["snr_db"], 0.2, own["access"]),
            participation=functools.partial(taking_part, share=own["share"]),
            grant=functools.partial(granted, budget=own["budget"]),
        )  # fmt: skip
        assert_is_the_run(swept.sel(own), history)


@pytest.mark.slow
def test_a_sweep_over_a_channel_is_kept_and_logged(tmp_path):
    grid = {"erasure": [0.0, 0.5], "snr_db": [10.0]}
    told = []

    def run_all(uplink, **options):
        own = {"key": 1, "uplink": uplink} | options
        return sweep(problem(), lambda: swept_chain(), grid, ROUNDS, **own)

    given = Uplink(channel=of_setting)
    whole = run_all(given, log=lambda rows, setting: told.append(rows))
    assert {"lost", "time_s", "energy_j"} <= set(told[0])
    path = tmp_path / "swept.nc"
    for _ in range(2):
        kept = run_all(given, path=path)
        for name in whole:
            np.testing.assert_array_equal(kept[name], whole[name], name)
    in_turn = Uplink(channel=functools.partial(of_setting, access="tdma"))
    other = run_all(in_turn, path=path)
    assert (other["total_time_s"] != whole["total_time_s"]).any()
    assert json.loads(other.attrs["attributes"])["num_rounds"] == ROUNDS

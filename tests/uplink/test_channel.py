"""The uplink against loops over its formulas, its distributions, and its identities."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inside import _COMPUTE, _DELAY, _ERASURE, _FADING

from gdsec_jax.channel import (
    Channel,
    Conditions,
    Radio,
    at_snr,
    conditions,
    energy_j,
    ring_time_s,
    round_time_s,
    upload_s,
)

M = 5
MANY = 40_000  # draws, of which a mean is off by some thousandths
OF_EACH = {  # a number of its own for every worker
    "distance_m": np.array([50.0, 80.0, 120.0, 200.0, 350.0]),
    "power_w": np.array([0.1, 0.2, 0.05, 0.3, 0.01]),
    "noise_w_per_hz": np.array([1e-16, 2e-16, 1e-17, 3e-16, 5e-17]),
    "bandwidth_hz": np.array([1e6, 1e6, 2e6, 3e6, 1e5]),
    "path_loss_exponent": np.array([3.0, 2.5, 3.5, 2.0, 3.2]),
    "outage_snr": np.array([0.3, 0.1, 0.5, 1.0, 0.05]),
}
SCALARS = {name: values[1] for name, values in OF_EACH.items()}


def noisy(radio):
    """Everything at once."""
    erasures, stragglers = np.array([0.0, 0.2, 0.5, 0.9, 1.0]), np.arange(5.0)
    return Channel(radio, erasures, 0.5, stragglers, max_delay=3)


def draws(key, dtype):
    """The four draws of a round, of streams of their own."""
    fading, luck, delay, straggling = (
        jax.random.fold_in(key, stream)
        for stream in (_FADING, _ERASURE, _DELAY, _COMPUTE)
    )
    return (
        np.asarray(jax.random.exponential(fading, (M,), dtype), np.float64),
        np.asarray(jax.random.uniform(luck, (M,), dtype), np.float64),
        np.asarray(jax.random.randint(delay, (M,), 0, 4, jnp.int32)),
        np.asarray(jax.random.exponential(straggling, (M,), dtype), np.float64),
    )


def by_loops(numbers, access, key, dtype):
    """The conditions of `noisy` in a round, worker by worker, from the definitions."""
    fading, luck, delay, straggling = draws(key, dtype)
    rows = []
    for m in range(M):
        d, p, n0, w, eta, least = (np.broadcast_to(x, M)[m] for x in numbers.values())
        own_band = w / M if access == "fdma" else w
        snr = p * d ** (-eta) / (n0 * own_band)
        rate = own_band * math.log2(1 + snr * fading[m])
        floor = own_band * math.log2(1 + least * snr)
        lost = rate < floor or luck[m] < [0.0, 0.2, 0.5, 0.9, 1.0][m]
        used = max(rate, floor)
        compute = 0.5 + m * straggling[m]
        rows.append((not lost, delay[m], 1 / used, p / used, compute))
    return Conditions(*map(np.array, zip(*rows, strict=True)))


one_round = jax.jit(conditions, static_argnames="num_workers")


@functools.partial(jax.jit, static_argnames=("num_rounds", "num_workers"))
def rounds_of(drawn, num_rounds, num_workers=M):
    """The conditions of so many rounds, fields [K, M]."""
    keys = jax.random.split(jax.random.key(0), num_rounds)
    return jax.vmap(conditions, in_axes=(None, None, 0))(drawn, num_workers, keys)


@pytest.mark.parametrize("numbers", [OF_EACH, SCALARS], ids=["own", "same"])
@pytest.mark.parametrize("access", ["fdma", "tdma"])
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_conditions_are_the_formulas(numbers, access, double):
    dtype, tolerance = (np.float64, 1e-13) if double else (np.float32, 1e-5)
    with jax.enable_x64(double), jax.numpy_dtype_promotion("strict"):
        lossy = noisy(Radio(**numbers, access=access))
        lost = 0
        for number in range(20):
            key = jax.random.key(number)
            got, want = one_round(lossy, M, key), by_loops(numbers, access, key, dtype)
            lost += (~got.delivered).sum()
            for name, x, y in zip(got._fields, got, want, strict=True):
                expected = {"delivered": bool, "delay": np.int32}.get(name, dtype)
                assert x.dtype == expected and x.shape == (M,), name
                np.testing.assert_allclose(x, y, rtol=tolerance, err_msg=name)
        assert 20 < lost < 80


def test_the_draws_have_their_distributions():
    lossy = Channel(
        Radio(outage_snr=0.3), 0.2, compute_s=1.0, straggler_s=2.0, max_delay=4
    )
    drawn = rounds_of(lossy, MANY // 4, 4)
    delivered, delay, seconds, _, compute = (np.asarray(x).ravel() for x in drawn)
    # Five standard deviations of a frequency and of a mean are below these.
    near = 0.0125
    assert abs(delivered.mean() - 0.8 * math.exp(-0.3)) < near
    for late in range(5):
        assert abs((delay == late).mean() - 0.2) < near
    assert set(delay) == set(range(5))
    assert 1 <= compute.min() < 1.001
    assert abs(compute.mean() - 3) < 4 * near
    assert abs(compute.std() - 2) < 8 * near
    # The fading, floored at 0.3, from the rate.
    snr = float(Radio().snr(4)[0])
    fading = (2 ** (1 / (seconds.astype(float) * 0.25e6)) - 1) / snr
    assert fading.min() == pytest.approx(0.3, rel=1e-4)
    for level in (0.301, 1.0, 2.0, 4.0):
        assert abs((fading > level).mean() - math.exp(-level)) < near


@pytest.mark.parametrize("least", [0.05, 3.0])
def test_outages_have_their_probability(least):
    drawn = rounds_of(Channel(Radio(outage_snr=least)), MANY // 4, 4)
    probability = 1 - math.exp(-least)
    assert abs((~drawn.delivered).mean() - probability) < 0.0125
    lost = np.asarray(drawn.seconds_per_bit)[~np.asarray(drawn.delivered)]
    assert np.ptp(lost) == 0  # each is sent at R_out
    assert lost[0] == drawn.seconds_per_bit.max()


def test_draws_of_a_round_are_independent():
    lossy = Channel(Radio(outage_snr=1e-9), 0.5, straggler_s=1.0, max_delay=9)
    drawn = rounds_of(lossy, MANY // 4, 4)
    columns = [drawn.delivered, drawn.delay, 1 / drawn.seconds_per_bit, drawn.compute_s]
    columns = [np.asarray(x, np.float64).ravel() for x in columns]
    columns.append(np.roll(columns[2], 1))  # of another worker
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 0.025


@pytest.mark.parametrize(
    "change, moves",
    [
        ({"erasure_probability": 0.7}, {"delivered"}),
        ({"max_delay": 2}, {"delay"}),
        ({"compute_s": 9.0}, {"compute_s"}),
        ({"straggler_s": 9.0}, {"compute_s"}),
        ({"radio": Radio(power_w=2.0)}, {"seconds_per_bit", "joules_per_bit"}),
        ({"radio": None}, {"delivered", "seconds_per_bit", "joules_per_bit"}),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_change_moves_nothing_else(change, moves):
    before = Channel(Radio(), 0.3, straggler_s=1.0, max_delay=5)
    after = dataclasses.replace(before, **change)
    old, new = (rounds_of(x, 50)._asdict() for x in (before, after))
    assert {name for name in old if not np.array_equal(old[name], new[name])} == moves


def test_channels_that_do_nothing_or_all():
    drawn = rounds_of(Channel(erasure_probability=0.0), 500)
    assert drawn.delivered.all()
    for name in drawn._fields[1:]:
        assert not np.any(getattr(drawn, name)), name
    assert not rounds_of(Channel(erasure_probability=1.0), 500).delivered.any()


def setting(scale):
    """A channel of which every number depends on the setting."""
    radio = Radio(**{name: x * (1 + 0.1 * scale) for name, x in OF_EACH.items()})
    return Channel(radio, 0.1 * scale, 0.2 * scale, 0.3 * scale, max_delay=2)


def test_vmapped_settings_are_a_loop_over_them():
    scales = jnp.arange(1.0, 4.0)
    keys = jax.random.split(jax.random.key(0), 3)
    settings = jax.jit(jax.vmap(setting))(scales)
    assert settings.radio is not None and settings.radio.distance_m.shape == (3, M)

    def batch(axes):  # JAX takes a tree of axes, too, whatever numbers it holds
        of_all = jax.vmap(lambda x, key: conditions(x, M, key), in_axes=(axes, 0))
        return jax.jit(of_all)(settings, keys)

    inside = jax.jit(jax.vmap(lambda scale, key: conditions(setting(scale), M, key)))
    batches = batch(0), batch(jax.tree.map(lambda _: 0, settings)), inside(scales, keys)
    for i, scale in enumerate((1.0, 2.0, 3.0)):
        alone = one_round(setting(scale), M, keys[i])
        for together in batches:
            for x, y in zip(together, alone, strict=True):
                np.testing.assert_allclose(x[i], y, rtol=2e-6)


def test_other_numbers_compile_nothing_anew(compiled):
    one_round.clear_cache()
    settings = [jax.tree.map(jnp.asarray, setting(scale)) for scale in (1.0, 2.0)]
    one_round(settings[0], M, jax.random.key(0))
    assert "jit(conditions)" in compiled()
    one_round(settings[1], M, jax.random.key(1))
    assert compiled() == []


def test_jax_fills_trees_with_what_is_no_number():
    names = jax.tree.map(lambda _: "leaf", noisy(Radio()))
    assert names.radio.power_w == "leaf" and names.max_delay == 3
    shapes = jax.eval_shape(lambda: noisy(Radio(**OF_EACH)))
    assert shapes.radio.distance_m.shape == (M,)
    (path, _), *_ = jax.tree.leaves_with_path(noisy(Radio()))
    assert jax.tree_util.keystr(path) == ".radio.distance_m"


def time_by_loops(drawn, bits, participants, access):
    latest, total = 0.0, 0.0
    for m in range(M):
        sending = int(bits[m]) * float(drawn.seconds_per_bit[m])
        total += sending
        if drawn.delay[m] > 0 or not participants[m]:
            continue
        computing = float(drawn.compute_s[m])
        latest = max(latest, computing + (sending if access == "fdma" else 0.0))
    return latest + (0.0 if access == "fdma" else total)


@pytest.mark.parametrize("access", ["fdma", "tdma"])
def test_time_and_energy_are_the_formulas(access):
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(
        np.asarray, rounds_of(noisy(Radio(**OF_EACH, access=access)), 60)
    )
    bits = rng.integers(0, 2**20, (60, M)) * rng.integers(0, 2, (60, M))
    participants = rng.random((60, M)) < 0.7
    bits[~participants] = 0
    seconds = round_time_s(drawn, bits, participants, access)
    joules = energy_j(drawn, bits)
    assert seconds.dtype == joules.dtype == np.float64
    for k in range(60):
        one = jax.tree.map(lambda x, k=k: x[k], drawn)
        want = time_by_loops(one, bits[k], participants[k], access)
        alone = round_time_s(one, bits[k], participants[k], access)
        assert seconds[k] == pytest.approx(want, rel=1e-14)
        assert alone == seconds[k]
        want = sum(int(b) * float(j) for b, j in zip(bits[k], one[3], strict=True))
        assert joules[k] == pytest.approx(want, rel=1e-14)
    # Any axes before: settings, rounds, workers.
    stacked = jax.tree.map(lambda x: x.reshape(3, 20, M), drawn)
    args = (x.reshape(3, 20, M) for x in (bits, participants))
    again = round_time_s(stacked, *args, access)
    np.testing.assert_array_equal(again, seconds.reshape(3, 20))


@pytest.mark.parametrize("access", ["fdma", "tdma"])
def test_a_server_that_grants_waits_for_all_offers(access):
    drawn = given([1e-3, 2e-3, 1e-3], compute_s=[1.0, 2.0, 7.0])
    bits, granted = np.array([1000, 500, 0]), np.array([True, True, False])
    seconds = round_time_s(drawn, bits, np.ones(3, bool), access, granted=True)
    assert seconds == 7.0 + {"fdma": 1.0, "tdma": 2.0}[access]
    assert (
        round_time_s(drawn, bits, granted, access) == {"fdma": 3.0, "tdma": 4.0}[access]
    )


def given(seconds_per_bit, compute_s=0.0, delay=0):
    """Conditions with these numbers, at 2 W."""
    rate = np.asarray(seconds_per_bit, np.float64)
    shape = rate.shape
    return Conditions(
        np.ones(shape, bool),
        np.broadcast_to(delay, shape),
        rate,
        2 * rate,
        np.broadcast_to(compute_s, shape),
    )


def duration(drawn, bits, access):
    everyone = np.ones(drawn.delay.shape, bool)
    return round_time_s(drawn, bits, everyone, access)


def test_access_makes_no_difference_to_one_worker():
    access = "fdma", "tdma"
    fdma, tdma = (rounds_of(Channel(Radio(access=x)), 20, 1) for x in access)
    jax.tree.map(np.testing.assert_array_equal, fdma, tdma)
    bits = np.full((20, 1), 1000)
    np.testing.assert_array_equal(*(duration(fdma, bits, x) for x in access))


def test_the_band_in_shares_or_in_turns(x64):
    """At equal SNR a share of the band takes M times as long; where all uploads last
    equally long, all at once and one after the other then end together."""
    fdma, tdma = (
        rounds_of(Channel(at_snr(Radio(access=x, **SCALARS), M, 10.0)), 20)
        for x in ("fdma", "tdma")
    )
    np.testing.assert_allclose(fdma.seconds_per_bit, M * tdma.seconds_per_bit)
    bits = 1e3 / np.asarray(fdma.seconds_per_bit)  # fractions of one, for equality
    np.testing.assert_allclose(
        duration(fdma, bits, "fdma"), duration(tdma, bits, "tdma"), rtol=1e-12
    )
    # The same noise in the whole band: an M-th of the SNR, so longer in turns.
    whole = dataclasses.replace(at_snr(Radio(), M, 10.0), access="tdma")
    np.testing.assert_allclose(whole.snr(M), 10 / M)


def test_in_turns_sums_equal_uploads():
    drawn = given(np.full(M, 1e-3), compute_s=2.0)
    bits = np.full(M, 1000)
    assert duration(drawn, bits, "fdma") == pytest.approx(2 + 1)
    assert duration(drawn, bits, "tdma") == pytest.approx(2 + M)


def test_silence_costs_computing_alone():
    drawn = given([1.0, 1.0, np.inf], compute_s=[1.0, 1.0, 9.0])
    bits = np.array([2, 0, 0])  # nor does it matter that nothing would get through
    assert duration(drawn, bits, "fdma") == 9
    assert duration(drawn, bits, "tdma") == 11
    np.testing.assert_array_equal(upload_s(drawn, bits), [2, 0, 0])
    assert energy_j(drawn, bits) == 4


@pytest.mark.parametrize("access", ["fdma", "tdma"])
def test_who_is_late_is_not_waited_for(access):
    drawn = given([1.0, 5.0, 7.0], compute_s=[1.0, 1.0, 9.0], delay=[0, 1, 2])
    bits = np.array([2, 2, 2])
    airtime = 2 + 10 + 14
    in_turn = access == "tdma"  # then the others' uploads take their turns
    assert duration(drawn, bits, access) == (1 + airtime if in_turn else 3)
    assert energy_j(drawn, bits) == 2 * airtime
    late = drawn._replace(delay=np.array([1, 1, 2]))
    assert duration(late, bits, access) == (airtime if in_turn else 0)


def test_bits_are_counted_in_64_bits():
    bits = np.array([2**40 + 1, 2**52 + 1])
    np.testing.assert_array_equal(upload_s(given([1.0, 1.0]), bits), bits)


def test_units(x64):
    """Twice the power at twice the noise: the same rates, each bit for twice the
    joules. Twice the distance: 2^-eta of the SNR. Twice the band at half the noise:
    twice the rates."""
    radio = Radio(**SCALARS)
    old = conditions(Channel(radio), M, 0)
    np.testing.assert_allclose(
        old.joules_per_bit, SCALARS["power_w"] * old.seconds_per_bit
    )

    def changed(**factors):
        numbers = {name: SCALARS[name] * x for name, x in factors.items()}
        return dataclasses.replace(radio, **numbers)

    louder = conditions(Channel(changed(power_w=2, noise_w_per_hz=2)), M, 0)
    np.testing.assert_allclose(louder.seconds_per_bit, old.seconds_per_bit)
    np.testing.assert_allclose(louder.joules_per_bit, 2 * old.joules_per_bit)
    wider = conditions(Channel(changed(bandwidth_hz=2, noise_w_per_hz=0.5)), M, 0)
    np.testing.assert_allclose(wider.seconds_per_bit, old.seconds_per_bit / 2)
    np.testing.assert_allclose(
        changed(distance_m=2).snr(M), radio.snr(M) / 2 ** SCALARS["path_loss_exponent"]
    )


def test_the_default_noise_is_thermal():
    boltzmann, five_decibels = 1.380649e-23, 10**0.5
    assert Radio().noise_w_per_hz == pytest.approx(
        boltzmann * 290 * five_decibels, rel=0.01
    )
    # 20 dBm, less 101.5 dB, over -169 dBm/Hz in 100 kHz.
    decibels = 10 * np.log10(Radio().snr(10))
    np.testing.assert_allclose(decibels, 20 - 101.48 + 169 - 50, atol=0.01)


@pytest.mark.parametrize("access", ["fdma", "tdma"])
@pytest.mark.parametrize("snr_db", [-7.0, 25.0])
def test_at_snr_moves_the_median(x64, access, snr_db):
    radio = Radio(**OF_EACH, access=access)
    moved = at_snr(radio, M, snr_db)
    assert np.median(moved.snr(M)) == pytest.approx(10 ** (snr_db / 10), rel=1e-12)
    ratio = moved.snr(M) / radio.snr(M)
    np.testing.assert_allclose(ratio, ratio[0])
    assert moved.access == access
    traced = jax.jit(lambda x: at_snr(radio, M, x).noise_w_per_hz)(snr_db)
    np.testing.assert_allclose(traced, moved.noise_w_per_hz)
    several = jax.vmap(lambda x: at_snr(radio, M, x))(jnp.array([snr_db, 3.0]))
    np.testing.assert_allclose(several.noise_w_per_hz[0], moved.noise_w_per_hz)


ABOVE, LEAST = "expected a number above 0.", "expected a number at least 0."
OTHER = "expected a number or an array of them."
REFUSED = [
    *(
        (lambda own=own: Radio(**own), message)
        for own, message in (
            ({"distance_m": 0.0}, f"distance_m is 0, {ABOVE}"),
            ({"power_w": -0.1}, f"power_w is -0.1, {ABOVE}"),
            ({"bandwidth_hz": math.nan}, f"bandwidth_hz is nan, {ABOVE}"),
            ({"noise_w_per_hz": math.inf}, f"noise_w_per_hz is inf, {ABOVE}"),
            ({"path_loss_exponent": -1}, f"path_loss_exponent is -1, {LEAST}"),
            ({"outage_snr": np.array([1.0, 0.0])}, f"outage_snr is 0, {ABOVE}"),
            ({"access": "cdma"}, "access is 'cdma', did you mean tdma. Expected"),
            ({"power_w": [0.1, 0.2]}, rf"power_w is \[0.1, 0.2\], {OTHER}"),
            ({"power_w": "0.1"}, f"power_w is '0.1', {OTHER}"),
        )
    ),
    *(
        (lambda own=own: Channel(**own), message)
        for own, message in (
            ({"radio": "5G"}, "radio is '5G', expected a Radio or None."),
            ({"erasure_probability": 1.5}, r"erasure_probability is 1.5, .* \[0, 1\]."),
            (
                {"erasure_probability": True},
                "erasure_.* is True, expected real numbers.",
            ),
            ({"compute_s": -1.0}, f"compute_s is -1, {LEAST}"),
            ({"straggler_s": jnp.array([1.0, -2.0])}, f"straggler_s is -2, {LEAST}"),
            ({"max_delay": -1}, "max_delay is -1, expected .* from 0 to 2147483646."),
            ({"max_delay": 0.5}, "max_delay is 0.5, expected an integer"),
        )
    ),
    (lambda: at_snr(Radio(), M, 1e3), r"snr_db is 1000, .* in \[-100, 100\]."),
    (lambda: conditions(Channel(), 0, 0), "num_workers is 0, expected an integer"),
    (
        lambda: conditions(Channel(Radio(distance_m=np.ones(3))), M, 0),
        r"distance_m has shape \(3,\), expected \(\) or \(5,\).",
    ),
    (
        lambda: jax.eval_shape(
            lambda x: conditions(Channel(compute_s=x), M, 0), np.ones((5, 1))
        ),
        r"compute_s has shape \(5, 1\), expected \(\) or \(5,\).",
    ),
    (
        lambda: upload_s(given(np.ones((4, M))), np.ones(M, int)),
        r"bits has shape \(5,\), expected \(4, 5\), that of the conditions.",
    ),
    (
        lambda: round_time_s(given(np.ones(2)), [1, 1], [True, True], "x"),  # pyright: ignore
        "access is 'x', expected one of fdma, tdma.",
    ),
    (
        lambda: round_time_s(given(np.ones(2)), [1, 1], [True], "fdma"),
        r"awaited has shape \(1,\), expected \(2,\), that of the conditions.",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_out_of_range_is_told(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_an_integer_is_a_number_of_any_size():
    hertz = 5_000_000_000  # more than an int32, for which JAX would take it
    drawn = jax.jit(lambda x: conditions(x, M, 0))(Channel(Radio(bandwidth_hz=hertz)))
    wanted = conditions(Channel(Radio(bandwidth_hz=5e9)), M, 0)
    np.testing.assert_allclose(drawn.seconds_per_bit, wanted.seconds_per_bit, rtol=1e-5)


# An all-reduce on a ring


def test_a_ring_is_near_what_was_measured_on_real_links():
    """Percent of the time in which workers compute, of the repository diloco-measured:
    30,846,720 float32, 4 workers, 25.7 ms a step, H steps between two all-reduces.
    """
    measured = {  # by H; at 50, 200, 1,000 and 5,000 Mbit/s
        1: [0.07, 0.32, 1.74, 7.76],
        8: [0.55, 2.48, 12.35, 40.24],
        32: [2.41, 10.01, 36.01, 68.10],
        128: [11.55, 36.09, 71.52, 87.00],
    }
    rates = 1e6 * np.array([50, 200, 1000, 5000])
    seconds = ring_time_s(32 * 30_846_720, 4, rates)
    for steps, percent in measured.items():
        computing = 25.7e-3 * steps
        ratio = 100 * computing / (computing + seconds) / percent
        assert ratio.min() > 0.85 and ratio.max() < 1.29


def test_a_ring_of_one_has_nothing_to_do_and_wrong_numbers_are_said():
    assert ring_time_s(1e9, 1, 1e6) == 0
    np.testing.assert_allclose(ring_time_s([8.0, 0.0], 2, 4.0), [2.0, 0.0])
    with pytest.raises(ValueError, match="^bits_per_second is 0, expected"):
        ring_time_s(1e9, 4, 0)
    with pytest.raises(ValueError, match="^bits is -1, expected"):
        ring_time_s(-1, 4, 1e6)
    with pytest.raises(ValueError, match="num_workers is 0"):
        ring_time_s(1, 0, 1e6)

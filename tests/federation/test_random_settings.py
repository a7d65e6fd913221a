"""Ten thousand random settings of everything: none crashes, none is NaN unsaid."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import IDS, METHODS

import gdsec_jax
from gdsec_jax import channel, participation, robust
from gdsec_jax import server as servers

M, ROUNDS, SETTINGS = 3, 16, 350  # of each structure, one a method
SHAPE = (2, 2)  # a matrix, for methods that do nothing to a vector
DTYPES = ("float32", "bfloat16", "float64", "float16")
FACTOR = 1e6  # of the initial error: diverged

# Of what may be traced, the range of its decimal logarithm.
RANGES = {
    "xi": (-2, 4),
    "zeta": (-2, 2),
    "learning_rate": (-3, 1),
    "beta": (-3, 0),
    "eta": (-2, 0),
    "probability": (-2, 0),
    "step": (-3, 1),
    "snr_db": (-1, 1.5),
    "outage_snr": (-3, 1),
    "straggler_s": (-5, 0),
    "erasure": (-2, 0),
    "share": (-1.5, 0),
    "budget_bits": (0, 4),
    "max_norm_ratio": (0, 4),
    "noise": (-3, 1),
    "spikes": (-2, -0.5),
    "spike": (1, 37),
    "gaps": (-2, -0.5),
}
OF_METHODS = ("xi", "zeta", "learning_rate", "beta", "eta", "probability")


class Structure(NamedTuple):
    """What compiles a loop of its own."""

    method: int
    dtype: str
    absent: str
    max_delay: int
    grants: bool
    rule: str | None
    options: dict
    server: Callable
    judges: bool  # the norms of gradients
    access: str | None


def structure(number: int) -> Structure:
    """A random one for each method; dtypes come in turn."""
    rng = np.random.default_rng(number)
    method = METHODS[number]
    options = {
        "wire": str(rng.choice(["coo", "rle", "golomb", "dense"])),
        "reduction": str(rng.choice(["sum", "mean"])),
        "on_standstill": str(rng.choice(["send", "hold"])),
    }
    max_delay = int(rng.choice([0, 0, 3]))
    how = servers.total
    if max_delay:
        how = functools.partial(servers.late, max_delay)
    elif rng.random() < 0.3:
        rules = (robust.median, robust.trimmed_mean(0.34))
        how = functools.partial(servers.robust, rules[rng.integers(2)])
    if method.memory and rng.random() < 0.4:
        options["state_dtype"] = str(rng.choice(["bfloat16", "float16", "float32"]))
    judges = bool(rng.random() < 0.5)
    return Structure(
        method=number,
        dtype=DTYPES[number % len(DTYPES)],
        absent=str(rng.choice(["hold", "accumulate"])),
        max_delay=max_delay,
        grants=bool(rng.random() < 0.4),
        rule=[None, "uniform", "bernoulli", "round_robin"][rng.integers(4)],
        options=options,
        server=how,
        judges=judges,
        access=[None, "fdma", "tdma"][rng.integers(3)],
    )


def settings_of(number: int):
    """The numbers of as many settings, [SETTINGS] each; limits are among them."""
    rng = np.random.default_rng([number, 1])
    values = {
        name: 10 ** rng.uniform(*range_, SETTINGS) for name, range_ in RANGES.items()
    }
    none = rng.random((4, SETTINGS)) < 0.15
    for name, zero in zip(("xi", "erasure", "spikes", "gaps"), none, strict=True):
        values[name] = np.where(zero, 0.0, values[name])
    values["erasure"][0] = values["beta"][1] = values["share"][2] = 1.0
    return {name: jnp.asarray(x) for name, x in values.items()} | {
        "seed": jnp.arange(SETTINGS) + 1000 * number
    }


def algorithm_of(own: Structure, numbers):
    method = METHODS[own.method]
    arguments = {
        name: numbers[name] if name in OF_METHODS else value
        for name, value in method.arguments.items()
    }
    options = dict(own.options)
    ratio = numbers["max_norm_ratio"] if own.judges else None
    options["server"] = own.server(max_norm_ratio=ratio)
    if method.draws:
        options["key"] = numbers["seed"]
    return getattr(gdsec_jax, method.name)(M, **arguments, **options)


def sent_in(state):
    return gdsec_jax.last_round(state).parts[0]


def channel_of(own: Structure, numbers):
    radio = None
    if own.access:
        radio = channel.Radio(outage_snr=numbers["outage_snr"], access=own.access)
        radio = channel.at_snr(radio, M, numbers["snr_db"])
    return channel.Channel(
        radio, numbers["erasure"], straggler_s=numbers["straggler_s"],
        max_delay=own.max_delay,
    )  # fmt: skip


def gradients_of(theta, key, numbers):
    """Noisy ones of quadratics; now and then huge, or not finite."""
    wide = theta.astype(jnp.promote_types(theta.dtype, jnp.float32))
    curvature = jnp.asarray([[1.0, 0.1], [0.5, 2.0]]).astype(wide.dtype)
    each = jnp.arange(1.0, M + 1, dtype=wide.dtype)[:, None, None]
    noise, spikes, gaps, which = jax.random.split(key, 4)
    g = curvature * wide - each
    g += numbers["noise"] * jax.random.normal(noise, g.shape, g.dtype)
    spiked = jax.random.bernoulli(spikes, numbers["spikes"], (M, 1, 1))
    g = jnp.where(spiked, g * numbers["spike"].astype(g.dtype), g)
    gone = jax.random.bernoulli(gaps, numbers["gaps"], (M, 1, 1))
    gone &= jax.random.bernoulli(which, 0.5, g.shape)
    g = jnp.where(gone, jnp.where(each > 1, jnp.nan, -jnp.inf), g)
    error = (curvature * jnp.square(wide - each.mean() / curvature)).sum()
    return g.astype(theta.dtype), error


def finite(tree):
    """Whether all floats are."""
    good = jnp.ones((), bool)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            good &= jnp.isfinite(leaf).all()
    return good


def run_of(own: Structure, numbers):
    """As `simulate` runs a setting: until it diverges."""
    algorithm, link = algorithm_of(own, numbers), channel_of(own, numbers)
    given = {"absent": own.absent}
    if own.grants:
        given["grant"] = participation.largest_energy(numbers["budget_bits"])
    draw = own.rule and getattr(participation, own.rule)(M, numbers["share"])

    def one(carry, k):
        theta, state, initial, diverged = carry
        key = jax.random.fold_in(jax.random.key(numbers["seed"]), k)
        keys = jax.random.split(key, 3)
        gradients, _ = gradients_of(theta, keys[0], numbers)
        met = channel.conditions(link, M, keys[1])
        fate = given | {"delivered": met.delivered}
        if own.max_delay:
            fate["delay"] = met.delay
        if draw:
            fate["active"] = draw(keys[2], k)
        update, new = algorithm.update(gradients, state, theta, **fate)
        moved = theta - (numbers["step"] * update).astype(theta.dtype)
        _, error = gradients_of(moved, keys[0], numbers)
        keep = lambda old, new: jnp.where(diverged, old, new)  # noqa: E731
        theta, new = jax.tree.map(keep, (theta, state), (moved, new))
        bad = ~jnp.isfinite(error) | (error > FACTOR * initial)
        return (theta, new, initial, diverged | bad), (~diverged, sent_in(new), met)

    theta = jnp.zeros(SHAPE, own.dtype)
    _, initial = gradients_of(theta, jax.random.key(0), numbers)
    start = theta, algorithm.init(theta), initial, jnp.zeros((), bool)
    (theta, state, _, diverged), seen = jax.lax.scan(one, start, jnp.arange(ROUNDS))
    return finite((theta, state)), diverged, seen


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("number", range(len(METHODS)), ids=IDS)
def test_random_settings(number):
    own = structure(number)
    numbers = settings_of(number)
    loop = jax.jit(jax.vmap(lambda values: run_of(own, values)))
    sound, diverged, (running, sent, met) = jax.device_get(loop(numbers))
    unsaid = np.flatnonzero(~(sound | diverged))
    assert not unsaid.size, (own, {n: x[unsaid[0]] for n, x in numbers.items()})
    assert diverged.sum() < SETTINGS, diverged.sum()
    # Of these a step is as long as it is, whatever the gradient.
    bounded = METHODS[number].name in ("sign_majority", "demo", "ef21_muon")
    assert diverged.any() or bounded

    bits = np.asarray(sent.uploads.bits())
    assert (bits >= 0).all() and not bits[~sent.participants].any()
    assert not (sent.participants & ~sent.computed).any()
    assert not (sent.dropped & ~sent.computed).any()
    lost = (bits > 0) & ~met.delivered
    np.testing.assert_array_equal(sent.lost[running], lost[running])
    access = own.access or "fdma"
    for taken in (
        channel.energy_j(met, bits),
        channel.round_time_s(met, bits, sent.awaited, access),
    ):
        assert np.isfinite(taken).all() and (taken >= 0).all()

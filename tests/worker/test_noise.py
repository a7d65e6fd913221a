"""Noise of a worker's own in every round, and gradients of samples that are clipped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy
from inside import _halves, _trees
from meshes import on_devices

import gdsec_jax
from gdsec_jax import worker

M, ROUNDS, D = 4, 16, 3000
ALARM = 1e-6  # how often a test here fails by chance, were the key another one


def drawn(deviation=0.5, rounds=ROUNDS, tree=lambda x: x, key=3):
    """The noise of all workers and rounds, [rounds, M, D]."""
    piece = worker.gaussian_noise(1.0, deviation)
    clock = gdsec_jax.clock(M, key=key)
    params = jnp.zeros(D)
    state, found = clock.init(params), []
    for _ in range(rounds):
        _, own, state = clock.begin(state, params)
        noised = jax.vmap(
            lambda key: piece.update(tree(params), piece.init(params), key=key)[0]
        )
        found.append(noised(own["key"]))
    return jax.tree.map(lambda *x: np.stack(x), *found)


def test_noise_is_gaussian_and_of_its_deviation():
    z = drawn(0.5).ravel()
    far = scipy.stats.norm.isf(ALARM / 2)
    assert abs(z.mean()) < far * 0.5 / np.sqrt(z.size)
    assert abs(z.var() / 0.25 - 1) < far * np.sqrt(2 / z.size)
    assert scipy.stats.kstest(z / 0.5, "norm").pvalue > ALARM


def test_noise_of_workers_and_rounds_and_leaves_is_independent():
    rows = drawn(1.0).reshape(-1, D)
    with_leaf = drawn(1.0, 1, lambda x: {"a": x, "b": x}, key=4)
    rows = np.concatenate([rows, with_leaf["a"][0], with_leaf["b"][0]])
    correlated = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
    far = scipy.stats.norm.isf(ALARM / 2 / correlated.size)
    assert np.abs(correlated).max() * np.sqrt(D) < far


def test_a_quantiser_behind_it_draws_apart():
    """Of one key noise and the quantiser's coins would be made of the same bits."""
    key, zeros = jax.random.key(0), jnp.zeros(D)
    noise = worker.gaussian_noise(1.0, 1.0)
    z = noise.update(zeros, noise.init(zeros), key=key)[0]
    coins = jax.random.uniform(key, (D,))
    far = scipy.stats.norm.isf(ALARM / 2)
    assert abs(np.corrcoef(z, coins)[0, 1]) * np.sqrt(D) < far


def test_central_noise_adds_up_to_that_of_one_server():
    params, many = jnp.zeros(5000), 16
    noise = worker.gaussian_noise(2.0, 0.5, trust="central")
    algorithm = gdsec_jax.gd(many, noise=noise, key=0)
    total, state = algorithm.update(
        jnp.zeros((many, 5000)), algorithm.init(params), params
    )
    far = scipy.stats.norm.isf(ALARM / 2)
    assert abs(np.var(total) - 1) < far * np.sqrt(2 / 5000)
    assert state.workers[0].deviation.tolist() == [1.0] * many


def test_batches_of_workers_and_devices_have_the_same_noise():
    program = """
    noise = worker.gaussian_noise(1.0, 1.0)
    def run(batch=None, mesh=None):
        problem = gdsec_jax.problems.ridge(x, y, 8)
        method = gdsec_jax.gdsec(8, xi=0.5, noise=noise, key=1, reduction="mean")
        optimizer = optax.chain(method, optax.sgd(0.01))
        done = gdsec_jax.simulate(
            problem, optimizer, 5, worker_batch=batch, mesh=mesh)
        return done.params, done.entries
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((80, 6)), rng.standard_normal(80)
    one, entries = run()
    for other, sent in (run(batch=2), run(mesh=jax.make_mesh((4,), ("devices",)))):
        np.testing.assert_allclose(other, one, rtol=1e-10)
        assert (sent == entries).all()
    """
    on_devices(program)


def test_no_noise_and_no_clip_are_the_run_without_bit_for_bit():
    g = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8)), jnp.float32)
    params = jnp.zeros(8)
    plain = gdsec_jax.gdsec(3, xi=1.0)
    silent = gdsec_jax.gdsec(3, xi=1.0, noise=worker.gaussian_noise(0.0, 1.0))
    by_hand = gdsec_jax.federate(
        worker.chain(worker.gaussian_noise(0.0, 1.0), worker.whole()), 3
    )
    state, quiet, hand = (each.init(params) for each in (plain, silent, by_hand))
    for k in range(3):
        one, state = plain.update(g + k, state, params + k)
        other, quiet = silent.update(g + k, quiet, params + k)
        assert (np.asarray(one) == np.asarray(other)).all()
        third, hand = by_hand.update(g + k, hand, params + k)
        assert (np.asarray(third) == np.asarray((g + k).sum(0))).all()

    def traced(multiplier):
        noise = worker.gaussian_noise(multiplier, 1.0)
        algorithm = gdsec_jax.gdsec(3, xi=1.0, noise=noise, key=0)
        return algorithm.update(g, algorithm.init(params), params)[0]

    swept = jax.vmap(traced)(jnp.asarray([0.0, 1.0]))
    plain_update, _ = plain.update(g, plain.init(params), params)
    assert (np.asarray(swept[0]) == np.asarray(plain_update)).all()
    assert not (np.asarray(swept[1]) == np.asarray(plain_update)).any()


def test_the_ledger_counts_the_rounds_in_which_a_worker_computes():
    noise = worker.gaussian_noise(1.0, 1.0)
    algorithm = gdsec_jax.top_j(3, k=2, noise=noise, key=0)
    params = jnp.zeros(4)
    state = algorithm.init(params)
    for active in ([1, 1, 0], [1, 0, 0], [1, 1, 0]):
        _, state = algorithm.update(
            jnp.ones((3, 4)), state, params, active=jnp.asarray(active, bool)
        )
    assert state.workers[0].rounds.tolist() == [3, 2, 0]


def test_the_ledger_counts_messages_that_are_dropped_for_what_noise_made_of_them():
    noise = worker.gaussian_noise(2.0, 2e4)  # beyond float16 at times
    algorithm = gdsec_jax.top_j(2, k=2, noise=noise, key=0)
    params, dropped = jnp.zeros(3, jnp.float16), 0
    state, update = algorithm.init(params), jax.jit(algorithm.update)
    grads = jnp.ones((2, 3), jnp.float16)
    for _ in range(8):
        _, state = update(grads, state, params)
        dropped += int(gdsec_jax.last_round(state).dropped.sum())
    assert 0 < dropped < 16
    assert state.workers[0].rounds.tolist() == [8, 8]


@pytest.mark.parametrize("half", [_halves.server_half, _halves.worker_half])
def test_a_server_apart_that_knows_the_key_is_refused(half):
    with pytest.raises(ValueError, match="adds noise, expected none: workers draw"):
        half(gdsec_jax.gd(2, noise=NOISE, key=0))
    half(gdsec_jax.gd(2, noise=worker.gaussian_noise(0.0, 1.0)))


SCALE = 2.0**20  # of the integers that masks hide


def masked(messages, rng):
    """Messages as integers modulo 2^32 behind masks that cancel, and bare."""
    quantised = np.round(np.asarray(messages, np.float64) * SCALE).astype(np.int64)
    sent = quantised.astype(np.uint32)
    for m in range(len(sent)):
        for other in range(m):
            mask = rng.integers(0, 2**32, sent.shape[1], dtype=np.uint32)
            sent[m] += mask
            sent[other] -= mask
    return sent, quantised


@pytest.mark.parametrize("name", ["gd", "gdsec"])
def test_secure_aggregation_of_a_runs_messages_is_the_plain_run(name):
    """Integers wrap, their sum does not: of what each worker sends none is seen."""
    beta, step, length, rounds = 0.1, 0.05, 40, 60
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, length))
    problem = gdsec_jax.problems.ridge(x, x.sum(1), M)
    trust = "central" if name == "gd" else "local"
    noise = worker.gaussian_noise(1.0, 0.05, trust=trust)
    plain, piece = gdsec_jax.gd(M, noise=noise, key=3), noise
    if name == "gdsec":
        plain = gdsec_jax.gdsec(M, 4.0, beta, floor=2.0, noise=noise, key=3)
        censor = worker.censor(4.0 / M, floor=2.0 * 0.05)
        memory = worker.gradient_difference(worker.error_feedback(censor), beta)
        piece = worker.chain(noise, memory)
    clock = gdsec_jax.clock(M, key=3)

    @jax.jit
    def say(params, ticking, states):
        common, own, ticking = clock.begin(ticking, params)
        common |= {"like": params, "num_workers": M}

        def one(g, state, own):
            return piece.update(g, state, params, **common, **own)

        messages, states = jax.vmap(one)(problem.gradients(params), states, own)
        return messages, ticking, states

    at = params = problem.init_params
    state, ticking = plain.init(at), clock.init(at)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * M), piece.init(at))
    known, seen = jnp.zeros(length), []
    update = jax.jit(plain.update)
    for _ in range(rounds):
        direction, state = update(problem.gradients(params), state, params)
        params = params - step * direction
        messages, ticking, states = say(at, ticking, states)
        sent, quantised = masked(messages, rng)
        total = sent.sum(0, dtype=np.uint32).view(np.int32)
        assert (total == quantised.sum(0)).all()
        at = at - step * (known + jnp.float32(total / SCALE))
        known += (beta if name == "gdsec" else 0) * jnp.float32(total / SCALE)
        seen.append((sent.view(np.int32), quantised))
    np.testing.assert_allclose(at, params, rtol=1e-3, atol=1e-3)
    assert np.abs(params).max() > 0.5  # it has learned something
    sent, quantised = (np.concatenate(x, axis=1) for x in zip(*seen, strict=True))
    far = scipy.stats.norm.isf(ALARM / 2)
    for m in range(M):
        correlated = np.corrcoef(sent[m], quantised[m])[0, 1]
        assert abs(correlated) * np.sqrt(quantised[m].size) < far
    shares = (quantised != 0).mean()
    assert shares == 1 if name == "gd" else 0.01 < shares < 0.9


@pytest.mark.parametrize("name", ["low_rank", "power_sgd"])
def test_factors_are_made_of_noised_gradients(name):
    """Of the whole rank they are the noised gradients, as gradient descent has them."""
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.standard_normal((3, 4, 2)), jnp.float32)
    params = jnp.zeros((4, 2))
    noise = worker.gaussian_noise(1.0, 0.5)
    method = getattr(gdsec_jax, name)(3, rank=2, noise=noise, key=5)
    gdsec_jax.check(optax.chain(method, optax.sgd(0.1)), params, 3)
    descent = gdsec_jax.gd(3, noise=noise, key=5)
    one, state = method.update(grads, method.init(params), params)
    other, _ = descent.update(grads, descent.init(params), params)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert np.abs(one - grads.sum(0)).min() > 1e-4
    (counted,) = _trees.of_type(state, worker.GaussianNoiseState)
    assert counted.rounds.tolist() == [1, 1, 1]


def loss(params, sample):
    x, y = sample
    return 0.5 * (x @ params["w"] + params["b"] - y) ** 2


def clipped_by_numpy(params, x, y, weight, clip, scope):
    """In float64, from the formula."""
    residual = x @ params["w"] + params["b"] - y
    leaves = {"w": residual[:, None] * x, "b": residual}
    square = {n: np.square(g.reshape(len(g), -1)).sum(1) for n, g in leaves.items()}
    found = {}
    for name, g in leaves.items():
        norm = np.sqrt(sum(square.values()) if scope == "message" else square[name])
        most = clip if scope == "message" else clip / np.sqrt(2)
        factor = weight * np.minimum(1, most / norm)
        found[name] = (factor.reshape(-1, *[1] * (g.ndim - 1)) * g).sum(0)
    return found


@pytest.mark.parametrize("scope", ["message", "leaf"])
@pytest.mark.parametrize("microbatch", [None, 1, 4, 100])
def test_clipping_follows_its_formula(scope, microbatch):
    rng = np.random.default_rng(1)
    x, y, weight = rng.normal(size=(11, 3)), rng.normal(size=11), rng.random(11)
    weight[7:] = 0  # microbatches that only these are in are left out
    params = {"w": rng.normal(size=3), "b": rng.normal()}
    gradient = worker.clip_per_example(loss, 1.0, microbatch=microbatch, scope=scope)
    given = jax.tree.map(jnp.float32, params)
    ours = jax.jit(gradient)(
        given, (jnp.float32(x), jnp.float32(y)), jnp.float32(weight)
    )
    expected = clipped_by_numpy(params, x, y, weight, 1.0, scope)
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6)


def test_an_infinite_clip_is_the_gradient_and_a_bad_sample_counts_nothing():
    x, y = jnp.ones((3, 2)), jnp.asarray([1.0, 2.0, 3.0])
    params = {"w": jnp.zeros(2), "b": jnp.zeros(())}
    whole = jax.grad(lambda p: jax.vmap(loss, (None, 0))(p, (x, y)).sum())(params)
    ours = worker.clip_per_example(loss, np.inf)(params, (x, y))
    np.testing.assert_allclose(ours["w"], whole["w"], rtol=1e-6)
    for bad in (np.nan, np.inf):
        gradient = worker.clip_per_example(loss, 1.0)
        others = gradient(params, (x[:2], y[:2]))
        ours = gradient(params, (x, y.at[2].set(bad)))
        assert ours["w"].tolist() == others["w"].tolist()
    zero = worker.clip_per_example(loss, 1.0)(params, (x, jnp.zeros(3)))
    assert zero["w"].tolist() == [0.0, 0.0]


@pytest.mark.filterwarnings("ignore:optax.global_norm:DeprecationWarning")
def test_clipping_equals_that_of_jax_privacy():
    clipping = pytest.importorskip("jax_privacy.clipping")
    rng = np.random.default_rng(2)
    x, y = jnp.float32(rng.normal(size=(12, 3))), jnp.float32(rng.normal(size=12))
    params = {"w": jnp.float32(rng.normal(size=3)), "b": jnp.float32(0.3)}
    theirs = clipping.clipped_grad(
        loss, l2_clip_norm=0.7, keep_batch_dim=False, microbatch_size=4
    )
    ours = worker.clip_per_example(loss, 0.7, microbatch=4)

    def of_workers(gradient):
        shared = (x.reshape(3, 4, 3), y.reshape(3, 4))
        return jax.vmap(gradient, (None, 0))(params, shared)

    for one, other in zip(
        jax.tree.leaves(of_workers(ours)),
        jax.tree.leaves(of_workers(theirs)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [0, 0.0, -1.0, np.nan, "1", None, True, [1.0]])
def test_a_clip_that_is_none(clip):
    with pytest.raises(ValueError, match="clip is .*, expected a number above 0"):
        worker.clip_per_example(loss, clip)


def pipeline(*pieces, **options):
    return gdsec_jax.federate(worker.chain(*pieces), 2, key=0, **options)


NOISE = worker.gaussian_noise(1.0, 1.0)
CENTRAL = worker.gaussian_noise(1.0, 1.0, trust="central")
BEHIND = "gaussian_noise stands behind another piece"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pipeline(worker.top_k(1), NOISE), BEHIND),
        (lambda: pipeline(worker.momentum(0.5), NOISE), BEHIND),
        (lambda: pipeline(NOISE, worker.error_feedback(worker.chain(NOISE))), BEHIND),
        (lambda: pipeline(worker.error_feedback(worker.chain(NOISE))), BEHIND),
        (
            lambda: pipeline(
                worker.gradient_difference(worker.chain(NOISE, worker.sign()))
            ),
            BEHIND,
        ),
        (
            lambda: pipeline(optax.add_noise(0.1, 0.5, key=0)),
            "add_noise draws the same",
        ),
        (lambda: gdsec_jax.gdsec(2, 1.0, noise=NOISE), "key is None"),
        (
            lambda: gdsec_jax.gd(2, noise=worker.sign(), key=0),
            "noise is .*gaussian_noise",
        ),
        (lambda: pipeline(NOISE, noise=NOISE), "has its own"),
        (
            lambda: gdsec_jax.gd(2, noise=NOISE, key=0, weights=[1, 2]),
            "weights are given",
        ),
        (
            lambda: gdsec_jax.gd(
                2, noise=NOISE, key=0, server=gdsec_jax.server.total(max_norm_ratio=3.0)
            ),
            "max_norm_ratio is 3.0 beside noise",
        ),
        (
            lambda: gdsec_jax.top_j(2, k=1, noise=CENTRAL, key=0),
            '"central" trust and some',
        ),
        (
            lambda: gdsec_jax.gd(
                2, noise=CENTRAL, key=0, server=gdsec_jax.server.late(1)
            ),
            '"central" trust and the server is late',
        ),
        (lambda: pipeline(CENTRAL, worker.sign()), '"central" trust and something'),
        (lambda: worker.gaussian_noise(-1.0, 1.0), "multiplier"),
        (lambda: worker.gaussian_noise(1.0, 0.0), "sensitivity"),
        (lambda: worker.gaussian_noise(1.0, 1.0, trust="me"), "trust"),
        (lambda: gdsec_jax.gdsec(2, 1.0, floor=2.0), "floor is 2.0 and noise is None"),
    ],
)
def test_what_would_guarantee_nothing_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        gdsec_jax.check(optax.chain(make(), optax.sgd(0.1)), jnp.zeros(3), 2)


def test_nobody_is_granted_by_noised_offers():
    algorithm = gdsec_jax.gd(2, noise=NOISE, key=0)
    params = jnp.zeros(2)
    with pytest.raises(ValueError, match="grant is given beside noise"):
        algorithm.update(
            jnp.ones((2, 2)),
            algorithm.init(params),
            params,
            grant=lambda offers: offers.energy > 0,
        )


def test_a_floor_is_the_least_threshold():
    v, change = jnp.asarray([1.0, -3.0, 2.0]), jnp.asarray([0.0, 0.0, 9.0])
    piece = worker.censor(1.0, floor=2.0)
    message, _ = piece.update(v, piece.init(v), v, params_change=change, round=0)
    assert message.tolist() == [0.0, -3.0, 0.0]
    # In GD-SEC it is in deviations of the noise, whatever the number of workers.
    noise = worker.gaussian_noise(0.1, 0.01)
    algorithm = gdsec_jax.gdsec(2, xi=0.0, floor=5.0, noise=noise, key=0)
    g = jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    _, state = algorithm.update(g, algorithm.init(v[:2]), v[:2])
    assert gdsec_jax.last_round(state).entries.tolist() == [1, 1]


def noised(num_workers=2, **options):
    return gdsec_jax.gd(num_workers, noise=NOISE, key=0, **options)


def jitted():
    """What is in front of it cannot be seen."""
    inner = noised()
    return optax.GradientTransformation(inner.init, jax.jit(inner.update))


STEP = optax.sgd(0.1)
FRONT = "a stage stands in front of an algorithm that adds noise"
HALVED = optax.masked(optax.scale(0.5), {"a": True, "b": False})
BY_NAME = {"a": "noised", "b": "summed"}
SUMMED = optax.stateless(lambda g, _: jax.tree.map(lambda x: x.sum(0), g))


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.scale(0.5), noised(), STEP),
        optax.chain(HALVED, noised(), STEP),
        optax.chain(optax.stateless(jax.jit(lambda g, _: g)), jitted(), STEP),
        optax.chain(gdsec_jax.local(2, STEP, 2), noised(), STEP),
        optax.partition({"noised": noised(), "summed": SUMMED}, BY_NAME),
    ],
)
def test_nothing_stands_in_front_of_noise(optimizer):
    params = {"a": jnp.zeros(3), "b": jnp.zeros(2)}
    with pytest.raises(ValueError, match=FRONT):
        gdsec_jax.check(optimizer, params, 2)


def test_noise_stands_first_and_of_one_worker_too():
    for batch in (None, 1):
        good = optax.chain(noised(), optax.trace(0.9), STEP)
        gdsec_jax.check(good, jnp.zeros(3), 2, batch)
    with pytest.raises(ValueError, match=FRONT):
        gdsec_jax.check(optax.chain(optax.scale(9.0), noised(1)), jnp.zeros(3), 1)


@pytest.mark.parametrize("stage", [optax.polyak_sgd(1.0), optax.lbfgs()])
def test_no_stage_is_told_the_loss_beside_noise(stage):
    with pytest.raises(ValueError, match="adds noise and a stage asks for value"):
        gdsec_jax.check(optax.chain(noised(), stage), jnp.zeros(3), 2)

"""Workers that train: how far each goes, by formulas written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from cases import slow_but, tree_params
from meshes import on_devices

import gdsec_jax
from gdsec_jax import WorkerLosses, problems, worker

M = 3


def squares(params, target, key):
    del key
    return 0.5 * jnp.sum((params - target) ** 2)


def targets(seed=0, size=4):
    return np.random.default_rng(seed).standard_normal((M, size))


def step(optimizer):
    @jax.jit
    def one(params, state, data):
        updates, state = optimizer.update(WorkerLosses(squares, data), state, params)
        return optax.apply_updates(params, updates), state

    return one


@pytest.mark.usefixtures("x64")
def test_fed_prox_pulls_each_worker_to_the_common_parameters():
    rate, mu, H = 0.1, 0.5, 4
    a, params = targets(), np.ones(4)
    trained = gdsec_jax.local(M, optax.sgd(rate), H, proximal=mu)
    moved, _ = trained.update(
        WorkerLosses(squares, a), trained.init(params), jnp.asarray(params)
    )
    ends = np.tile(params, (M, 1))
    for _ in range(H):
        ends -= rate * (ends - a + mu * (ends - params))
    np.testing.assert_allclose(moved, params - ends, rtol=1e-13)
    with pytest.raises(
        ValueError, match="^proximal is -1, expected a number at least 0"
    ):
        gdsec_jax.local(M, optax.sgd(rate), H, proximal=-1.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("overlap, merging", [(0, None), (2, None), (2, 0.5), (0, 0.3)])
def test_streaming_diloco_is_its_formulas(overlap, merging):
    """Of four entries two a round, in turn; each fragment has a momentum of its own."""
    rate, H, P, outer, beta = 0.1, 6, 2, 0.7, 0.9
    options = {"fragments": P, "overlap": overlap, "merging": merging}
    optimizer = optax.chain(
        gdsec_jax.local(M, optax.sgd(rate), H, **options),
        gdsec_jax.federate(worker.fragment(P), M, reduction="mean"),
        gdsec_jax.in_fragments(optax.sgd(outer, momentum=beta, nesterov=True), P),
    )
    a = targets()
    theta = params = np.ones(4)
    state, one = optimizer.init(jnp.asarray(params)), step(optimizer)
    own, velocity, kept = np.ones((M, 4)), np.zeros(4), merging or 0.0
    for k in range(7):
        params, state = one(params, state, a)
        for number in range(H // P):
            if number == overlap and k:
                last = np.arange(4) // 2 == (k - 1) % P
                own = np.where(last, kept * own + (1 - kept) * theta, own)
            own -= rate * (own - a)
        now = np.arange(4) // 2 == k % P
        change = (theta - own).mean(0)
        velocity = np.where(now, change + beta * velocity, velocity)
        theta = np.where(now, theta - outer * (change + beta * velocity), theta)
        np.testing.assert_allclose(params, theta, rtol=1e-12)
        assert gdsec_jax.last_round(state).bits.tolist() == [2 * 64] * M
    with pytest.raises(
        ValueError, match="^steps is 6, expected a multiple of the frag"
    ):
        gdsec_jax.local(M, optax.sgd(rate), 6, fragments=4)
    for wrong, words in (
        ({"fragments": 2, "overlap": 3}, "^overlap is 3, expected"),
        ({"overlap": 1}, "fragments is 1, expected 2 or more"),
        ({"merging": 0.0}, "fragments is 1, expected 2 or more"),
        ({"fragments": 2, "merging": 1.5}, "^merging is 1.5, expected"),
    ):
        with pytest.raises(ValueError, match=words):
            gdsec_jax.local(M, optax.sgd(rate), 6, **wrong)


def test_numbers_of_fragments_that_differ_are_refused():
    def checked(cut, sent, stepped):
        optimizer = optax.chain(
            gdsec_jax.local(M, optax.sgd(0.1), 6, fragments=cut),
            gdsec_jax.federate(worker.fragment(sent), M, reduction="mean"),
            gdsec_jax.in_fragments(optax.sgd(1.0), stepped),
        )
        gdsec_jax.check(optimizer, jnp.ones(4), M)

    for alike in ((2, 2, 2), (3, 1, 1), (1, 2, 1)):  # one fragment is the whole
        checked(*alike)
    for cut, sent, stepped in ((2, 3, 1), (2, 1, 3), (1, 2, 3), (2, 2, 3)):
        with pytest.raises(
            ValueError, match="^the optimizer has 2 and 3 fragments, ex"
        ):
            checked(cut, sent, stepped)
    parts = {x: gdsec_jax.federate(worker.fragment(x), M) for x in (2, 3)}
    apart = optax.partition(parts, {"a": 2, "b": 3})  # each in a turn of its own
    gdsec_jax.check(apart, {"a": jnp.ones(4), "b": jnp.ones(5)}, M)


def test_an_overlap_draws_every_step_anew():
    """And counts none twice: where nothing is merged, the same steps in two parts."""

    def noisy(params, target, key):
        return jnp.sum(params * jax.random.normal(key, params.shape)) + 0 * target

    losses = WorkerLosses(noisy, jnp.zeros(M), jax.random.key(3))
    params, moved = jnp.zeros(4), []
    for overlap in (0, 2):
        stage = gdsec_jax.local(
            M, optax.adam(0.1), 6, fragments=2, overlap=overlap, merging=1.0
        )
        far, state = stage.update(losses, stage.init(params), params)
        moved.append(far)
        assert state.inner[0].count.tolist() == [3] * M
    np.testing.assert_allclose(*moved, rtol=1e-6)


def test_who_is_absent_keeps_its_state_and_reset_forgets():
    a, params = targets(), jnp.ones(4)
    active = jnp.array([True, False, True])
    local = gdsec_jax.local(M, optax.adam(0.1), 2)
    state, losses = local.init(params), WorkerLosses(squares, a)
    _, after = local.update(losses, state, params, active=active)
    counts = after.inner[0].count
    assert counts.tolist() == [2, 0, 2] and not after.inner[0].mu[1].any()
    _, awake = local.update(losses, state, params, active=active, absent="accumulate")
    assert awake.inner[0].count.tolist() == [2, 2, 2]
    anew = gdsec_jax.local(M, optax.adam(0.1), 2, reset=True)
    moved, state = anew.update(losses, anew.init(params), params)
    again, state = anew.update(losses, state, params)
    np.testing.assert_array_equal(moved, again)
    assert state.inner == ()
    kept, _ = local.update(losses, after, params)
    assert (kept[0] != moved[0]).any()
    np.testing.assert_array_equal(kept[1], moved[1])  # who was absent has a fresh one


def test_a_gradient_that_is_not_finite_can_be_kept_out():
    """The worker goes nowhere, which is sent; without, it is dropped, and held."""
    a, params = jnp.asarray(targets(), jnp.float32).at[1].set(jnp.nan), jnp.ones(4)
    for inner, finite in (
        (optax.adam(0.1), False), (optax.apply_if_finite(optax.adam(0.1), 5), True)
    ):  # fmt: skip
        optimizer = optax.chain(
            gdsec_jax.local(M, inner, 2), gdsec_jax.gd(M, reduction="mean")
        )
        state = optimizer.init(params)
        updates, state = optimizer.update(WorkerLosses(squares, a), state, params)
        assert jnp.isfinite(updates).all()
        said = gdsec_jax.last_round(state)
        assert said.participants.tolist() == [True, finite, True]
        states = jax.tree.leaves(state[0].inner)
        assert all(jnp.isfinite(x).all() for x in states)


def test_what_the_inner_optimizer_asks_for_it_gets():
    """The Polyak step needs the value, a line search the function."""
    a, params = targets(), jnp.ones(4)
    for inner, far in (
        (optax.polyak_sgd(), 0.5),  # of a square half of the way
        (optax.chain(optax.scale(-1.0), optax.scale_by_backtracking_linesearch(9)), 1),
    ):
        local = gdsec_jax.local(M, inner, 1)
        moved, _ = local.update(WorkerLosses(squares, a), local.init(params), params)
        np.testing.assert_allclose(moved, far * (params - a), rtol=1e-5)


def test_each_worker_and_step_draws_for_itself():
    def noisy(params, target, key):
        return jnp.sum(params * jax.random.normal(key, params.shape)) + 0 * target

    data, params = jnp.zeros(M), jnp.zeros(2)
    key = jax.random.key(3)
    moved = []
    for size in (None, 2):  # workers at a time
        local = gdsec_jax.local(M, optax.sgd(1.0), 2)
        losses = WorkerLosses(noisy, data, key, size)
        moved.append(local.update(losses, local.init(params), params)[0])
    np.testing.assert_array_equal(*moved)
    keys = [[jax.random.fold_in(jax.random.fold_in(key, m), t) for t in range(2)]
            for m in range(M)]  # fmt: skip
    drawn = np.array([[jax.random.normal(k, (2,)) for k in own] for own in keys])
    np.testing.assert_allclose(moved[0], drawn.sum(1), rtol=1e-6)
    assert len(np.unique(drawn)) == drawn.size


SIZES = (3, 10, 27)  # samples of each worker


def uneven():
    """Ridge regression, and M times the gradient of each f_m."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 5)), rng.standard_normal(40)
    parts = gdsec_jax.data.split(y, M, sizes=SIZES)
    problem = problems.ridge(x, y, M, split=parts, regularization=0.5)
    gradient = oracle.ridge_gradient(x, y, parts, 0.5)
    return problem, lambda m, theta: M * gradient(m, theta)


def averaging(rate, steps):
    """Local SGD, and the mean of where it ends."""
    trained = gdsec_jax.local(M, optax.sgd(rate), steps)
    sent = gdsec_jax.gd(M, reduction="mean")
    return optax.chain(trained, sent, optax.sgd(1.0))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("steps", slow_but([3], [1, 3]))
def test_federated_averaging_is_its_formulas(steps):
    """In runs, also where few workers train at a time; the gradients are counted."""
    problem, gradient = uneven()
    optimizer, rate, theta = averaging(0.1, steps), 0.1, np.zeros(5)
    run = gdsec_jax.simulate(problem, optimizer, 30)
    for _ in range(30):
        ends = np.tile(theta, (M, 1))
        for m in range(M):
            for _ in range(steps):
                ends[m] -= rate * gradient(m, ends[m])
        theta = ends.mean(0)
    np.testing.assert_allclose(run.params, theta, rtol=1e-12)
    assert (run.gradient_evaluations == steps * sum(SIZES)).all()
    if steps == 1:  # it is gradient descent
        plain = optax.chain(gdsec_jax.gd(M), optax.sgd(0.1))
        other = gdsec_jax.simulate(problem, plain, 30)
        np.testing.assert_allclose(run.params, other.params, rtol=1e-12)
    batched = gdsec_jax.simulate(problem, optimizer, 30, worker_batch=2)
    np.testing.assert_allclose(batched.params, theta, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_each_step_draws_a_minibatch_of_its_own():
    problem, steps, rate = problems.minibatch(uneven()[0], 2), 3, 0.05
    key, params, seen = jax.random.key(2), np.ones(5), []
    losses = WorkerLosses(problem.own_loss, problem.worker_data, key)
    trained = gdsec_jax.local(M, optax.sgd(rate), steps)
    params = jnp.asarray(params)
    moved, _ = trained.update(losses, trained.init(params), params)
    assert problem.draw is not None
    for m in range(M):
        own = jax.tree.map(lambda x, m=m: x[m], problem.worker_data)
        theta = np.ones(5)
        for t in range(steps):
            own_key = jax.random.fold_in(jax.random.fold_in(key, m), t)
            x, y, weight = map(np.asarray, problem.draw(own_key, own).shards)
            slope = x.T @ (weight * (x @ theta - y)) + 0.5 / M * theta
            theta = theta - rate * M * slope
            seen.append(tuple(y))
        np.testing.assert_allclose(moved[m], 1 - theta, rtol=0, atol=1e-13)
    assert len(set(seen)) > M
    run = gdsec_jax.simulate(problem, averaging(rate, steps), 20, key=0)
    assert (run.gradient_evaluations == M * 2 * steps).all()
    batched = gdsec_jax.simulate(
        problem, averaging(rate, steps), 20, key=0, worker_batch=2
    )
    np.testing.assert_allclose(batched.params, run.params, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_local_steps_drift_where_workers_differ():
    problem, _ = uneven()

    def last_error(problem, steps, rate):
        run = gdsec_jax.simulate(problem, averaging(rate, steps), 2000)
        return run.objective_error[-1]

    rate = float(1 / (M * problem.worker_smoothness.max()))
    few = last_error(problem, 2, rate)
    assert abs(last_error(problem, 1, rate)) < 1e-14
    assert few > 1e-6
    assert last_error(problem, 5, rate) > 2 * few
    assert few > 2 * last_error(problem, 2, rate / 2)
    x = np.random.default_rng(0).standard_normal((40, 5))
    same = problems.ridge(
        np.tile(x, (M, 1)), np.tile(x.sum(1), M), M, split="contiguous"
    )
    assert abs(last_error(same, 5, 1 / same.smoothness)) < 1e-14


def test_trees_and_narrow_dtypes_keep_their_dtypes():
    for dtype in (jnp.float32, jnp.bfloat16):
        params = tree_params(dtype)
        data = jax.tree.map(lambda p: jnp.zeros((M, *p.shape), p.dtype), params)

        def loss(params, own, key):
            del key
            pairs = zip(jax.tree.leaves(params), jax.tree.leaves(own), strict=True)
            return sum(jnp.sum((p - o) ** 2) for p, o in pairs)

        optimizer = optax.chain(
            gdsec_jax.local(M, optax.adamw(0.1), 3),
            gdsec_jax.gdsec(M, xi=1.0, reduction="mean"),
            optax.sgd(0.7),
        )
        state = optimizer.init(params)
        given = WorkerLosses(loss, data)
        updates, new = jax.eval_shape(
            lambda s, p, given=given, optimizer=optimizer: optimizer.update(
                given, s, p
            ),
            state,
            params,
        )
        kinds = [x.dtype for x in jax.tree.leaves(updates)]
        assert kinds == [p.dtype for p in jax.tree.leaves(params)]
        assert [x.dtype for x in jax.tree.leaves(state)] == [
            x.dtype for x in jax.tree.leaves(new)
        ]


def test_a_state_is_donated_and_compiled_once():
    optimizer = optax.chain(
        gdsec_jax.local(M, optax.adam(0.1), 2), gdsec_jax.gd(M), optax.sgd(1.0)
    )
    params, data = jnp.ones(4), jnp.asarray(targets(), jnp.float32)

    @jax.jit
    def plain(params, state):
        updates, state = optimizer.update(WorkerLosses(squares, data), state, params)
        return optax.apply_updates(params, updates), state

    donated = jax.jit(plain, donate_argnums=(0, 1))
    state = optimizer.init(params)
    expected = plain(params, state)
    found = donated(params, state)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    donated(*found)
    assert donated._cache_size() == 1


@pytest.mark.has_nans
@pytest.mark.parametrize("fragments", [1, 2])
def test_one_round_that_is_not_finite_leaves_no_trace(fragments):
    """Its worker is left out of that round alone, its state as it was."""

    def loss(params, data, key):
        target, good = data
        return (
            0.5 * jnp.sum((params - target) ** 2)
            + jnp.where(good, 0.0, jnp.nan) * (params[0])
        )

    stage = gdsec_jax.local(M, optax.adam(0.1), 2, fragments=fragments)
    piece = worker.whole() if fragments == 1 else worker.fragment(2)
    added = gdsec_jax.federate(piece, M, reduction="mean")
    optimizer = optax.chain(stage, added, optax.sgd(1.0))
    params, targets = jnp.zeros(4), jnp.arange(4.0 * M).reshape(M, 4)
    state = optimizer.init(params)
    for number in range(4):
        good = jnp.ones(M, bool).at[1].set(number != 1)
        before = state[0]
        losses = WorkerLosses(loss, (targets, good))
        updates, state = optimizer.update(losses, state, params)
        params = optax.apply_updates(params, updates)
        sent = gdsec_jax.last_round(state)
        assert sent.participants.tolist() == good.tolist()
        if number == 1:
            kept = lambda tree: [x[1] for x in jax.tree.leaves(tree)]  # noqa: E731
            for old, new in zip(kept(before.inner), kept(state[0].inner), strict=True):
                np.testing.assert_array_equal(old, new)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((params, state)))


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="^steps is 0, expected"):
        gdsec_jax.local(M, optax.sgd(0.1), 0)
    with pytest.raises(ValueError, match="^inner is 3, expected an optax chain"):
        gdsec_jax.local(M, 3, 1)
    with pytest.raises(ValueError, match="^loss is 3, expected a function"):
        WorkerLosses(3, jnp.zeros(2))
    local = gdsec_jax.local(M, optax.sgd(0.1), 1)
    params = jnp.zeros(4)
    state = local.init(params)
    with pytest.raises(ValueError, match=r"expected gdsec_jax.WorkerLosses\(loss, dat"):
        local.update(jnp.zeros((M, 4)), state, params)
    with pytest.raises(ValueError, match=r"data of shape \(2, 4\), expected 3 workers"):
        local.update(WorkerLosses(squares, jnp.zeros((2, 4))), state, params)
    with pytest.raises(ValueError, match="^params is None, expected the parameters to"):
        local.update(WorkerLosses(squares, jnp.zeros((M, 4))), state)
    losses = WorkerLosses(squares, jnp.zeros((M, 4)))
    gd = gdsec_jax.gd(M)
    with pytest.raises(ValueError, match="^gradients is WorkerLosses, .*local stands"):
        gd.update(losses, gd.init(params), params)
    with pytest.raises(ValueError, match="^nothing adds up what workers that train"):
        gdsec_jax.check(optax.chain(local, optax.sgd(1.0)), params, M)
    other = optax.chain(local, gdsec_jax.gd(M + 1), optax.sgd(1.0))
    with pytest.raises(ValueError, match="Workers that train stand first"):
        gdsec_jax.check(other, params, M)
    x = np.random.default_rng(0).standard_normal((40, 5))
    problem = problems.ridge(x, x.sum(1), 4)
    twice = gdsec_jax.local(4, optax.sgd(0.1), 1)
    both = optax.chain(twice, gdsec_jax.gd(4, reduction="mean"), optax.sgd(1.0))
    with pytest.raises(ValueError, match="trains its workers twice"):
        gdsec_jax.simulate(problem, optax.chain(twice, both), 3)
    with pytest.raises(ValueError, match="expected gdsec_jax.WorkerLosses"):
        both.update(jnp.zeros((4, 5)), both.init(jnp.zeros(5)), jnp.zeros(5))


ON_FOUR = """
x = np.random.default_rng(0).standard_normal((4, 16, 40)).astype("float32")
data = x, x.sum(-1)

def loss(params, data, key):
    return jnp.mean((data[0] @ params - data[1]) ** 2)

def course(optimizer, kind):
    @jax.jit
    def step(params, state, data):
        losses = gdsec_jax.WorkerLosses(loss, data)
        updates, state = optimizer.update(losses, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def scanned(params, state, data):
        def one(carry, _):
            return step(*carry, data), None
        return jax.lax.scan(one, (params, state), length=3)[0]

    params, given = jnp.zeros(40), data
    if kind is not None:
        mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
        jax.set_mesh(mesh)
        params = jax.device_put(params, NamedSharding(mesh, P()))
        given = jax.device_put(given, NamedSharding(mesh, P("data")))
    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state, given)
        jax.block_until_ready(params)
    return np.asarray(scanned(params, state, given)[0])

def chains(**over):
    adam = gdsec_jax.local(4, optax.adam(1e-2), 3)
    top_j = gdsec_jax.top_j(4, k=0.1, reduction="mean", **over)
    yield optax.chain(adam, top_j, optax.sgd(0.7))
    yield optax.chain(gdsec_jax.scaffold(4, 1e-2, 3), optax.sgd(1.0))
    yield optax.chain(gdsec_jax.scaffnew(4, 1e-2, 0.3), optax.sgd(1.0))
    loco = gdsec_jax.sparse_loco(4, 1e-2, 3, 2, chunk=8, bits=None, **over)
    yield optax.chain(loco, optax.sgd(1.0))

alone = [course(optimizer, None) for optimizer in chains()]
for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
    for optimizer, expected in zip(chains(axis="data"), alone, strict=True):
        np.testing.assert_allclose(course(optimizer, kind), expected, rtol=1e-5)
"""


@pytest.mark.slow
def test_workers_train_on_the_devices_of_a_mesh():
    on_devices(ON_FOUR, 4)


@pytest.mark.has_nans
def test_states_of_numbers_that_are_not_finite_are_held_or_not():
    """ "propagate" holds the states once: those of who is not finite are that, too."""

    def loss(params, target, key):
        del key
        return 0.5 * jnp.sum((params - target) ** 2) / (target < 9)

    losses = WorkerLosses(loss, jnp.array([1.0, 3.0, 9.0]))
    params, found = jnp.zeros(2), {}
    for how in ("drop", "propagate"):
        momentum = optax.sgd(0.1, momentum=0.9)
        trained = gdsec_jax.local(M, momentum, 2, on_nonfinite=how)
        _, state = trained.update(losses, trained.init(params), params)
        found[how] = state.inner[0].trace
    np.testing.assert_array_equal(found["drop"][:2], found["propagate"][:2])
    np.testing.assert_array_equal(found["drop"][2], np.zeros(2))
    assert not np.isfinite(found["propagate"][2]).any()
    with pytest.raises(ValueError, match="on_nonfinite is 'keep', expected"):
        gdsec_jax.local(M, optax.sgd(0.1), 2, on_nonfinite="keep")  # pyright: ignore


@pytest.mark.has_nans
def test_methods_that_train_hand_the_option_on():
    inner = functools.partial(optax.sgd, momentum=0.9)
    given = {"local_learning_rate": 0.1, "steps": 2, "inner": inner}
    nowhere = WorkerLosses(lambda p, x, key: jnp.sum(p) / x, jnp.array([1.0, 0.0, 1.0]))
    params = jnp.zeros(2)
    for make in (
        gdsec_jax.diloco,
        functools.partial(gdsec_jax.streaming_diloco, fragments=1),
        functools.partial(gdsec_jax.sparse_loco, bits=None),
    ):
        for how in ("drop", "propagate"):
            method = make(M, **given, on_nonfinite=how)
            updates, state = method.update(nowhere, method.init(params), params)
            traces = jax.tree.leaves(state[0].inner)
            for finite in map(np.isfinite, (updates, *traces)):
                assert finite.all() == (how == "drop")


def test_who_takes_part_is_a_mask_of_the_workers():
    trained = gdsec_jax.local(M, optax.sgd(0.1, momentum=0.9), 2)
    losses, params = WorkerLosses(squares, jnp.ones((M, 2))), jnp.zeros(2)
    with pytest.raises(ValueError, match=r"active is bool\[4\], expected bool\[3\]"):
        trained.update(losses, trained.init(params), params, active=jnp.ones(4, bool))

"""What federate hands to a worker's pipeline, and `check`, and `last_round`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import random_gradients, run, tree_params

import gdsec_jax
from gdsec_jax import problems, wire, worker
from gdsec_jax import server as servers


def spy(name):
    """A pipeline whose message is the extra argument `name`, in every entry."""

    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda u: jnp.full_like(u, extra[name]), updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def drawing(kind):
    """A pipeline that sends uniform numbers drawn from one of the keys it is given."""

    def update(updates, state, params=None, **extra):
        return jax.random.uniform(extra[kind], updates.shape), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def messages(piece, num_workers, rounds, **options):
    """[rounds, M]: each worker's message, a number, where it alone is heard."""

    def heard(worker):
        def update(updates, state, params=None, **extra):
            message, state = piece.update(updates, state, params, **extra)
            return jnp.where(updates == worker, message, 0), state

        return optax.GradientTransformationExtraArgs(piece.init, update)

    grads = jnp.arange(num_workers, dtype=jnp.float32)[:, None]
    out = np.zeros((rounds, num_workers))
    for index in range(num_workers):
        algorithm = gdsec_jax.federate(heard(index), num_workers, **options)
        state = algorithm.init(jnp.zeros(1))
        for k in range(rounds):
            update, state = algorithm.update(grads, state, jnp.zeros(1))
            out[k, index] = update[0]
    return out


def test_the_round_counts_from_zero():
    np.testing.assert_array_equal(
        messages(spy("round"), 2, 3), [[0, 0], [1, 1], [2, 2]]
    )


def test_params_change_and_past_norms():
    seen = []

    def update(updates, state, params=None, *, params_change, past_norms, **extra):
        seen.append((params_change, past_norms))
        np.testing.assert_array_equal(extra["past_changes"], past_norms**2)
        return updates, state

    piece = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    algorithm = gdsec_jax.federate(piece, 1)
    thetas = [jnp.asarray([float(k), 2.0 * k]) for k in range(13)]
    state = algorithm.init(thetas[0])
    for theta in thetas:
        _, state = algorithm.update(jnp.zeros((1, 2)), state, theta)
    np.testing.assert_array_equal(seen[0][0], [0, 0])
    np.testing.assert_array_equal(seen[3][0], [1, 2])
    np.testing.assert_allclose(seen[3][1] ** 2, [5, 5, 5] + [0] * 7, rtol=1e-6)
    np.testing.assert_allclose(seen[12][1] ** 2, [5] * 10, rtol=1e-6)


def test_active_reaches_the_pieces_and_holds_the_absent():
    algorithm = gdsec_jax.federate(
        gdsec_jax.worker.error_feedback(optax.stateless(lambda v, _: v / 2)), 3
    )
    params, grads = jnp.zeros(1), jnp.asarray([[4.0], [8.0], [16.0]])
    state = algorithm.init(params)
    active = jnp.asarray([True, False, True])
    update, after = algorithm.update(grads, state, params, active=active)
    assert update.tolist() == [2.0 + 8.0]
    assert after.workers.error.tolist() == [[2.0], [0.0], [8.0]]
    sent = gdsec_jax.last_round(after)
    assert sent.participants.tolist() == active.tolist()
    assert sent.entries.tolist() == [1, 0, 1]
    assert int(sent.dropped) == 0


def test_extra_arguments_of_the_caller_reach_the_pieces():
    algorithm = gdsec_jax.federate(spy("value"), 2)
    optimizer = optax.chain(algorithm, optax.sgd(1.0))
    params = jnp.zeros(1)
    update, _ = optimizer.update(
        jnp.ones((2, 1)), optimizer.init(params), params, value=jnp.asarray(7.0)
    )
    assert update.tolist() == [-14.0]


@pytest.mark.parametrize("key", [3, jax.random.key(3), jax.random.PRNGKey(3)])
def test_keys_differ_by_worker_and_round_and_repeat_by_seed(key):
    own = messages(drawing("key"), 4, 3, key=key)
    assert np.unique(own).size == 12
    np.testing.assert_array_equal(own, messages(drawing("key"), 4, 3, key=3))
    assert not np.isin(messages(drawing("key"), 4, 3, key=4), own).any()
    common = messages(drawing("round_key"), 4, 3, key=key)
    assert np.unique(common).size == 3
    assert (common == common[:, :1]).all()
    # A worker's numbers do not depend on how many others there are.
    np.testing.assert_array_equal(messages(drawing("key"), 2, 3, key=key), own[:, :2])


def test_the_key_may_be_traced():
    params, grads = jnp.zeros(1), jnp.ones((2, 1))

    def first(seed):
        algorithm = gdsec_jax.federate(drawing("key"), 2, key=seed)
        return algorithm.update(grads, algorithm.init(params), params)[0]

    seeds = jnp.arange(3)
    batched = jax.vmap(first)(seeds)
    np.testing.assert_array_equal(batched, jnp.stack([first(s) for s in seeds]))
    assert np.unique(batched).size == 3


def test_without_params_only_what_needs_them_fails():
    algorithm = gdsec_jax.gd(2)
    update, state = algorithm.update(jnp.ones((2, 3)), algorithm.init(jnp.zeros(3)))
    assert update.tolist() == [2.0, 2.0, 2.0]
    assert state.clock.previous_params.tolist() == [0.0, 0.0, 0.0]


def test_the_sum_over_workers_is_accurate():
    params = jnp.zeros(100, jnp.bfloat16)
    grads = random_gradients(params, 64, seed=0)
    update, _ = gdsec_jax.gd(64).update(grads, gdsec_jax.gd(64).init(params), params)
    exact = np.asarray(grads, np.float64).sum(0)
    expected = jnp.asarray(exact, jnp.float32).astype(jnp.bfloat16)
    np.testing.assert_allclose(
        np.asarray(update, np.float64), np.asarray(expected, np.float64), rtol=2**-7
    )


def test_reserved_names_are_the_federations_own():
    params, grads = jnp.zeros(1), jnp.ones((2, 1))
    algorithm = gdsec_jax.federate(drawing("key"), 2, key=0)
    state = algorithm.init(params)
    ours, _ = algorithm.update(grads, state, params)
    theirs, _ = algorithm.update(grads, state, params, key=jax.random.key(5), round=9)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("wrap", ["partition", "masked"])
def test_memories_for_a_part_of_the_parameters(wrap):
    memory = gdsec_jax.worker.error_feedback(optax.stateless(lambda v, _: _half(v)))
    piece = {
        "partition": optax.partition(
            {"x": memory, "y": optax.identity()}, {"a": "x", "b": "y"}
        ),
        "masked": optax.masked(memory, {"a": True, "b": False}),
    }[wrap]
    params = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    grads = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 3))}
    algorithm = gdsec_jax.federate(piece, 2)
    state = algorithm.init(params)
    for with_params in (params, None):
        update, _ = algorithm.update(grads, state, with_params)
        assert update["a"].tolist() == [1.0] * 2
        assert update["b"].tolist() == [2.0] * 3


def _half(tree):
    return jax.tree.map(lambda v: v / 2, tree)


def test_gradient_estimates_need_all_of_the_parameters():
    memory = gdsec_jax.worker.gradient_difference(optax.identity())
    algorithm = gdsec_jax.federate(
        optax.masked(memory, {"a": True, "b": False}),
        2,
        server=servers.Server(prepare=gdsec_jax.gradient_estimate),
    )
    params = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    grads = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match="a part of the parameters only"):
        algorithm.update(grads, algorithm.init(params), params)


@pytest.mark.parametrize("key", ["a", 1.5, jax.random.split(jax.random.key(0))])
def test_what_is_no_key(key):
    with pytest.raises(ValueError, match=r"key (is|has shape) .*, expected"):
        gdsec_jax.federate(optax.identity(), 2, key=key)


def test_gradient_estimates_need_one_gradient_difference():
    algorithm = gdsec_jax.federate(
        optax.identity(), 2, server=servers.Server(prepare=gdsec_jax.gradient_estimate)
    )
    with pytest.raises(ValueError, match="holds 0 gradient_difference, expected 1"):
        algorithm.update(jnp.ones((2, 1)), algorithm.init(jnp.zeros(1)))


# last_round.


def test_last_round_of_a_state_without_rounds_and_of_a_foreign_state():
    state = optax.chain(gdsec_jax.gd(3), optax.adam(0.1)).init(jnp.zeros(2))
    sent = gdsec_jax.last_round(state)
    assert sent.bits.tolist() == [0, 0, 0]
    assert not sent.participants.any()
    assert repr(sent).startswith("LastRound(entries=[0 0 0], bits=[0 0 0], particip")
    shapes = jax.eval_shape(lambda x: x, sent)  # of which nothing is known
    assert "ShapeDtypeStruct" in repr(shapes)
    with pytest.raises(ValueError, match="holds no algorithm of gdsec_jax"):
        gdsec_jax.last_round(optax.adam(0.1).init(jnp.zeros(2)))


def test_last_round_out_of_a_scan_has_the_axis_of_rounds():
    params = tree_params()
    grads = random_gradients(params, 3, seed=0, rounds=5)
    optimizer = optax.chain(gdsec_jax.gdsec(3, xi=1.0, wire="rle"), optax.sgd(0.1))
    *_, sent, _ = run(optimizer, params, grads)
    assert sent.bits.shape == sent.entries.shape == sent.participants.shape == (5, 3)
    assert sent.dropped.shape == (5,)
    assert sent.bits.dtype == np.int64


def test_a_controller_is_handed_norms_whose_squares_vanish():
    seen = []

    def update(state, past_norms, past_changes, **_):
        seen.append((past_norms[0], past_changes[0]))
        return 0.0, state

    controller = gdsec_jax.Controller(lambda params: (), update)
    algorithm = gdsec_jax.gdsec(2, xi=controller)
    params = jnp.zeros(2)
    state = algorithm.init(params)
    for shift in (0.0, 3e-25, 3e25):
        params = params + shift
        _, state = algorithm.update(jnp.ones((2, 2)), state, params)
    norms = np.array(seen)
    np.testing.assert_allclose(norms[1:, 0], np.sqrt(2) * np.array([3e-25, 3e25]), 1e-6)
    assert norms[1:, 1].tolist() == [0.0, np.inf]


# check.

behind = r"stand behind it: optax.chain\(gdsec_jax.gdsec"


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda o: optax.apply_if_finite(o, 3),
            "stage apply_if_finite cannot take gradients of 3.*" + behind,
        ),
        (
            lambda o: optax.MultiSteps(o, 2).gradient_transformation(),
            "stage MultiSteps cannot take gradients of 3.*" + behind,
        ),
        (lambda o: optax.flatten(o), "stage flatten cannot take gradients of 3.*"),
        (
            lambda o: optax.lookahead(o, 5, 0.5),
            "stage lookahead cannot take gradients of 3.*" + behind,
        ),
        (
            lambda o: optax.contrib.sam(o, optax.sgd(0.1)),
            r"expected \(2,\). A wrapper of the algorithm keeps the axis.*" + behind,
        ),
        (
            lambda o: optax.chain(o, gdsec_jax.gd(3)),
            "^an algorithm of gdsec_jax stands behind another one, .* expected one",
        ),
        (
            lambda o: optax.chain(optax.trace(0.9), o),
            r"^state\[0\].trace has the shape \(2,\) at first and \(3, 2\) after an",
        ),
        (lambda o: optax.adam(0.1), "holds no algorithm of gdsec_jax"),
    ],
)
def test_check_finds_what_stands_in_the_wrong_place(wrap, message):
    optimizer = wrap(optax.chain(gdsec_jax.gdsec(3, xi=1.0), optax.sgd(0.1)))
    with pytest.raises(ValueError, match=message):
        gdsec_jax.check(optimizer, jnp.zeros(2), 3)


def test_check_masked_and_wrong_number_of_workers():
    masked = optax.masked(gdsec_jax.gdsec(3, xi=1.0), {"a": True, "b": False})
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    with pytest.raises(
        ValueError, match=r"updates\['b'\] has shape \(3, 2\), expected \(2"
    ):
        gdsec_jax.check(masked, params, 3)
    with pytest.raises(ValueError, match=r"has shape \(4, 2\), expected \(3, 2\)"):
        gdsec_jax.check(gdsec_jax.gd(3), jnp.zeros(2), 4)


MIXED = {"a": jnp.zeros(3, jnp.bfloat16), "b": jnp.zeros((2, 2))}


def injected(make):
    return optax.inject_hyperparams(make)(learning_rate=0.1)


@pytest.mark.parametrize(
    ("behind", "message"),
    [
        (
            injected(optax.adam),
            r"^state\[1\].*\.mu\['a'\] is bfloat16 at first and flo",
        ),
        (injected(optax.lars), r"^state\[1\].*\.trace\['a'\] is bfloat16 at first and"),
        (
            injected(optax.novograd),
            "^the stage scale_by_novograd fails in an update: cond branches must have",
        ),
        (
            optax.masked(optax.sgd(0.1), {"c": True}),
            "^the stage masked cannot begin with these parameters: pytree structure",
        ),
        (
            optax.GradientTransformation(optax.init_empty_state, lambda u, s, p: 1 / 0),
            "^the stage chain fails in an update: division by zero$",
        ),
    ],
)
def test_check_blames_the_stage_and_not_the_axis(behind, message):
    optimizer = optax.chain(gdsec_jax.gd(3), behind)
    with pytest.raises(ValueError, match=message) as caught:
        gdsec_jax.check(optimizer, MIXED, 3)
    assert "workers" not in str(caught.value)


def broken(gradients, params):
    """Some workers fail; which of them is drawn, and not what they say."""
    luck = jax.random.uniform(jax.random.key(0), (3,))

    def one(g):
        return jnp.where(luck.reshape(3, *(1,) * (g.ndim - 1)) < 0.1, jnp.nan, g)

    return jax.tree.map(one, gradients)


OTHERS = (optax.clip(1.0), optax.scale(0.5), optax.zero_nans(), optax.identity())
OTHERS += (optax.stateless(broken),)


def on_leaves(function):
    return optax.stateless(lambda g, _: jax.tree.map(function, g))


def lengths(x):
    return jnp.linalg.norm(x.reshape(3, -1), axis=1).reshape(3, *[1] * (x.ndim - 1))


# Each worker by itself, however that is written.
OTHERS += tuple(
    map(
        on_leaves,
        (
            lambda x: x / lengths(x),
            lambda x: x * jnp.arange(3.0).reshape(lengths(x).shape),
            lambda x: x.at[0].set(0),
            lambda x: (x.T / lengths(x).T).T,
            lambda x: jax.lax.map(lambda one: one / jnp.sum(one**2), x),
            lambda x: jnp.stack([x, 2 * x], 1).sum(1),
            lambda x: jax.vmap(jnp.vdot)(x, x).reshape(lengths(x).shape) * x,
            lambda x: jnp.einsum("m...,n->mn...", x, jnp.ones(4)).mean(1),
        ),
    )
)
LOCAL = gdsec_jax.local(3, optax.adam(0.1), 2, fragments=2)
# A worker's message made of others' gradients.
MIXING = (
    lambda x: x - x[:1],
    lambda x: jnp.roll(x, 1, axis=0),
    lambda x: x[::-1],
    lambda x: jnp.sort(x, axis=0),
    lambda x: x[jnp.array([1, 2, 0])],
    lambda x: jnp.concatenate([x[1:], x[:1]]),
    lambda x: (x.T - x.T.mean(-1, keepdims=True)).T,
    lambda x: x.reshape(-1)[::-1].reshape(x.shape),
    lambda x: jnp.einsum("m...,n...->n...", x, x),
    lambda x: jax.lax.scan(lambda s, one: (s + one, s), 0 * x[0], x)[1],
)


@pytest.mark.parametrize(
    ("front", "message"),
    [
        (optax.clip_by_global_norm(1.0), "looks at the gradients of all workers at o"),
        (optax.clip_by_block_rms(1.0), "looks at the gradients of all workers at o"),
        (optax.normalize_by_update_norm(), "looks at the gradients of all workers at"),
        (
            optax.conditionally_transform(
                optax.clip_by_global_norm(1.0), lambda step: step < 5
            ),
            "looks at the gradients of all workers at once",
        ),
        (
            optax.stateless(
                lambda g, _: jax.tree.map(lambda x: x / (1 + jnp.vdot(x, x)), g)
            ),
            "looks at the gradients of all workers at once",
        ),
        (optax.add_noise(0.1, 0.1, key=0), "adds noise to the gradients"),
        *((stage, None) for stage in OTHERS),
        *((on_leaves(mix), "looks at the gradients of all work") for mix in MIXING),
        (
            optax.stateless(
                lambda g, _: jax.vmap(optax.projections.projection_l2_ball)(g)
            ),
            None,
        ),
    ],
)
@pytest.mark.parametrize("first", [optax.identity(), LOCAL], ids=["", "local"])
def test_check_finds_what_mixes_the_workers_in_front(first, front, message):
    behind = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    algorithm = gdsec_jax.qsgdsec(3, xi=1.0)
    params = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(())}
    gdsec_jax.check(optax.chain(first, algorithm, behind), params, 3)
    optimizer = optax.chain(first, front, algorithm, behind)
    if message is None:
        return gdsec_jax.check(optimizer, params, 3)
    with pytest.raises(
        ValueError, match=f"^a stage in front of the algorithm {message}"
    ):
        gdsec_jax.check(optimizer, params, 3)


def test_of_one_worker_nothing_is_mixed():
    clipped = optax.chain(optax.clip_by_global_norm(1.0), gdsec_jax.gdsec(1, xi=1.0))
    gdsec_jax.check(clipped, {"a": jnp.zeros((3, 2))}, 1)


def test_check_wants_parameters_and_workers():
    with pytest.raises(ValueError, match="params is {}, expected at least one array"):
        gdsec_jax.check(gdsec_jax.gd(3), {}, 3)
    with pytest.raises(ValueError, match="worker_batch is 0, expected an integer at l"):
        gdsec_jax.check(gdsec_jax.gd(3), jnp.zeros(2), 3, worker_batch=0)


def test_check_computes_nothing():
    shapes = jax.ShapeDtypeStruct((2**30,), jnp.float32)
    gdsec_jax.check(gdsec_jax.gdsec(4, xi=1.0), shapes, 4)


def test_a_payload_cannot_be_left_out_for_a_round():
    piece = worker.first_whole(worker.low_rank(1))
    with pytest.raises(ValueError, match="sends messages whole at times"):
        gdsec_jax.federate(piece, 2).init(jnp.zeros((3, 2)))


def test_parts_with_different_further_formats_answer_what_they_share():
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    problem = problems.from_loss(_squares, jnp.ones((2, 1)), params)
    parts = {
        "a": gdsec_jax.gdsec(2, 1.0, wire=wire.Format("rle", also=("coo", "golomb"))),
        "b": gdsec_jax.gdsec(2, 1.0, wire=wire.Format("rle", also=("coo",))),
    }
    optimizer = optax.chain(
        optax.partition(parts, {"a": "a", "b": "b"}), optax.sgd(0.1)
    )
    history = gdsec_jax.simulate(problem, optimizer, 3)
    assert set(history.format_bits) == {"coo"}


def _squares(params, shift):
    return sum(((leaf - shift) ** 2).sum() for leaf in jax.tree.leaves(params))

"""Rules on entries and on whole messages, on numbers made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from inside import _packing

import gdsec_jax
from gdsec_jax import worker

PAST = jnp.asarray([4.0, 3.0, 2.0] + [0.0] * 7)  # squared norms, with a sum of 9


def sent(piece, v, state=None, **extra):
    v = jnp.asarray(v, jnp.float32)
    state = piece.init(v) if state is None else state
    return jax.jit(piece.update)(v, state, **extra)[0].tolist()


def censored(v, change, xi, **extra):
    return sent(worker.censor(xi), v, params_change=jnp.asarray(change), **extra)


def test_censor_compares_each_entry_with_its_own_change():
    change = [0.1, -0.1, 0.0, 0.0]
    assert censored([0.9, -1.1, 0.0, 1e-9], change, 10.0) == pytest.approx(
        [0.0, -1.1, 0.0, 1e-9]
    )
    above = float(np.nextafter(np.float32(2.0), np.float32(3.0)))
    assert censored([2.0, above], [0.5, 0.5], 4.0) == [0.0, above], "equality"
    out = censored([np.nan, np.inf], [1.0, 1.0], 1e30)
    assert np.isnan(out[0]) and out[1] == np.inf
    # An infinite change makes no NaN of a number.
    assert censored([1.0], [np.inf], 0.0) == [1.0]
    assert censored([1.0], [np.inf], 1.0) == [0.0]


def test_censor_takes_an_xi_for_each_coordinate_and_by_round():
    change, v = [1.0] * 3, [1.0] * 3
    assert censored(v, change, jnp.asarray([0.5, 1.0, 2.0])) == [1.0, 0.0, 0.0]
    by_round = lambda k: 2.0 * k  # noqa: E731
    assert censored(v, change, by_round, round=0) == v
    assert censored(v, change, by_round, round=1) == [0.0] * 3


def test_censor_whole_compares_norms():
    piece = worker.censor_whole(2.0)
    change = jnp.asarray([1.5, -2.0])  # of norm 2.5
    assert sent(piece, [3.0, 4.0], params_change=change) == [0.0, 0.0], "equality"
    assert sent(piece, [3.0, 4.001], params_change=change) == pytest.approx([3, 4.001])
    assert sent(piece, [5.001, 0.0], params_change=change) == pytest.approx([5.001, 0])
    assert sent(piece, [0.0, 0.1], params_change=jnp.zeros(2)) == pytest.approx(
        [0, 0.1]
    )
    assert np.isnan(sent(piece, [jnp.nan, 0.0], params_change=change)[0])
    assert sent(piece, [jnp.inf, 0.0], params_change=change)[0] == np.inf


def test_censor_whole_takes_a_schedule_and_a_traced_xi():
    schedule = worker.censor_whole(lambda k: 1.0 + k)
    change = jnp.asarray([1.0])
    assert sent(schedule, [1.5], params_change=change, round=0) == [1.5]
    assert sent(schedule, [1.5], params_change=change, round=1) == [0.0]

    def traced(xi):
        piece = worker.censor_whole(xi)
        v = jnp.asarray([1.5])
        return piece.update(v, piece.init(v), params_change=change)[0]

    assert jax.vmap(traced)(jnp.asarray([1.0, 2.0])).tolist() == [[1.5], [0.0]]


def test_lag_compares_with_the_last_ten_changes():
    piece = worker.lag(learning_rate=0.5, zeta=0.5)  # 0.5 / 0.25 * 9 = 18
    assert sent(piece, [3.0, 2.99], past_changes=PAST) == [0.0, 0.0]
    assert sent(piece, [3.0, 3.01], past_changes=PAST) == pytest.approx([3.0, 3.01])
    assert sent(piece, [1e-3], past_changes=jnp.zeros(10)) == pytest.approx([1e-3])
    assert np.isnan(sent(piece, [jnp.nan], past_changes=PAST)[0])
    everything = worker.lag(learning_rate=0.5, zeta=0.0)
    assert sent(everything, [1e-3], past_changes=PAST) == pytest.approx([1e-3])


def test_lag_takes_a_schedule_of_the_learning_rate():
    piece = worker.lag(learning_rate=lambda k: jnp.where(k < 5, 1.0, 3.0), zeta=1.0)
    assert sent(piece, [2.0], past_changes=PAST, round=4) == [0.0]  # 4 <= 9
    assert sent(piece, [2.0], past_changes=PAST, round=5) == [2.0]  # 4 > 1


def test_laq_skips_by_its_errors_and_remembers_the_last_uploads():
    piece = worker.laq(learning_rate=1.0, bits=2, zeta=1.0)
    update = jax.jit(piece.update)
    v = jnp.asarray([3.0, 0.5])  # Q(v) = [3, 1], an error of 0.25
    still = jnp.zeros(10)
    message, state = update(v, piece.init(v), past_changes=PAST * 1e6, round=0)
    assert message.tolist() == [3.0, 1.0], "the first round uploads, whatever"
    assert state.error == 0.5 and state.skips == 0
    # |Q(v)|^2 = 10 against the movement plus 3 (0.25 + 0.25).
    move = lambda x: still.at[3].set(x)  # noqa: E731
    message, after = update(v, state, past_changes=move(8.51), round=1)
    assert message.tolist() == [0.0, 0.0]
    assert after.error == 0.5 and after.skips == 1
    message, after = update(v, state, past_changes=move(8.49), round=1)
    assert message.tolist() == [3.0, 1.0] and after.skips == 0
    exact = jnp.asarray([3.0, -1.0])  # without an error: 10 against move + 3 * 0.25
    message, after = update(exact, state, past_changes=move(9.26), round=1)
    assert message.tolist() == [0.0, 0.0] and after.error == 0.5
    message, after = update(exact, state, past_changes=move(9.24), round=1)
    assert message.tolist() == [3.0, -1.0] and after.error == 0.0


def test_laq_uploads_after_a_hundred_skips():
    piece = worker.laq(learning_rate=lambda k: 1.0 + 0 * k, bits=2, zeta=1.0)
    v = jnp.asarray([3.0, 0.5])

    @jax.jit
    def run(state):
        def one(state, k):
            message, state = piece.update(
                v, state, past_changes=jnp.full(10, 1e6), round=k
            )
            return state, (message.any(), state.skips)

        return jax.lax.scan(one, state, jnp.arange(210))[1]

    sends, skips = run(piece.init(v))
    assert np.flatnonzero(sends).tolist() == [0, 101, 202]
    assert skips.max() == 100


def test_a_lost_upload_is_a_skip_to_laq():
    piece = worker.laq(learning_rate=1.0, bits=2, zeta=1.0)
    update = jax.jit(piece.update)
    v, still = jnp.asarray([3.0, 0.5]), jnp.zeros(10)
    _, state = update(v, piece.init(v), past_changes=still, round=0)
    exact = jnp.asarray([30.0, -10.0])
    message, lost = update(
        exact, state, past_changes=still, round=1, delivered=jnp.asarray(False)
    )
    assert message.tolist() == [30.0, -10.0], "it is sent, in vain"
    assert lost.skips == 1 and lost.error == state.error == 0.5
    _, arrived = update(
        exact, lost, past_changes=still, round=2, delivered=jnp.asarray(True)
    )
    assert arrived.skips == 0 and arrived.error == 0.0


def test_clag_begins_with_the_first_upload_that_arrives():
    piece = worker.clag(worker.first_whole(worker.top_k(1)), zeta=4.0)
    g = jnp.asarray([3.0, 1.0])
    message, state = piece.update(
        g, piece.init(g), gradient=g, delivered=jnp.asarray(False)
    )
    assert message.tolist() == [3.0, 1.0] and not state.begun
    # Small against the gradient's change: the second would be censored.
    message, state = piece.update(g, state, gradient=100 * g)
    assert message.tolist() == [3.0, 1.0] and state.begun
    assert piece.update(g, state, gradient=g)[0].tolist() == [0.0, 0.0]


SIZES = [1e-20, 1e20, 1e-30, 1e30]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["censor_whole", "lag", "laq", "clag"])
def test_a_rule_is_the_same_at_every_size(name, size):
    """Where squares overflow, or vanish, in float32."""
    zero = {"learning_rate": 1.0, "zeta": 0.0}
    small = {"learning_rate": 1.0, "zeta": 0.25}
    make = {
        "censor_whole": lambda xi: worker.censor_whole(xi),
        "lag": lambda xi: worker.lag(**(small if xi else zero)),
        "laq": lambda xi: worker.laq(**(small if xi else zero), bits=8),
        "clag": lambda xi: worker.clag(worker.whole(), zeta=xi**2),
    }[name]

    def sends(xi, v, change):
        piece = worker.gradient_difference(make(xi))
        v, change = (jnp.asarray([x, 0.0], jnp.float32) * size for x in (v, change))
        _, state = piece.update(
            -change, piece.init(v), v, params_change=v, past_norms=v, round=0
        )
        state = state._replace(memory=jnp.zeros_like(v))
        norms = jnp.zeros(10).at[0].set(change[0])
        told = {"params_change": change, "past_norms": norms, "round": 1}
        return bool(piece.update(v, state, v, **told)[0].any())

    assert sends(0.0, 1.0, 1.0), "a threshold of 0"
    assert not sends(0.5, 0.49, 1.0)
    # To clag the gradient's own change is 1 + v.
    assert sends(0.5, 1.01 if name == "clag" else 0.51, 1.0)


def test_one_excessive_gradient_silences_no_worker_for_long():
    """LAQ's error of the last upload is as excessive: it would for 100 rounds."""
    algorithm = gdsec_jax.laq(1, learning_rate=1.0, bits=4)
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((60, 1, 300)).astype(np.float32)
    gradients[20] *= 1e25
    params = jnp.zeros(300)

    def one(state, gradient):
        direction, state = algorithm.update(gradient, state, params)
        return state, (direction, gdsec_jax.last_round(state).bits[0])

    _, (directions, bits) = jax.lax.scan(one, algorithm.init(params), gradients)
    assert (bits[21:] > 0).sum() > 15
    last = gradients[59, 0]
    assert np.linalg.norm(directions[59] - last) < 2 * np.linalg.norm(last)


def test_laq_sends_a_nan():
    piece = worker.laq(learning_rate=1.0, bits=2, zeta=1.0)
    message = sent(piece, [jnp.nan, 1.0], past_changes=PAST * 1e6, round=3)
    assert np.isnan(message).all()


def test_clag_compares_with_the_previous_gradient():
    piece = worker.clag(worker.top_k(1), zeta=4.0)
    update = jax.jit(piece.update)
    zeros = jnp.zeros(2)
    g = jnp.asarray([3.0, 1.0])
    message, state = update(g, piece.init(zeros), gradient=g)
    assert message.tolist() == [3.0, 0.0], "the first is sent, though |v| < 2 |g|"
    np.testing.assert_array_equal(state.gradient, g)
    moved = g + jnp.asarray([1.0, 0.0])
    message, after = update(jnp.asarray([0.0, 2.0]), state, gradient=moved)
    assert message.tolist() == [0.0, 0.0], "equality"
    np.testing.assert_array_equal(after.gradient, moved)  # also where it is silent
    message, _ = update(jnp.asarray([0.0, 2.01]), state, gradient=moved)
    assert message.tolist() == pytest.approx([0.0, 2.01])
    message, _ = update(jnp.asarray([0.0, 0.1]), after, gradient=moved)
    assert message.tolist() == pytest.approx([0.0, 0.1]), "it stood still"
    message, _ = update(jnp.asarray([jnp.nan, 1.0]), after, gradient=moved)
    assert np.isnan(message[0])


def test_clag_moves_its_compressors_state_only_when_it_sends():
    counting = optax.GradientTransformation(
        lambda params: jnp.zeros((), jnp.int32), lambda u, s, params=None: (u, s + 1)
    )
    piece = worker.clag(counting, zeta=1.0)
    v = jnp.ones(2)
    _, state = piece.update(v, piece.init(v), gradient=v)
    assert state.compressor == 1
    _, state = piece.update(v, state, gradient=100 * v)
    assert state.compressor == 1
    _, state = piece.update(200 * v, state, gradient=101 * v)
    assert state.compressor == 2


def test_first_whole_is_each_workers_first_delivered():
    algorithm = gdsec_jax.ef21(3, k=1, wire="bitmap")
    params, grads = jnp.zeros(4), jnp.asarray([[4.0, 3.0, 2.0, 1.0]] * 3)
    state = algorithm.init(params)
    update = jax.jit(algorithm.update)
    entries, flags = [], []
    for active in ([True, False, True], [True, True, False], [True, True, True]):
        nan = grads.at[2, 0].set(jnp.nan) if not flags else grads
        _, state = update(nan, state, params, active=jnp.asarray(active))
        entries.append(gdsec_jax.last_round(state).entries.tolist())
        flags.append(np.asarray(_packing.whole_of(state.workers)).tolist())
        grads = grads * 2
    assert entries == [[4, 0, 0], [1, 4, 0], [1, 1, 4]]
    assert flags[2] == [False, False, True]


def test_first_whole_holds_its_compressors_state():
    inner = optax.trace(0.5)
    piece = worker.first_whole(inner)
    v = jnp.ones(2)
    first, state = piece.update(v, piece.init(v))
    second, state = piece.update(v, state)
    third, state = piece.update(v, state)
    assert [x.tolist() for x in (first, second, third)] == [[1, 1], [1, 1], [1.5, 1.5]]


def test_first_whole_of_some_rounds():
    piece = worker.first_whole(worker.error_feedback(worker.top_k(1)), rounds=2)
    v, state, seen = jnp.array([2.0, 1.5]), piece.init(jnp.zeros(2)), []
    for k in range(4):  # whatever was sent, or was not
        sent, state = piece.update(v * (k != 1), state, v, round=k)
        seen.append((sent.tolist(), bool(_packing.whole_of(state))))
    expected = [[2, 1.5], [0, 0], [2, 0], [0, 3]]
    assert seen == list(zip(expected, [True, True, False, False], strict=True))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    "piece",
    [
        worker.censor_whole(1.0),
        worker.lag(learning_rate=0.5, zeta=0.1),
        worker.laq(learning_rate=0.5, bits=3, zeta=0.1, scope="leaf"),
        worker.clag(worker.top_k(2), 0.5),
    ],
    ids=["censor_whole", "lag", "laq", "clag"],
)
def test_strict_dtypes_and_batches(piece, wide):
    with jax.enable_x64(wide), jax.numpy_dtype_promotion("strict"):
        v = {"a": jnp.ones((2, 3, 2)), "b": jnp.ones((2, 3), jnp.bfloat16)}
        extra = {"past_changes": jnp.ones(10), "round": 1}
        one = lambda v: piece.update(  # noqa: E731
            v, piece.init(v), params_change=v, gradient=v, **extra
        )[0]
        batch = jax.jit(jax.vmap(one))(v)
        alone = jax.jit(one)(jax.tree.map(lambda x: x[1], v))
        for x, y in zip(jax.tree.leaves(batch), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(x[1], y)


def test_bad_input():
    negative = [
        lambda: worker.censor(-1.0),
        lambda: worker.censor_whole(-1.0),
        lambda: worker.censor_whole(float("nan")),
        lambda: worker.lag(learning_rate=0.1, zeta=-1.0),
        lambda: worker.laq(learning_rate=0.1, bits=4, zeta=-1.0),
        lambda: worker.clag(worker.top_k(1), -1.0),
    ]
    for make in negative:
        with pytest.raises(ValueError, match=r"(xi|zeta) is (-1|nan), expected a numb"):
            make()
    for rate in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="learning_rate is .*, expected a finite"):
            worker.lag(learning_rate=rate, zeta=0.1)
    with pytest.raises(ValueError, match="bits is 31, expected an integer from 1 to"):
        worker.laq(learning_rate=0.1, bits=31, zeta=0.1)
    with pytest.raises(ValueError, match="scope is 'x', expected one of message, leaf"):
        worker.laq(learning_rate=0.1, bits=4, zeta=0.1, scope="x")
    v = jnp.ones(2)
    for piece, name in (
        (worker.censor(1.0), "censor"),
        (worker.censor_whole(1.0), "censor_whole"),
        (worker.lag(learning_rate=1.0, zeta=1.0), "lag"),
        (worker.laq(learning_rate=1.0, bits=2, zeta=1.0), "laq"),
    ):
        message = rf"{name} compares .* got none: call update\(gradients, state, para"
        with pytest.raises(ValueError, match=message):
            piece.update(v, piece.init(v), params_change=None)
    for make in (worker.lag, worker.laq):  # the order was another once
        with pytest.raises(TypeError, match="positional"):
            make(0.1, 0.5)
    for xi, text in (
        ({"c": 1.0}, "xi is the tree .*, expected a scalar or a prefix of the params'"),
        ({"a": jnp.ones(3)}, r"xi\['a'\] has shape \(3,\), expected one that broadcas"),
        ({"a": jnp.ones((1, 2))}, r"has shape \(1, 2\), .* parameter's \(2,\)"),
    ):
        censor, v = worker.censor(xi), {"a": jnp.ones(2)}
        with pytest.raises(ValueError, match=text):
            censor.update(v, censor.init(v), params_change=v)
    for make in (
        lambda: gdsec_jax.iag(2, probabilities=[0.5, 0.6]),
        lambda: gdsec_jax.iag(2, probabilities=[1.5, -0.5]),
        lambda: gdsec_jax.iag(2, probabilities=[1.0]),
    ):
        message = r"probabilities is \[.*\], expected 2 numbers of at least 0 with a su"
        with pytest.raises(ValueError, match=message):
            make()


def test_a_piece_that_needs_the_gradient_says_so():
    v = jnp.ones(2)
    clag = worker.clag(worker.top_k(1), 0.5)
    with pytest.raises(ValueError, match="gradient is None, .* clag stands in a grad"):
        clag.update(v, clag.init(v))
    change = worker.gradient_change(worker.whole())
    with pytest.raises(ValueError, match="gradient is None, .* gradient_change stands"):
        change.update(v, change.init(v), round=0)

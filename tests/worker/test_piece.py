"""What a piece declares of itself holds."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import slow_but
from inside import Part, Place

from gdsec_jax import worker


def _wrapped(piece):
    """What decorators make of an update: it bears optax's name, and is another."""

    @functools.wraps(piece.update)
    def update(updates, state, params=None):
        return updates / jnp.linalg.norm(updates), state

    return optax.GradientTransformation(piece.init, update)


# One of each piece, and of those of optax that are known.
PIECES = {
    "cast": worker.cast("bfloat16"),
    "censor": worker.censor(0.3),
    "censor by entries": worker.censor(jnp.arange(12.0)),
    "censor by rounds": worker.censor(lambda k: 0.3 / (k + 1)),
    "censor_whole": worker.censor_whole(0.3),
    "chain": worker.chain(optax.clip(0.5), worker.censor(0.3)),
    "chain of top_k and cast": worker.error_feedback(
        worker.chain(worker.top_k(3), worker.natural(), worker.cast("bfloat16"))
    ),
    "top_k before momentum": worker.chain(worker.top_k(3), worker.momentum(0.5)),
    "chain with top_k": worker.chain(worker.top_k(3), worker.censor(0.3)),
    "chain with censor and top_k": worker.gradient_difference(
        worker.error_feedback(worker.chain(worker.censor(0.3), worker.top_k(3)))
    ),
    "chunk_top_k": worker.chunk_top_k(1, chunk=4),
    "chunk_top_k, bits": worker.chunk_top_k(1, chunk=4, bits=2),
    "chunk_top_k, dct": worker.chunk_top_k(1, chunk=4, dct=True),
    "clag": worker.gradient_difference(worker.clag(worker.top_k(3), 0.5)),
    "dasha": worker.gradient_difference(worker.dasha(worker.random_k(3))),
    "error_feedback, damped": worker.error_feedback(
        worker.censor(0.3), decay=0.9, damping=0.5
    ),
    "error_feedback": worker.error_feedback(worker.censor(0.3)),
    "error_feedback of top_k": worker.error_feedback(worker.top_k(3)),
    "first whole sign": worker.error_feedback(worker.first_whole(worker.sign())),
    "first_whole": worker.first_whole(worker.top_k(3)),
    "fragment": worker.fragment(4),
    "gradient_change": worker.gradient_difference(
        worker.gradient_change(worker.random_k(3))
    ),
    "gradient_difference": worker.gradient_difference(worker.censor(0.3), 0.1),
    "beta by length": worker.gradient_difference(worker.censor(0.3), lambda p: 0.1),
    "grid": worker.grid(3),
    "lag": worker.lag(zeta=0.5, learning_rate=0.1),
    "laq": worker.laq(learning_rate=0.1, bits=3, zeta=0.5),
    "low_rank": worker.low_rank(1),
    "momentum": worker.momentum(0.5),
    "natural": worker.natural(),
    "perm_k": worker.perm_k(4),
    "power_sgd": worker.power_sgd(1),
    "power_sgd inside": worker.error_feedback(worker.power_sgd(1)),
    "qsgd": worker.qsgd(7),
    "qsgd by leaf": worker.qsgd(3, scope="leaf"),
    "random_k": worker.random_k(3),
    "sign": worker.sign(),
    "terngrad": worker.terngrad(),
    "three_point": worker.gradient_difference(
        worker.three_point("v2", worker.top_k(2), worker.random_k(1))
    ),
    "unscaled": worker.random_k(3, scaled=False),
    "top_k": worker.top_k(3),
    "top_k by leaf": worker.top_k(0.25, scope="leaf"),
    "whole": worker.whole(),
    "optax trace": worker.chain(optax.trace(0.9)),
    "optax ema": worker.chain(optax.ema(0.9)),
    "optax adam": worker.chain(optax.scale_by_adam()),
    "optax rms": worker.chain(optax.scale_by_rms()),
    "optax decay": worker.chain(optax.add_decayed_weights(0.1)),
    "optax clip": worker.chain(optax.clip(0.5)),
    "optax sign": worker.chain(optax.scale_by_sign()),
    "optax zero": worker.chain(optax.set_to_zero()),
    "optax identity": worker.chain(optax.identity()),
    "optax scale": worker.chain(optax.scale(2.0)),
    "optax schedule": worker.chain(optax.scale_by_schedule(lambda k: 1.0 / (k + 1))),
    "optax norm": worker.chain(optax.clip_by_global_norm(1.0)),
    "unknown": worker.chain(optax.stateless(lambda tree, _: tree)),
    "optax array": worker.chain(optax.scale(jnp.arange(12.0))),
    "wrapped": worker.chain(_wrapped(optax.identity())),
    "warm start": worker.chain(
        optax.trace(0.5)._replace(init=lambda p: optax.TraceState(jnp.ones(12)))
    ),
}
COMPONENT_WISE = {
    *("cast", "censor", "chain", "error_feedback", "gradient_difference", "momentum"),
    *(
        "error_feedback, damped",
        "whole",
        "optax trace",
        "optax ema",
        "optax adam",
        "optax rms",
        "optax decay",
    ),
    *("optax clip", "optax sign", "optax zero", "optax identity", "optax scale"),
}
KEEPS_ZEROS = {
    *("cast", "censor", "censor by entries", "censor by rounds", "chain with top_k"),
    *("natural", "qsgd", "random_k", "terngrad", "top_k", "whole"),
    *("chunk_top_k", "perm_k", "unscaled", "qsgd by leaf", "top_k by leaf"),
    "fragment",
}
MOST = {  # of 12 entries; the first message of some is whole
    "chain with top_k": 3,
    "chain with censor and top_k": 3,
    "chain of top_k and cast": 3,
    "chunk_top_k": 3,
    "chunk_top_k, bits": 3,
    "clag": 3,
    "dasha": 3,
    "perm_k": 3,
    "three_point": 3,
    "unscaled": 3,
    "error_feedback of top_k": 3,
    "first_whole": 3,
    "fragment": 3,
    "gradient_change": 3,
    "random_k": 3,
    "top_k": 3,
    "top_k by leaf": 3,
}
MEASURES = {
    *("chain with censor and top_k", "error_feedback of top_k", "first_whole", "grid"),
    *("first whole sign", "qsgd", "qsgd by leaf", "sign", "terngrad", "top_k"),
    "top_k by leaf",
}
SUM = {"power_sgd", "power_sgd inside"}
UNKNOWN = {"optax norm", "unknown", "optax schedule", "optax array", "wrapped"}
UNKNOWN |= {"warm start"}


def two_rounds(piece, gradients, params):
    """The messages of two rounds; parameters and gradients are vectors."""
    state, out = piece.init(params), []
    for k, gradient in enumerate(gradients):
        known = {
            "params_change": params / (k + 1),
            "past_changes": jnp.ones(10),
            "round": jnp.asarray(k),
            "key": jax.random.key(k),
            "round_key": jax.random.key(k),
            "worker_index": jnp.asarray(2),
            "like": params,
        }
        message, state = piece.update(gradient, state, params, **known)
        out.append(message)
    return jnp.stack(out)


def test_what_is_declared():
    for name, piece in PIECES.items():
        assert piece.component_wise == (name in COMPONENT_WISE), name
        expected = True if name in SUM else None if name in UNKNOWN else False
        assert piece.sums_over_workers is expected, name
    has_variance = {name for name, x in PIECES.items() if x.variance is not None}
    unbiased = {"natural", "qsgd", "random_k", "terngrad", "whole"}
    assert has_variance == unbiased | {"perm_k", "qsgd by leaf"}
    contracts = {name for name, x in PIECES.items() if x.contraction is not None}
    assert contracts == {
        *("chunk_top_k", "chunk_top_k, dct", "sign", "top_k", "unscaled", "whole"),
        "top_k by leaf",
    }


def test_what_contracts_does():
    """On average over draws, and on the worst vectors of sign and of a sparsifier."""
    params = jnp.zeros(12)
    vectors = np.random.default_rng(3).normal(size=(4, 12))
    vectors = jnp.asarray([*vectors, np.ones(12), np.eye(12)[5]], jnp.float32)
    keys = jax.random.split(jax.random.key(0), 500)
    for name, piece in PIECES.items():
        if piece.contraction is None:
            with pytest.raises(ValueError, match="declares its contraction: top_k"):
                worker.contraction_of(piece, params)
            continue
        left = 1 - worker.contraction_of(piece, params)
        for v in vectors:
            one = lambda key, v=v, piece=piece: piece.update(  # noqa: E731
                v, piece.init(v), v, key=key
            )[0]
            errors = ((jax.vmap(one)(keys) - v) ** 2).sum(1).mean()
            slack = 1.15 if name == "unscaled" else 1 + 1e-5
            assert errors <= left * (v**2).sum() * slack + 1e-5, name


@pytest.mark.parametrize("name", sorted(COMPONENT_WISE))
def test_components_go_their_own_ways(name):
    """Some of the components, in another order: the same messages for these."""
    rng = np.random.default_rng(0)
    gradients = jnp.asarray(rng.normal(size=(2, 12)), jnp.float32)
    params = jnp.asarray(rng.normal(size=12), jnp.float32)
    some = rng.permutation(12)[:7]
    run = jax.jit(lambda g, p: two_rounds(PIECES[name], g, p))
    np.testing.assert_allclose(
        run(gradients[:, some], params[some]),
        run(gradients, params)[:, some],
        rtol=1e-6,
    )


def test_which_pieces_measure():
    assert {n for n, x in PIECES.items() if x.measure is not None} == MEASURES


CUT = {"a": (0, 9, 20), "b": (0, 4, 7)}  # where the parts of two vectors begin, and end


def in_parts(tree):
    """Its parts; what is no such vector is in all of them."""
    lengths = {ends[-1]: ends for ends in CUT.values()}

    def cut(x, n):
        ends = lengths.get(x.shape[-1] if x.ndim else None)
        return x if ends is None else x[ends[n] : ends[n + 1]]

    return [jax.tree.map(lambda x, n=n: cut(x, n), tree) for n in range(2)]


@pytest.mark.parametrize("name", slow_but(sorted(MEASURES)[:4], sorted(MEASURES)))
def test_what_was_measured_lets_components_go_their_own_ways(name):
    """Two rounds, in two parts, of two vectors: bit by bit what it is at once."""
    piece, rng = PIECES[name], np.random.default_rng(4)
    params = {
        n: jnp.asarray(rng.normal(size=x[-1]), jnp.float32) for n, x in CUT.items()
    }
    state = piece.init(params)
    places = [
        Place(tuple(jnp.int32(x[n]) for x in CUT.values()), (20, 7)) for n in range(2)
    ]
    for k in range(3):
        gradient = jax.tree.map(
            lambda p: jnp.asarray(np.round(rng.normal(size=p.shape), 1), jnp.float32),
            params,
        )
        known = {"params_change": params, "key": jax.random.key(k), "like": params}
        whole, after = piece.update(gradient, state, params, **known)
        told = [
            known | {"params_change": own, "place": place, "like": own}
            for own, place in zip(in_parts(params), places, strict=True)
        ]
        each = [in_parts(x) for x in (gradient, state, params)]
        measured = piece.measure(
            [Part(*part) for part in zip(*each, told, strict=True)]
        )
        assert measured.finite and measured.some
        made = [
            piece.update(g, s, p, **extra, measured=measured)
            for g, s, p, extra in zip(*each, told, strict=True)
        ]
        for n, (message, own) in enumerate(made):
            chex.assert_trees_all_close(message, in_parts(whole)[n], rtol=1e-6)
            chex.assert_trees_all_close(own, in_parts(after)[n], rtol=1e-6, atol=1e-7)
        state = after


@pytest.mark.has_nans
@pytest.mark.parametrize("name", sorted(MEASURES))
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e-39])
def test_what_is_measured_of_no_numbers_and_of_none(name, value):
    piece, params = PIECES[name], {"a": jnp.zeros(20), "b": jnp.zeros(7)}
    gradient = {"a": jnp.zeros(20), "b": jnp.zeros(7).at[3].set(value)}
    place = Place((jnp.int32(0), jnp.int32(0)), (20, 7))
    known = {"params_change": params, "place": place, "like": params}
    part = Part(gradient, piece.init(params), params, known)
    measured = piece.measure([part])
    assert measured.finite == np.isfinite(value)
    if np.isfinite(value):
        assert not measured.some


@pytest.mark.parametrize("name", sorted(SUM))
def test_what_sums_over_workers_cannot_run_alone(name):
    params = jnp.ones((4, 3))
    with pytest.raises(NameError, match=worker.WORKER_AXIS):
        jax.eval_shape(lambda: two_rounds(PIECES[name], jnp.ones((2, 4, 3)), params))


def test_the_others_run_alone():
    for name, piece in PIECES.items():
        if name not in SUM:
            shape = jax.eval_shape(
                lambda piece=piece: two_rounds(piece, jnp.ones((2, 12)), jnp.ones(12))
            )
            assert shape.shape == (2, 12), name


def test_a_message_that_travels_is_as_the_parameters_are():
    params, gradients = jnp.ones(3, jnp.bfloat16), jnp.ones((2, 3)) * 1e-39
    for name in ("error_feedback", "gradient_difference", "clag"):
        piece = PIECES[name]
        assert piece.travels
        out = two_rounds(piece, gradients, params)
        assert out.dtype == jnp.bfloat16 and not out.any()


def test_what_keeps_zeros_and_how_many_entries_a_message_has():
    rng = np.random.default_rng(1)
    gradients = jnp.asarray(rng.normal(size=(2, 12)), jnp.float32)
    params = jnp.asarray(rng.normal(size=12), jnp.float32)
    holed = gradients.at[:, ::3].set(0)
    for name, piece in PIECES.items():
        assert piece.keeps_zeros == (name in KEEPS_ZEROS), name
        if piece.keeps_zeros:
            assert not two_rounds(piece, holed, params)[:, ::3].any(), name
        assert (piece.most_entries is not None) == (name in MOST), name
        if piece.most_entries is not None:
            assert piece.most_entries(params) == MOST[name], name
            sent = (two_rounds(piece, gradients, params) != 0).sum(1)
            assert sent[1] <= MOST[name], name


def test_the_old_name_of_an_unbiased_piece():
    with pytest.warns(DeprecationWarning, match=r"use worker.Piece\(..., variance"):
        make = worker.UnbiasedCompressor
    assert make(optax.init_empty_state, None, lambda p: 2.0).variance(None) == 2.0
    with pytest.raises(AttributeError, match="has no attribute 'no_piece'"):
        worker.no_piece  # noqa: B018

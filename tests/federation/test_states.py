"""States that leave our hands: what other libraries write, carry, cut and map."""

import contextlib
import pickle
from functools import cache
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import METHODS, random_gradients, slow_but
from inside import _native

import gdsec_jax
from gdsec_jax import problems, server, wire, worker

M = 3
BY_NAME = {method.name: method for method in METHODS}


class Case(NamedTuple):
    """An optimizer with a state of its own kind."""

    name: str
    make: Any


def of_method(name, **options):
    return lambda: optax.chain(BY_NAME[name].make(M, **options), optax.sgd(0.05))


def of_gdsec(*behind, **options):
    def make():
        algorithm = gdsec_jax.gdsec(M, **({"xi": 2.0, "beta": 0.1} | options))
        return optax.chain(algorithm, optax.adam(0.01), *[make() for make in behind])

    return make


def down():
    piece = worker.error_feedback(worker.qsgd(4))
    return gdsec_jax.broadcast(piece, key=1)


def parted():
    def kinds(params):
        def kind(path, _):
            return "few" if "w" in jax.tree_util.keystr(path) else "all"

        return jax.tree_util.tree_map_with_path(kind, params)

    methods = {"few": gdsec_jax.top_j(M, k=2), "all": gdsec_jax.gd(M)}
    return optax.chain(optax.partition(methods, kinds), optax.sgd(0.05))


def injected():
    def make(learning_rate, xi):
        return optax.chain(gdsec_jax.gdsec(M, xi=xi), optax.sgd(learning_rate))

    return optax.inject_hyperparams(make)(learning_rate=0.05, xi=1.0)


# Counts of none, one and two formats' runs; all states are of these kinds.
WIRES = ("coo", "rle", wire.Format("coo", also=("rle", "golomb")))
KINDS = (
    *("gd", "qsgdsec", "laq", "low_rank", "power_sgd", "ef21", "diana", "marina"),
    *("threepc", "dasha"),
)
CASES = (
    *(Case(f"wire {form}", of_gdsec(wire=form)) for form in WIRES),
    *(Case(name, of_method(name)) for name in KINDS),
    Case("leaf scales", lambda: gdsec_jax.qgd(M, levels=4, scope="leaf")),
    Case("hold", of_gdsec(on_standstill="hold", key=3, state_dtype="bfloat16")),
    Case("adaptive", of_gdsec(xi=gdsec_jax.adaptive_xi())),
    Case("late", of_gdsec(server=server.late(2))),
    Case("sparse", lambda: gdsec_jax.top_j(M, k=2, server=server.sparse(4))),
    Case(
        "judged",
        of_gdsec(server=server.robust(gdsec_jax.robust.median, max_norm_ratio=5.0)),
    ),
    Case("broadcast", of_gdsec(down)),
    Case("partition", parted),
    Case("injected", injected),
)
FAST = ("wire rle", "power_sgd", "marina", "broadcast")


def each_case(*fast, slow=None):
    """Parametrise a test by the cases, or those named, all but these as slow ones."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(
                case,
                id=case.name,
                marks=[] if case.name in fast else pytest.mark.slow,
            )
            for case in CASES
            if slow is None or case.name in (*fast, *slow)
        ],
    )


def start():
    return {"w": jnp.ones((3, 2)), "b": jnp.full(2, 0.5), "s": jnp.asarray(2.0)}


def grads(seed):
    return random_gradients(start(), M, seed)


@cache
def begun(case):
    """The optimizer, its compiled update, the params and the state after a round."""
    optimizer, params = case.make(), start()
    update = jax.jit(optimizer.update)
    updates, state = update(grads(0), optimizer.init(params), params)
    return optimizer, update, optax.apply_updates(params, updates), state


def through_orbax(state, folder):
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", state)
        checkpointer.wait_until_finished()
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        return checkpointer.restore(folder / "state", like)


def through_a_manager(state, folder):
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.CheckpointManager(folder) as manager:
        manager.save(1, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
        return manager.restore(1, args=ocp.args.StandardRestore(state))


def through_flax(state, folder):
    flax = pytest.importorskip("flax.serialization")
    return flax.from_bytes(state, flax.to_bytes(state))


def through_pickle(state, folder):
    return pickle.loads(pickle.dumps(state))


WAYS = (through_a_manager, through_flax, through_pickle)


def assert_identical(got, expected):
    """The same tree, dtypes and bits."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


@each_case(*FAST)
@pytest.mark.parametrize("way", WAYS)
def test_a_state_comes_back_bit_for_bit(case, way, tmp_path):
    _, update, params, state = begun(case)
    back = way(state, tmp_path)
    assert_identical(back, state)
    after = update(grads(1), state, params)
    assert_identical(update(grads(1), back, params), after)
    assert not np.array_equal(after[0]["w"], np.zeros((3, 2)))


@each_case(*FAST)
def test_orbax_needs_no_template(case, tmp_path):
    """Without one it gives dicts, lists and None for what was named and empty."""
    ocp = pytest.importorskip("orbax.checkpoint")
    state = begun(case)[-1]
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        back = checkpointer.restore(tmp_path / "state")
    expected = jax.tree_util.tree_leaves_with_path(state)
    assert len(jax.tree.leaves(back)) == len(expected)
    for path, leaf in expected:
        found = back
        for step in path:
            found = (
                found[jax.tree_util.keystr((step,), simple=True)]
                if isinstance(found, dict)
                else found[step.idx]
            )
        assert_identical(found, leaf)


@pytest.mark.parametrize("name", slow_but(["marina"], ["marina", "power_sgd", "late"]))
def test_a_train_state_of_flax_is_saved(name, tmp_path):
    train_state = pytest.importorskip("flax.training.train_state")
    (case,) = (case for case in CASES if case.name == name)
    optimizer, _, params, state = begun(case)
    made = train_state.TrainState.create(
        apply_fn=len, params=params, tx=optimizer
    ).replace(opt_state=state)
    for way in (through_orbax, through_flax):
        assert_identical(way(made, tmp_path), made)


@each_case("wire rle", "power_sgd", "broadcast")
def test_paths_name_fields(case):
    for path, leaf in jax.tree_util.tree_leaves_with_path(begun(case)[-1]):
        assert not any(
            isinstance(step, jax.tree_util.FlattenedIndexKey) for step in path
        )
        assert leaf.size, path


@each_case(*("wire coo", "power_sgd", "broadcast"), slow=("marina", "late", "adaptive"))
def test_a_state_is_donated_with_its_params(case):
    optimizer, update, _, _ = begun(case)

    def one(grads, state, params):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    given_away = jax.jit(one, donate_argnums=(1, 2))
    params, state = start(), optimizer.init(start())
    mine = start()
    own = optimizer.init(mine)
    for seed in range(3):
        mine, own = given_away(grads(seed), own, mine)
        updates, state = update(grads(seed), state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close((mine, own), (params, state), rtol=1e-5, atol=1e-6)


TWICE = {
    "lbfgs": optax.lbfgs,
    "cocob": optax.contrib.cocob,
    "prodigy": optax.contrib.prodigy,
    "dog": optax.contrib.dog,
    "mechanize": lambda: optax.contrib.mechanize(optax.sgd(0.1)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow) for x in TWICE]
)
def test_a_copy_helps_where_optax_puts_one_buffer_twice_into_a_state(name):
    """A loop of one's own copies once; `simulate` donates without being told."""
    targets = jnp.arange(6.0).reshape(3, 2) + 1

    def loss(params, target):
        return jnp.square(params - target).sum()

    problem = problems.from_loss(loss, targets, jnp.ones(2))
    optimizer = optax.chain(gdsec_jax.gd(M), TWICE[name]())

    def one(state, params):
        value, grad = jax.value_and_grad(problem.objective)(params)
        updates, state = optimizer.update(
            problem.gradients(params), state, params,
            value=value, grad=grad, value_fn=problem.objective,
        )  # fmt: skip
        return state, optax.apply_updates(params, updates)

    given_away = jax.jit(one, donate_argnums=(0, 1))
    params = jnp.ones(2)
    with pytest.raises(Exception, match="donate the same buffer twice"):
        given_away(optimizer.init(params), params)
    params = jnp.ones(2)
    state = jax.tree.map(jnp.copy, optimizer.init(params))
    for _ in range(3):
        state, params = given_away(state, params)
    history = gdsec_jax.simulate(problem, optimizer, 3)
    np.testing.assert_allclose(history.params, params, rtol=1e-5)


def loops(optimizer, params, grads):
    """Scan, while and cond over an update, each of which holds dtypes fixed."""

    def one(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    def once(carry):
        return one(carry, grads)[0]

    carry = params, optimizer.init(params)
    for_all = jax.tree.map(lambda x: jnp.stack([x] * 2), grads)
    carry, _ = jax.lax.scan(one, carry, for_all)
    carry = jax.lax.while_loop(lambda c: jnp.isnan(c[0]["s"]), once, carry)
    return jax.lax.cond(jnp.isnan(carry[0]["s"]), once, lambda c: c, carry)


@each_case("wire rle", "qsgdsec", "adaptive")
@pytest.mark.parametrize("b", ["bfloat16", "float64"])
def test_loops_carry_a_state(case, b):
    with jax.enable_x64(b != "bfloat16"):
        params = start() | {"b": jnp.ones(2, b)}
        given = random_gradients(params, M, 0)
        after = jax.eval_shape(lambda *x: loops(case.make(), *x), params, given)
        chex.assert_trees_all_equal_dtypes(after[0], params)


@each_case("wire rle", "qsgdsec", "power_sgd", "broadcast")
def test_optax_gets_sets_and_maps(case):
    optimizer, update, params, state = begun(case)
    rounds = [x for _, x in optax.tree.get_all_with_path(state, "number")]
    assert rounds and all(x == 1 for x in rounds)
    later = optax.tree.set(state, number=jnp.asarray(7, jnp.int32))
    chex.assert_trees_all_equal_shapes_and_dtypes(
        update(grads(1), later, params), update(grads(1), state, params)
    )
    assert_identical(optax.tree.map_params(optimizer, lambda x: x, state), state)
    twice = optax.tree.map_params(optimizer, lambda x: x + x, state)
    before = optax.tree.get_all_with_path(state, "previous_params")
    for (_, x), (_, y) in zip(
        before, optax.tree.get_all_with_path(twice, "previous_params"), strict=True
    ):
        chex.assert_trees_all_equal(jax.tree.map(lambda a: a + a, x), y)
    assert_identical(gdsec_jax.last_round(twice), gdsec_jax.last_round(state))


@each_case("wire rle", "marina", slow=("low_rank", "late", "broadcast", "partition"))
def test_an_optimizer_of_flax_carries_it(case):
    nnx = pytest.importorskip("flax.nnx")
    _, _, params, _ = begun(case)

    class Net(nnx.Module):
        def __init__(self):
            for name, value in start().items():
                setattr(self, name, nnx.Param(value))

    net = Net()
    optimizer = nnx.Optimizer(net, case.make(), wrt=nnx.Param)
    own = nnx.state(net, nnx.Param)
    for name, value in grads(0).items():
        own[name] = own[name].replace(value)
    nnx.jit(lambda optimizer, net, own: optimizer.update(net, own))(optimizer, net, own)
    moved = {name: getattr(net, name)[...] for name in params}
    chex.assert_trees_all_close(moved, params, rtol=1e-5)
    sent = gdsec_jax.last_round(optimizer.opt_state)
    assert all(type(x) is type(params["w"]) for x in jax.tree.leaves(sent))
    assert sent.bits.dtype == np.int64 and sent.dropped == 0
    down = gdsec_jax.last_broadcast(optimizer.opt_state)
    assert all(type(x) is type(params["w"]) for x in jax.tree.leaves(down))


@each_case("wire rle", "marina")
def test_filters_of_equinox_cut_it(case, tmp_path):
    equinox = pytest.importorskip("equinox", reason="extra test: its filters")
    optimizer, update, params, state = begun(case)
    arrays, rest = equinox.partition(state, equinox.is_array)
    assert not jax.tree.leaves(rest)
    assert_identical(equinox.combine(arrays, rest), state)
    ours = update(grads(1), state, params)
    theirs = equinox.filter_jit(optimizer.update)(grads(1), state, params)
    chex.assert_trees_all_close(theirs, ours, rtol=1e-6)
    equinox.tree_serialise_leaves(tmp_path / "state", state)
    back = equinox.tree_deserialise_leaves(tmp_path / "state", state)
    assert_identical(back, state)


def export_named_tuples(tree):
    """Let jax.export write those of optax, which registers none."""
    for kind in {type(node) for node in named_tuples(tree)}:
        if kind.__module__.startswith("optax."):
            name = f"{kind.__module__}.{kind.__name__}"
            with contextlib.suppress(ValueError):  # it is known already
                jax.export.register_namedtuple_serialization(kind, serialized_name=name)


def named_tuples(node):
    """All in a tree, from the outermost."""
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        yield node
    if isinstance(node, tuple | list | dict):
        for child in node.values() if isinstance(node, dict) else node:
            yield from named_tuples(child)


@each_case("wire rle", "power_sgd", slow=("laq", "marina", "late", "broadcast"))
def test_an_exported_update_is_written_and_read(case):
    pytest.importorskip("flatbuffers", reason="extra test: bytes of exported programs")
    _, update, params, state = begun(case)
    export_named_tuples(state)
    given = grads(1), state, params
    # What is exported has no kernels; nor are rounds that can have them added up alike.
    with _native.native_kernels(False):
        exported = jax.export.export(update)(*given)
        back = jax.export.deserialize(exported.serialize())
        assert back.in_tree == exported.in_tree and back.out_tree == exported.out_tree
        assert_identical(back.call(*given), update(*given))

"""Workers on the devices of a mesh do what workers on one device do.

To 1e-12 in float64: sums over workers are rounded differently. Where an entry stands
within rounding of a threshold, one of the two would send it and the other not; the
samples here are normal numbers, of which none does. Methods of factors double such
differences every few rounds, on one device, too, so that they are compared for fewer;
some are given a step at which they do not diverge.
"""

import textwrap

import pytest
from cases import METHODS
from meshes import WAYS, on_devices
from study.test_distributed import program, together

import gdsec_jax
from gdsec_jax import server

# Between them all kinds of collectives.
QUICK = {"auto": ("gdsec", "power_sgd"), "inside": ("sign_ef", "gd")}

BOLD = "diana", "marina", "dasha", "threepc"  # at the step of the others
EQUALS = """
    from cases import METHODS
    for method in METHODS:
        if method.name in {names}:
            make = lambda axis: made(method, 4, axis)
            rounds = {rounds}
            if method.name in ("low_rank", "power_sgd"):
                rounds = min(rounds, 60)
            step = 0.001 if method.name in {bold} else 0.01
            agree(make, 4, rounds, {ways}, method.name, step=step)
"""


@pytest.mark.parametrize("way", QUICK)
def test_a_method_on_four_devices_is_that_on_one(way):
    on_devices(EQUALS.format(bold=BOLD, names=QUICK[way], ways=(way,), rounds=20))


NAMES = [method.name for method in METHODS]
# These in all ways: again all kinds of collectives.
EVERY_WAY = (*("gdsec", "sign_ef", "ef21", "power_sgd", "marina"),)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_for_three_hundred_rounds(part):
    names = [name for name in NAMES[part::5] if name not in EVERY_WAY]
    on_devices(EQUALS.format(bold=BOLD, names=names, ways=("explicit",), rounds=300))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_for_three_hundred_rounds_in_every_way(part):
    names, ways = EVERY_WAY[part::2], tuple(WAYS)
    on_devices(EQUALS.format(bold=BOLD, names=names, ways=ways, rounds=300))


@pytest.mark.slow
def test_eight_devices():
    on_devices(
        """
        from cases import METHODS
        for method in METHODS:
            if method.name not in ("gdsec", "power_sgd"):
                continue
            one, many = (
                optax.chain(made(method, 8, axis), optax.sgd(0.01))
                for axis in (None, "data")
            )
            expected = alone(one, 8, 40)
            for kind in ("auto", "explicit"):
                course = spread(many, 8, 40, mesh_of(kind, data=8))
                course.agrees_with(expected, f"{method.name} {kind}")
            course = inside(many, 8, 40, mesh_of("auto", data=8))
            course.agrees_with(expected, method.name)
        """,
        devices=8,
    )


@pytest.mark.slow
def test_two_processes_of_two_devices():
    """Over gloo; each process holds the replicas of its devices against one's own."""
    names = "gdsec", "sign_ef"
    equals = textwrap.dedent(
        EQUALS.format(bold=BOLD, names=names, ways=("inside",), rounds=20)
    )
    together(program("from meshes import *\n" + equals))


MESHES = """
    from cases import METHODS
    cut = lambda axis: {{"w": P(None, axis), "b": P(axis)}}
    meshes = {{
        "several axes": (dict(a=2, b=2), ("a", "b"), {{}}),
        "several workers a device": (dict(data=2), "data", {{}}),
        "an idle axis": (dict(data=4, model=2), "data", {{}}),
        "parameters over a model axis": (
            dict(data=4, model=2), "data", dict(lies=cut("model"))
        ),
        "parameters over the workers' axis": (
            dict(data=4), "data", dict(lies=cut("data"), gathers=True)
        ),
    }}
    for method in METHODS:
        if method.name not in {names}:
            continue
        expected = alone(optax.chain(made(method, 4), optax.sgd(0.01)), 4, 20)
        for kind in {kinds}:
            for name, (sizes, axis, options) in meshes.items():
                many = optax.chain(made(method, 4, axis), optax.sgd(0.01))
                mesh = mesh_of(kind, **sizes)
                course = spread(many, 4, 20, mesh, axis, **options)
                course.agrees_with(expected, f"{{method.name}} {{kind}} {{name}}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["top_j", "gdsec", "laq", "power_sgd"])
def test_any_mesh(name):
    """Of all kinds of messages."""
    kinds = ("auto", "explicit") if name == "laq" else ("explicit",)
    on_devices(MESHES.format(names=(name,), kinds=kinds), 8)


OPTIONS = """
    capacity = server.sparse(60)
    gdsec = lambda axis, xi=5.0, **options: gdsec_jax.gdsec(
        4, xi, 0.1, axis=axis, **({{"server": capacity}} | options)
    )
    top_j = lambda axis, **options: gdsec_jax.top_j(4, 0.1, axis=axis, **options)
    chunks = lambda axis, **options: gdsec_jax.federate(
        worker.error_feedback(worker.chunk_top_k(5, chunk=64, **options)), 4, axis=axis
    )
    here, heard = attendance(20, 4, 0), attendance(20, 4, 1)
    static = gdsec_jax.STATIC_ARGS.of(gdsec_jax.gdsec)
    injected = optax.inject_hyperparams(gdsec_jax.gdsec, static_args=static)

    def given_a_key(axis):
        def update(gradients, state, params=None, *, key, weights, **told):
            method = gdsec_jax.rand_k(4, 0.2, key=key, weights=weights, axis=axis)
            return method.update(gradients, state, params, **told)

        init = gdsec_jax.rand_k(4, 0.2, key=0, axis=axis).init
        return optax.GradientTransformationExtraArgs(init, update)

    cases = {{
        "absent": (gdsec, lambda k: {{"active": here[k]}}),
        "accumulating": (
            top_j, lambda k: {{"active": here[k], "absent": "accumulate"}}
        ),
        "lost": (
            lambda axis: gdsec_jax.ef21(4, 0.1, axis=axis),
            lambda k: {{"active": here[k], "delivered": heard[k]}},
        ),
        "lost codes": (
            lambda axis: gdsec_jax.laq(4, 0.01, axis=axis),
            lambda k: {{"delivered": heard[k]}},
        ),
        "absent factors": (
            lambda axis: gdsec_jax.power_sgd(4, 2, key=0, axis=axis),
            lambda k: {{"active": here[k]}},
        ),
        "granted": (gdsec, lambda k: {{"grant": lambda o: o[0] > jnp.sort(o[0])[1]}}),
        "weights": (lambda axis: gdsec(axis, weights=[1.0, 2.0, 3.0, 0.5]), None),
        "mean": (lambda axis: top_j(axis, reduction="mean"), None),
        "weighted mean": (
            lambda axis: gdsec_jax.sign_ef(
                4, axis=axis, weights=[1.0, 2.0, 3.0, 0.5], reduction="mean"
            ),
            None,
        ),
        "scales of leaves": (
            lambda axis: gdsec_jax.qgd(4, levels=7, key=0, scope="leaf", axis=axis),
            None,
        ),
        "adaptive": (lambda axis: gdsec(axis, gdsec_jax.adaptive_xi()), None),
        "injected": (
            lambda axis: injected(
                num_workers=4, xi=5.0, beta=0.1, server=capacity, axis=axis
            ),
            None,
        ),
        "traced": (
            given_a_key,
            lambda k: {{
                "key": jax.random.fold_in(jax.random.key(3), k),
                "weights": jnp.array([1.0, 2.0, 3.0, 0.5]),
            }},
        ),
        "outliers": (
            lambda axis: gdsec(axis, server=server.sparse(60, max_norm_ratio=1.02)),
            None,
        ),
        "running": (lambda axis: top_j(axis, server=server.running()), None),
        "narrow memories": (lambda axis: gdsec(axis, state_dtype="bfloat16"), None),
        "held": (lambda axis: gdsec(axis, on_standstill="hold"), None),
        "broadcast": (
            lambda axis: optax.chain(
                top_j(axis),
                gdsec_jax.broadcast(worker.error_feedback(worker.top_k(30))),
            ),
            None,
        ),
        "adam": (lambda axis: optax.chain(top_j(axis), optax.adam(0.1)), None),
        "chunks": (lambda axis: chunks(axis), None),
        "bins": (lambda axis: chunks(axis, bits=2), None),
        "transforms": (lambda axis: chunks(axis, dct=True), None),
        "permuted": (
            lambda axis: gdsec_jax.dasha(4, worker.perm_k(4), key=0, axis=axis), None
        ),
        "weighted messages": (
            lambda axis: gdsec_jax.ef_bv(4, worker.top_k(9), 0.7, 0.4, axis=axis),
            None,
        ),
    }}
    for name in {names}:
        make, said = cases[name]
        ways = [way for way in {ways} if (way, name) != ("explicit", "injected")]
        agree(make, 4, 20, ways, name, said)
"""
SOME = {
    "of who is there": (
        *("absent", "accumulating", "lost", "lost codes", "absent factors", "granted"),
        "outliers",
    ),
    "of sums": ("weights", "mean", "weighted mean", "scales of leaves", "running"),
    "of numbers": ("adaptive", "injected", "traced", "narrow memories", "held"),
    "of a chain": ("broadcast", "adam"),
    "of chunks": ("chunks", "bins", "transforms", "permuted", "weighted messages"),
}


@pytest.mark.slow
@pytest.mark.parametrize("names", SOME.values(), ids=SOME)
def test_options(names):
    on_devices(OPTIONS.format(names=names, ways=("explicit", "inside")))


@pytest.mark.slow
def test_narrow_parameters_are_summed_as_they_are():
    """Of the same gradients the same directions, bit for bit."""
    on_devices(
        """
        gradients_of = lambda rng, params, dtype: {
            name: jnp.asarray(rng.standard_normal((4, *p.shape)), dtype)
            for name, p in params.items()
        }
        mesh = mesh_of("explicit", data=4)
        makes = (
            lambda axis: gdsec_jax.gd(4, axis=axis),
            lambda axis: gdsec_jax.gdsec(
                4, 5.0, 0.1, axis=axis, server=server.sparse(60)
            ),
            lambda axis: gdsec_jax.top_j(4, 0.1, axis=axis),
            lambda axis: gdsec_jax.qgd(4, levels=7, key=0, axis=axis),
            lambda axis: gdsec_jax.sign_ef(4, axis=axis),
            lambda axis: gdsec_jax.ef21(4, 0.1, axis=axis),
        )
        for dtype in (jnp.bfloat16, jnp.float16):
            params = parameters(dtype)
            for make in makes:
                found = []
                for axis in (None, "data"):
                    algorithm, rng = make(axis), np.random.default_rng(0)
                    state, update = algorithm.init(params), jax.jit(algorithm.update)
                    for _ in range(4):
                        grads = gradients_of(rng, params, dtype)
                        if axis:
                            grads = jax.device_put(grads, NamedSharding(mesh, P(axis)))
                        direction, state = update(grads, state, params)
                        assert direction["b"].dtype == dtype
                    found.append(jax.device_get(direction))
                jax.tree.map(np.testing.assert_array_equal, *found)
        """
    )


def test_a_state_may_be_donated_and_lies_where_it_belongs():
    on_devices(
        """
        x, y = samples(4)
        for kind in ("auto", "explicit"):
            mesh = mesh_of(kind, data=4)
            on = lambda spec: NamedSharding(mesh, spec)
            optimizer = optax.chain(
                gdsec_jax.top_j(4, 0.1, axis="data"), optax.adam(0.01)
            )
            specs = gdsec_jax.state_specs(
                jax.eval_shape(optimizer.init, parameters()), "data"
            )
            lies = jax.tree.map(on, specs)
            params = jax.device_put(parameters(), on(P()))
            state = jax.jit(optimizer.init, out_shardings=lies)(params)
            data = jax.device_put((x, y), on(P("data")))

            @jax.jit(donate_argnums=(0, 1))
            def step(params, state, x, y):
                grads = gradients(params, x, y)
                updates, state = optimizer.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            for _ in range(3):
                before = state
                params, state = step(params, state, *data)
                donated = [x.is_deleted() for x in jax.tree.leaves(before[0].workers)]
                assert all(donated)
            for leaf in jax.tree.leaves((state[0].workers, state[0].sent)):
                assert leaf.addressable_shards[0].data.shape[0] == 1
            for leaf in jax.tree.leaves((params, state[0].clock, state[1])):
                assert leaf.sharding.is_fully_replicated
            assert step._cache_size() <= 2
        """
    )


def test_what_is_no_axis():
    with pytest.raises(ValueError, match="axis is 3, expected the name of a mesh axis"):
        gdsec_jax.gd(4, axis=3)  # pyright: ignore
    with pytest.raises(ValueError, match=r"axis is \['a'\], expected the name"):
        gdsec_jax.gd(4, axis=["a"])  # pyright: ignore
    sentence = "axis is named, expected a server that adds the messages up as they come"
    for rule in (server.late(2), server.robust(gdsec_jax.robust.trimmed_mean(0.25))):
        with pytest.raises(ValueError, match=sentence):
            gdsec_jax.gdsec(4, 1.0, server=rule, axis="data")


def test_what_is_refused_on_a_mesh():
    on_devices(
        """
        import pytest
        params = jnp.zeros(8)
        mesh, two = mesh_of("explicit", data=4), mesh_of("explicit", a=2, b=2)

        def refused(sentence, algorithm, num_workers=4, spec=P("data")):
            grads = jnp.ones((num_workers, 8))
            grads = jax.device_put(grads, NamedSharding(mesh, spec))
            with pytest.raises(ValueError, match=sentence):
                jax.jit(algorithm.update)(grads, algorithm.init(params), params)

        refused(
            "num_workers is 6, expected a multiple of 4, the devices on the mesh's "
            "axis 'data'.",
            gdsec_jax.gd(6, axis="data"), 6, P(),
        )
        refused(
            "axis is 'rows', expected one of the mesh's: 'data'.",
            gdsec_jax.gd(4, axis="rows"),
        )
        refused(
            "the messages may have any number of entries, expected a most, .*: "
            "server=server.sparse.capacity.",
            gdsec_jax.gdsec(4, 1.0, axis="data"),
        )
        refused(
            "capacity is 2, expected at least 5, the entries that the pipeline sends",
            gdsec_jax.federate(
                worker.top_k(5), 4, server=server.sparse(2), axis="data"
            ),
        )
        with jax.set_mesh(mesh):
            refused(
                "is an Explicit axis, under which JAX cannot do a part of this",
                gdsec_jax.cgd(4, xi=jnp.ones(()), axis="data"),
            )

        refused(
            "the gradients' workers lie on 'data', and the server sums h_m . u_m, "
            "which travels whole, expected a named axis: axis='data'.",
            gdsec_jax.ef21(4, 2),
        )

        algorithm, grads = gdsec_jax.gd(4), jnp.ones((4, 8))
        both = {
            "u": jax.device_put(grads, NamedSharding(two, P("a"))),
            "v": jax.device_put(grads, NamedSharding(two, P("b"))),
        }
        theta = {"u": params, "v": params}
        sentence = (
            "the gradients' workers are sharded over 'a' and 'b', expected one axis "
            "for all: name it, axis="
        )
        with pytest.raises(ValueError, match=sentence):
            jax.jit(algorithm.update)(both, algorithm.init(theta), theta)
        """
    )


INSIDE = """
    import pytest
    mesh = mesh_of("auto", data=4)
    x, y = jnp.ones((4, 6)), jnp.ones(4)

    def local(theta, x, y, method, apart=False):
        if apart:
            theta = jax.lax.pcast(theta, "data", to="varying")
        loss = lambda theta: ((x[0] @ theta - y[0]) ** 2).sum()
        grads = jax.grad(loss)(theta)
        update, _ = method.update(grads, method.init(theta), theta)
        return update

    def run(method, **options):
        own = lambda *values: local(*values, method, **options)
        run = jax.shard_map(
            own, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P()
        )
        return jax.jit(run)(jnp.zeros(6), x, y)
"""


def test_gradients_that_are_summed_already_are_refused():
    on_devices(
        INSIDE
        + """
    method = gdsec_jax.top_j(4, 2, axis="data")
    sentence = (
        "the gradients are the same on all devices of 'data', expected each one's own: "
        "jax.grad has added them up"
    )
    with pytest.raises(ValueError, match=sentence):
        run(method)
    assert np.isfinite(run(method, apart=True)).all()
    with pytest.raises(ValueError, match="num_workers is 8, expected 4, one for each "):
        run(gdsec_jax.top_j(8, 2, axis="data"), apart=True)
    """
    )


SHOTS = """
    shots = lambda compressor: {"server": server.two_shot(compressor, 4)}
    cases = {
        "signs": lambda axis: gdsec_jax.sign_ef(4, axis=axis, **shots(worker.sign())),
        "levels": lambda axis: gdsec_jax.qgd(
            4, levels=7, key=0, axis=axis, **shots(worker.grid(4))
        ),
        "a grid": lambda axis: gdsec_jax.laq(
            4, 0.01, axis=axis, **shots(worker.grid(8))
        ),
        "powers": lambda axis: gdsec_jax.natural(
            4, key=0, axis=axis, **shots(worker.whole())
        ),
        "common draws": lambda axis: gdsec_jax.rand_k(
            4, 0.2, common=True, key=0, axis=axis
        ),
        "common draws by leaf": lambda axis: gdsec_jax.rand_k(
            4, 0.2, common=True, error_feedback=True, scope="leaf", key=0, axis=axis
        ),
    }
    for name, make in cases.items():
        ways = ("inside",) if name == "levels" else ("explicit", "inside")
        agree(make, 4, 20, ways, name)
"""


@pytest.mark.slow
def test_second_roundings_and_common_draws():
    on_devices(SHOTS)


def test_what_a_sum_in_two_shots_refuses():
    on_devices(
        """
        import functools, pytest
        params, mesh = jnp.zeros(8), mesh_of("explicit", data=4)
        grads = jax.device_put(jnp.ones((4, 8)), NamedSharding(mesh, P("data")))

        def refused(sentence, make, parts=4, **options):
            two_shot = server.two_shot(worker.grid(4), parts)
            algorithm = make(4, axis="data", server=two_shot, **options)
            with pytest.raises(ValueError, match=sentence):
                jax.jit(algorithm.update)(grads, algorithm.init(params), params)

        refused("parts is 2, expected 4, the places", gdsec_jax.sign_ef, 2)
        refused("the messages are floats, expected codes", gdsec_jax.gd)
        marina = functools.partial(gdsec_jax.marina, compressor=worker.qsgd(7))
        refused("the messages are whole at times, as marina's", marina)
        with pytest.raises(ValueError, match="parts is 0"):
            server.two_shot(worker.grid(4), 0)
        """
    )


HOSTS = """
    cases = {
        "entries": lambda **over: gdsec_jax.top_j(4, 0.1, **over),
        "codes": lambda **over: gdsec_jax.qgd(4, levels=7, key=0, **over),
        "whole": lambda **over: gdsec_jax.gd(4, **over),
        "whole at first": lambda **over: gdsec_jax.ef21(4, 0.1, **over),
        "factors": lambda **over: gdsec_jax.power_sgd(4, 2, key=0, **over),
    }
    mesh = mesh_of("auto", hosts=4, chips=2)
    x, y = samples(4)
    cut = P("hosts", "chips")  # the workers over hosts, their samples over chips
    for name, make in cases.items():
        expected = alone(optax.chain(make(reduction="mean"), optax.sgd(0.01)), 4, 20)
        over = {"axis": "hosts", "within": "chips", "reduction": "mean"}
        optimizer = optax.chain(make(**over), optax.sgd(0.01))

        def local(params, x, y):
            def gradient(params):
                params = jax.lax.pcast(params, ("hosts", "chips"), to="varying")
                return jax.grad(loss)(params, *jax.tree.map(lambda t: t[0], (x, y)))

            params, bits = loop(optimizer, gradient, params, 20)
            return jax.tree.map(lambda p: p[None, None], params), bits

        run = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), cut, cut),
            out_specs=(cut, P(None, "hosts")),
        )
        params, bits = jax.jit(run)(parameters(), x, y)
        flat = jax.tree.map(lambda p: np.asarray(p).reshape(8, *p.shape[2:]), params)
        Course(flat, np.asarray(bits)).agrees_with(expected, name)

        # Outside of a shard_map the compiler has summed over the chips.
        course = spread(optimizer, 4, 20, mesh, "hosts")
        course.agrees_with(expected, name + ", by the compiler")
"""


@pytest.mark.slow
def test_dense_inside_a_host_and_compressed_between_hosts():
    on_devices(HOSTS, 8)


@pytest.mark.slow
def test_each_chip_of_a_host_exchanges_its_part():
    """Between hosts travels a message once a host, whatever chips it has."""
    on_devices(
        """
        import re

        def between_hosts(chips):
            mesh = mesh_of("auto", hosts=2, chips=chips)
            on = lambda spec: NamedSharding(mesh, spec)
            algorithm = gdsec_jax.top_j(2, 0.01, axis="hosts", within="chips")
            params = jnp.zeros(100_000, jnp.float32)
            grads = jax.device_put(jnp.ones((2, 100_000), jnp.float32), on(P("hosts")))
            state = algorithm.init(params)
            made = jax.jit(algorithm.update).lower(grads, state, params).compile()
            sizes = re.findall(r"u32\\[([\\d,]+)\\]\\S* all-gather\\(", made.as_text())
            return [int(np.prod([*map(int, size.split(","))])) for size in sizes]

        whole, _ = between_hosts(1)
        slow, fast = between_hosts(4)
        assert slow == -(-whole // 2 // 4) * 2 and fast >= whole, (whole, slow, fast)
        """,
        8,
    )


def test_axes_within_a_worker_are_refused_alone():
    with pytest.raises(ValueError, match="within is 'chips' and axis is None"):
        gdsec_jax.gd(4, within="chips")
    with pytest.raises(ValueError, match="expected different axes"):
        gdsec_jax.gd(4, axis="chips", within="chips")


@pytest.mark.slow
def test_one_device_is_a_mesh_too():
    """An axis of one device, named, and a mesh that `simulate` makes."""
    on_devices(
        """
        shots = server.two_shot(worker.grid(4), 4)
        for make in (
            lambda axis: gdsec_jax.top_j(4, 0.1, axis=axis),
            lambda axis: gdsec_jax.qgd(4, levels=7, axis=axis, server=shots),
        ):
            one, many = (
                optax.chain(make(axis), optax.sgd(0.01)) for axis in (None, "data")
            )
            expected = alone(one, 4, 5)
            for kind in ("auto", "explicit"):
                course = spread(many, 4, 5, mesh_of(kind, data=1))
                course.agrees_with(expected, kind)
        """,
        devices=1,
    )


@pytest.mark.slow
def test_simulate_has_an_axis_of_its_own():
    on_devices(
        """
        from gdsec_jax import data, problems

        digits = data.load("digits")
        problem = problems.ridge(digits.features, digits.targets, num_workers=4)
        mesh, errors = jax.make_mesh((4,), ("data",)), []
        for axis, where in ((None, None), ("data", mesh)):
            optimizer = optax.chain(gdsec_jax.top_j(4, 0.3, axis=axis), optax.sgd(0.1))
            run = gdsec_jax.simulate(problem, optimizer, 20, mesh=where, progress=False)
            errors.append(run.objective_error)
        np.testing.assert_allclose(*errors, rtol=1e-12)
        """
    )


def test_shapes_are_said_as_they_were_given():
    on_devices(
        """
        import pytest
        algorithm, params = gdsec_jax.top_j(4, 2, axis="data"), jnp.zeros(8)
        mesh = mesh_of("explicit", data=4)
        grads = jax.device_put(jnp.ones((8, 8)), NamedSharding(mesh, P("data")))
        sentence = r"gradients has shape \\(8, 8\\), expected \\(4, 8\\)"
        with pytest.raises(ValueError, match=sentence):
            jax.jit(algorithm.update)(grads, algorithm.init(params), params)
        """
    )


@pytest.mark.slow
def test_the_last_part_of_two_shots_may_be_padded():
    """What a grid says of the padding is nobody's: 37 entries in 4 parts."""
    on_devices(
        """
        gradients = jnp.asarray(np.random.default_rng(0).standard_normal((4, 37)))
        params, found = jnp.zeros(37), []
        with jax.set_mesh(mesh_of("auto", data=4)):
            for axis in (None, "data"):
                shots = server.two_shot(worker.grid(4), 4)
                method = gdsec_jax.sign_ef(4, server=shots, axis=axis)
                state, update = method.init(params), jax.jit(method.update)
                for _ in range(3):
                    direction, state = update(gradients, state, params)
                    jax.block_until_ready(state)
                found.append(np.asarray(direction))
        np.testing.assert_allclose(*found, atol=1e-12)
        """
    )


def test_parameters_of_one_shape_may_lie_in_several_ways():
    """As the two matrices of a layer do in tensor parallelism."""
    on_devices(
        """
        with jax.set_mesh(mesh_of("explicit", data=2, model=2)):
            lies = {"a": P("model", None), "b": P(None, "model")}
            rng = np.random.default_rng(0)
            params = {k: jax.device_put(jnp.zeros((4, 4)), s) for k, s in lies.items()}
            gradients = {k: jnp.asarray(rng.standard_normal((2, 4, 4))) for k in lies}
            gradients = jax.device_put(gradients, P("data"))
            method = gdsec_jax.top_j(2, k=8, axis="data")
            update = jax.jit(method.update)
            direction, _ = update(gradients, method.init(params), params)
            for name, spec in lies.items():
                assert direction[name].sharding.spec == spec, direction[name].sharding
        """
    )


@pytest.mark.slow
def test_what_a_stage_decides_by_is_known_on_a_mesh_too():
    """A number of Python's, and one that is an array."""
    on_devices(
        """
        def update(updates, state, params=None, *, doubled=False, rate=1.0, **more):
            updates = jax.tree.map(lambda x: rate * x, updates)
            return jax.tree.map(lambda x: 2 * x if doubled else x, updates), state

        piece = optax.GradientTransformationExtraArgs(lambda params: (), update)
        method = gdsec_jax.federate(optax.chain(worker.whole(), piece), 4, axis="data")
        params, gradients = jnp.zeros(3), jnp.ones((4, 3))
        with jax.set_mesh(mesh_of("auto", data=4)):
            told = {"doubled": True, "rate": jnp.asarray(3.0)}
            direction, _ = method.update(gradients, method.init(params), params, **told)
        assert direction.tolist() == [24.0] * 3, direction
        """
    )


@pytest.mark.slow
def test_many_leaves_have_few_collectives():
    """A collective for each leaf costs more than what it carries."""
    on_devices(
        """
        import re

        params = {f"w{i}": jnp.zeros((6, 4)) for i in range(30)}
        params |= {f"b{i}": jnp.zeros(4) for i in range(5)}
        lies = NamedSharding(mesh_of("auto", data=4), P("data"))
        grads = jax.tree.map(lambda x: jnp.ones((4, *x.shape)), params)
        grads = jax.device_put(grads, lies)
        for algorithm in (
            gdsec_jax.gd(4, axis="data"),
            gdsec_jax.top_j(4, 0.1, axis="data"),
            gdsec_jax.sign_ef(4, scope="leaf", axis="data"),
            gdsec_jax.power_sgd(4, 2, axis="data"),
            gdsec_jax.low_rank(4, 2, axis="data"),
        ):
            update = jax.jit(algorithm.update)
            text = update.lower(grads, algorithm.init(params), params).compile()
            found = re.findall(r"= .* all-(?:reduce|gather)\\(", text.as_text())
            assert 1 <= len(found) <= 4, found
        """
    )

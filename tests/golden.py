"""A golden record: what runs compute, to the bit, before and after a change of code.

    python tests/golden.py before.npz
    python tests/golden.py after.npz --against before.npz [--only methods sweeps]

Both on one machine with one version of JAX: compilers and processors round otherwise.
It names what differs and exits with 1. No test: nothing here is right or wrong alone.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # not when pytest looks for examples here
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import METHODS, random_gradients, run

import gdsec_jax
from gdsec_jax import Uplink, channel, participation, problems, robust, server, worker

WORKERS = 4
RECORD: dict[str, np.ndarray] = {}


def keep(name, **values):
    """Record the arrays of some trees."""
    for what, tree in values.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            RECORD[f"{name}/{what}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)


def keep_history(name, history):
    keep(
        name,
        error=history.objective_error,
        entries=history.entries,
        bits=history.bits,
        broadcast_bits=history.broadcast_bits,
        participants=history.participants,
        dropped=history.dropped,
        params=history.params,
    )
    for extra in ("lost", "time_s", "energy_j"):
        if getattr(history, extra) is not None:
            keep(name, **{extra: getattr(history, extra)})


def ridge():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 12)) * np.geomspace(1, 8, 12)
    return problems.ridge(x, x @ rng.standard_normal(12), WORKERS, dtype="float64")


def logistic(num_workers=WORKERS):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((20 * num_workers, 9))
    return problems.logistic(x, rng.integers(0, 2, len(x)), num_workers)


def chain(problem, algorithm, *more):
    return optax.chain(algorithm, optax.sgd(0.3 / problem.smoothness), *more)


def methods():
    for method in METHODS:
        with jax.enable_x64(True):
            problem = ridge()
            optimizer = chain(problem, method.make(WORKERS))
            history = gdsec_jax.simulate(problem, optimizer, 30, key=1)
            keep_history(f"{method.name} ridge", history)
        problem = logistic()
        optimizer = chain(problem, method.make(WORKERS, reduction="mean", wire="rle"))
        history = gdsec_jax.simulate(problem, optimizer, 30, observe=gdsec_jax.norms)
        keep_history(f"{method.name} logistic", history)
        keep(f"{method.name} logistic", norms=dict(history.observed))


def sweeps():
    problem = logistic()

    def make(xi, beta):
        return chain(problem, gdsec_jax.gdsec(WORKERS, xi, beta))

    grid = {"xi": [0.0, 1.0, 4.0], "beta": [0.01, 0.1]}
    rule = participation.uniform(WORKERS, 0.5)
    for name, rest in {"plain": {}, "half": {"uplink": Uplink(rule), "key": 2}}.items():
        result = gdsec_jax.sweep(problem, make, grid, 25, **rest)
        keep(f"sweep {name}", **{x: result[x].values for x in result.data_vars})


def faults():
    problem = logistic()
    radio = channel.at_snr(channel.Radio(), WORKERS, 10.0)
    lossy = channel.Channel(radio, erasure_probability=0.2, straggler_s=0.1)
    late = channel.Channel(erasure_probability=0.2, max_delay=2)
    half = participation.uniform(WORKERS, 0.5)
    grant = participation.largest_energy(300.0)
    cases = {
        "lossy": ({}, {"channel": lossy}),
        "late": ({"server": server.late(2)}, {"channel": late}),
        "hold": ({}, {"participation": half}),
        "all": (
            {"server": server.late(2)},
            {"participation": half, "absent": "accumulate", "channel": late},
        ),
        "grant": ({}, {"grant": grant, "channel": lossy}),
    }
    for name, (options, around) in cases.items():
        for method in ("gdsec", "ef21", "laq", "marina", "power_sgd"):
            row = next(row for row in METHODS if row.name == method)
            optimizer = chain(problem, row.make(WORKERS, **options))
            history = gdsec_jax.simulate(
                problem, optimizer, 25, key=3, uplink=Uplink(**around)
            )
            keep_history(f"{name} {method}", history)


def layouts():
    problem = logistic()
    gdsec = gdsec_jax.gdsec(WORKERS, 2.0)
    batches = gdsec_jax.simulate(
        problem, chain(problem, gdsec), 20, worker_batch=2, eval_every=5
    )
    keep_history("worker_batch", batches)
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    for name, algorithm in {
        "gdsec": gdsec,
        "capacity": gdsec_jax.gdsec(WORKERS, 2.0, server=server.sparse(4)),
        "marina": gdsec_jax.marina(WORKERS, worker.random_k(3)),
        "low_rank": gdsec_jax.low_rank(WORKERS, 1),
    }.items():
        history = gdsec_jax.simulate(problem, chain(problem, algorithm), 20, mesh=mesh)
        keep_history(f"mesh {name}", history)
    many = logistic(1024)
    history = gdsec_jax.simulate(many, chain(many, gdsec_jax.gdsec(1024, 2.0)), 10)
    keep_history("many", history)
    params = {"a": jnp.ones((1024, 520)), "b": jnp.ones(2**19 + 3)}
    for name, algorithm in {
        "gdsec": gdsec_jax.gdsec(WORKERS, 2.0),
        "gdsec running": gdsec_jax.gdsec(
            WORKERS, 2.0, server=server.running(), wire="rle"
        ),
        "gd": gdsec_jax.gd(WORKERS),
        "top_j": gdsec_jax.top_j(WORKERS, 100),
    }.items():
        grads = random_gradients(params, WORKERS, 5, rounds=3)
        optimizer = optax.chain(algorithm, optax.sgd(0.1))
        loop = jax.jit(lambda p, g, optimizer=optimizer: run(optimizer, p, g)[::2])
        moved, sent = loop(params, grads)
        keep(f"large {name}", params=moved, entries=sent.entries, bits=sent.bits)
    rng = np.random.default_rng(6)
    few = jnp.asarray(rng.standard_normal((3, 2048, 2100)), jnp.float32)
    optimizer = optax.chain(gdsec_jax.gdsec(2048, 2.0), optax.sgd(1e-3))
    loop = jax.jit(lambda p, g: run(optimizer, p, g)[::2])
    moved, sent = loop(jnp.zeros(2100), few)
    keep("groups", params=moved, entries=sent.entries, bits=sent.bits)


def options():
    problem = logistic()
    weights = np.array([1.0, 2.0, 0.5, 0.5])
    for name, algorithm, more in (
        (
            "median",
            gdsec_jax.gdsec(WORKERS, 2.0, server=server.robust(robust.median)),
            (),
        ),
        (
            "norm ratio",
            gdsec_jax.gdsec(WORKERS, 2.0, server=server.total(max_norm_ratio=1.2)),
            (),
        ),
        ("weights", gdsec_jax.gdsec(WORKERS, 2.0, weights=weights), ()),
        ("running", gdsec_jax.gdsec(WORKERS, 2.0, server=server.running()), ()),
        ("adaptive", gdsec_jax.gdsec(WORKERS, gdsec_jax.adaptive_xi()), ()),
        ("hold", gdsec_jax.gdsec(WORKERS, 2.0, on_standstill="hold"), ()),
        (
            "broadcast",
            gdsec_jax.gdsec(WORKERS, 2.0),
            (gdsec_jax.broadcast(worker.error_feedback(worker.top_k(3))),),
        ),
    ):
        history = gdsec_jax.simulate(problem, chain(problem, algorithm, *more), 25)
        keep_history(f"option {name}", history)
    batched = problems.minibatch(problem, 5)
    for dtype in ("float32", "bfloat16"):
        optimizer = chain(problem, gdsec_jax.qsgdsec(WORKERS, 2.0, state_dtype=dtype))
        keep_history(
            f"minibatch {dtype}", gdsec_jax.simulate(batched, optimizer, 25, key=4)
        )
    params = {"w": jnp.ones((3, 2), jnp.bfloat16), "b": jnp.ones(3, jnp.float16)}
    grads = random_gradients(params, 3, 7, rounds=6)
    grads = jax.tree.map(lambda g: g.at[2, 1].set(jnp.inf), grads)
    for method in METHODS:
        optimizer = optax.chain(method.make(3), optax.sgd(0.1))
        moved, state, sent, _ = jax.jit(
            lambda p, g, optimizer=optimizer: run(optimizer, p, g)
        )(params, grads)
        keep(
            f"half {method.name}",
            params=jax.tree.map(lambda x: x.astype(jnp.float32), moved),
            bits=sent.bits,
            dropped=sent.dropped,
        )
        del state


def resumed():
    problem = logistic()
    for method in ("gdsec", "marina"):
        row = next(row for row in METHODS if row.name == method)
        with tempfile.TemporaryDirectory() as folder:
            for rounds in (12, 31):
                history = gdsec_jax.simulate(
                    problem,
                    chain(problem, row.make(WORKERS)),
                    rounds,
                    checkpoint=gdsec_jax.Checkpoints(Path(folder) / "run", 5),
                )
        keep_history(f"resumed {method}", history)


def differences(before, after):
    """What is missing, new or not the same, a line each."""
    for name in sorted(before.keys() ^ after.keys()):
        yield f"{name}: {'only before' if name in before else 'only now'}"
    for name in sorted(before.keys() & after.keys()):
        a, b = before[name], after[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            yield f"{name}: {a.dtype}{a.shape} -> {b.dtype}{b.shape}"
        elif a.tobytes() != b.tobytes():
            scale = np.abs(a.astype(float)).max(initial=1e-300, where=np.isfinite(a))
            gap = np.abs(a.astype(float) - b.astype(float))
            yield f"{name}: differs by {np.nanmax(gap) / scale:.2g} of its largest"


PARTS = (methods, sweeps, faults, layouts, options, resumed)


def main():
    names = [part.__name__ for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    for part in PARTS:
        if part.__name__ in arguments.only:
            part()
    np.savez_compressed(arguments.path, **RECORD)
    if arguments.against is None:
        return 0
    before = dict(np.load(arguments.against))
    if arguments.only != names:
        before = {name: before[name] for name in before if name in RECORD}
    found = list(differences(before, RECORD))
    print(*found, f"{len(found)} of {len(RECORD)} arrays differ.", sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

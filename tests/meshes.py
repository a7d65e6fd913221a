"""Training with the workers on the devices of a mesh, and the same without one.

`on_devices` runs a program in a process that takes its CPU for several devices; the
other functions are what such programs do.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gdsec_jax
from gdsec_jax import server
from gdsec_jax import worker as worker

ROOT = Path(__file__).parents[1]
EVERYWHERE = P()
START = "from meshes import *\njax.config.update('jax_enable_x64', True)\n"


def environment(devices: int) -> dict[str, str]:
    """Of a process that takes its CPU for so many devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    return os.environ | {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }


def on_devices(program: str, devices: int = 4) -> str:
    """What a program prints that has all names of this file, or its error."""
    code = START + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def made(method, num_workers: int, axis=None, **options):
    """A row of `cases.METHODS`, whose messages have a most of entries if they must."""
    if method.draws:
        options.setdefault("key", 0)
    if method.name in ("gdsec", "gdsoec", "qsgdsec"):
        options.setdefault("server", server.sparse(60))
    return method.make(num_workers, axis=axis, **options)


def parameters(dtype: Any = np.float64):
    return {"w": jnp.zeros((10, 20), dtype), "b": jnp.zeros(100, dtype)}


def samples(num_workers: int, dtype: Any = np.float64):
    """Of each worker 40: (x, leaves [M, 40, *param], and y [M, 40])."""
    rng = np.random.default_rng(0)
    x = {
        name: jnp.asarray(rng.standard_normal((num_workers, 40, *p.shape)), dtype)
        for name, p in parameters().items()
    }
    return x, jnp.asarray(rng.standard_normal((num_workers, 40)), dtype)


def loss(params, x, y):
    """Sums of products, which explicit shardings of any axis allow."""
    linear = lambda x, p: (x * p).sum(range(1, x.ndim))  # noqa: E731
    error = sum(jax.tree.leaves(jax.tree.map(linear, x, params))) - y
    return (error**2).mean() / 2 + 0.025 * optax.tree.norm(params, squared=True)


gradients = jax.vmap(jax.grad(loss), (None, 0, 0))


class Course(NamedTuple):
    """What a training leaves behind, on the host."""

    params: Any  # of every device [devices, ...], or the only one
    bits: np.ndarray  # [rounds, M]

    def agrees_with(self, other: "Course", name="", tolerance=1e-12) -> None:
        """Replicas are one bit for bit; parameters are equal, counts the same."""
        both = map(jax.tree.leaves, (self.params, other.params))
        for own, its in zip(*both, strict=True):
            assert (own == own[:1]).all(), f"{name}: replicas drift"
            apart = np.abs(own[0].astype(float) - its[0].astype(float)).max()
            # A QR of nearly equal columns amplifies the rounding of other orders.
            most = 10 * tolerance if name.startswith("power_sgd") else tolerance
            assert apart <= most, f"{name}: {apart} apart"
            assert np.isfinite(own.astype(float)).all()
            assert np.abs(own.astype(float)).max() > 1e-3, f"{name}: does not move"
        np.testing.assert_array_equal(self.bits, other.bits, err_msg=name)


def replicas(tree):
    """What each device of this process has, leaves [devices, ...]."""
    return jax.tree.map(
        lambda x: np.stack([np.asarray(s.data) for s in x.addressable_shards]), tree
    )


def loop(optimizer, gradient, params, rounds, said=None):
    """`rounds` steps as a scan: (params, bits [rounds, M])."""

    def body(carry, round):
        params, state = carry
        more = said(round) if said else {}
        updates, state = optimizer.update(gradient(params), state, params, **more)
        params = optax.apply_updates(params, updates)
        return (params, state), gdsec_jax.last_round(state).bits

    carry = params, optimizer.init(params)
    (params, _), bits = jax.lax.scan(body, carry, jnp.arange(rounds))
    return params, bits


def alone(optimizer, num_workers: int, rounds: int, params=None, said=None) -> Course:
    """On one device, without a mesh."""
    params = parameters() if params is None else params
    x, y = samples(num_workers, jax.tree.leaves(params)[0].dtype)
    run = jax.jit(
        lambda p, x, y: loop(optimizer, lambda p: gradients(p, x, y), p, rounds, said)
    )
    params, bits = run(params, x, y)
    return Course(jax.tree.map(lambda p: np.asarray(p)[None], params), np.asarray(bits))


def mesh_of(kind: str, **axes: int):
    """kind: "auto" or "explicit"; sizes by names."""
    types = (AxisType[kind.capitalize()],) * len(axes)
    sizes = tuple(axes.values())
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, tuple(axes), axis_types=types, devices=devices)


def spread(
    optimizer,
    num_workers,
    rounds,
    mesh,
    axis="data",
    params=None,
    said=None,
    lies=EVERYWHERE,
    gathers=False,
) -> Course:
    """Over a mesh, by the sharding of the samples.

    `lies` says where parameters do, and `gathers` that gradients take whole ones, as in
    FSDP.
    """
    params = parameters() if params is None else params
    on = lambda spec: NamedSharding(mesh, spec)  # noqa: E731
    x, y = jax.device_put(samples(num_workers, params["b"].dtype), on(P(axis)))
    lies = jax.tree.map(on, lies, is_leaf=lambda spec: isinstance(spec, P))
    params = jax.device_put(params, lies)

    def gradient(params, x, y):
        if AxisType.Explicit in mesh.axis_types and gathers:
            params = jax.sharding.reshard(params, P())
        return gradients(params, x, y)

    with jax.set_mesh(mesh):
        run = jax.jit(
            lambda p, x, y: loop(
                optimizer, lambda p: gradient(p, x, y), p, rounds, said
            ),
            out_shardings=(lies, on(P())),
        )
        params, bits = run(params, x, y)
    whole = jax.device_put(params, on(P()))
    return Course(replicas(whole), np.asarray(bits))


def inside(
    optimizer,
    num_workers,
    rounds,
    mesh,
    axis="data",
    check=True,
    params=None,
    said=None,
) -> Course:
    """In a shard_map: each device has its worker's gradient, without an axis."""
    params = parameters() if params is None else params
    axes = (axis,) if isinstance(axis, str) else axis
    x, y = samples(num_workers, jax.tree.leaves(params)[0].dtype)

    def local(params, x, y):
        def gradient(params):
            if check:  # else jax.grad would add up
                params = jax.lax.pcast(params, axes, to="varying")
            return jax.grad(loss)(params, *jax.tree.map(lambda t: t[0], (x, y)))

        params, bits = loop(optimizer, gradient, params, rounds, said)
        return jax.tree.map(lambda p: p[None], params), bits

    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(axis), P(axis)),
        out_specs=(P(axis), P(None, axis)),
        check_vma=check,
    )
    lies = NamedSharding(mesh, P(axis)), NamedSharding(mesh, P())
    params, bits = jax.jit(run, out_shardings=lies)(params, x, y)
    return Course(jax.tree.map(lambda p: p[:, 0], replicas(params)), np.asarray(bits))


def _way(run, kind, **own):
    """A function of optimizer, number of workers, rounds and options, on 4 devices."""

    def way(optimizer, num_workers, rounds, **options):
        mesh = mesh_of(kind, data=4)
        return run(optimizer, num_workers, rounds, mesh, **own, **options)

    return way


WAYS = {
    "auto": _way(spread, "auto"),
    "explicit": _way(spread, "explicit"),
    "inside": _way(inside, "auto"),
    "unchecked": _way(inside, "auto", check=False),
}


def agree(
    make, num_workers, rounds, ways=tuple(WAYS), name="", said=None, step=0.01
) -> None:
    """An algorithm, by `make(axis)`, does on four devices what it does on one."""
    optimizers = (optax.chain(make(axis), optax.sgd(step)) for axis in (None, "data"))
    one, many = optimizers
    expected = alone(one, num_workers, rounds, said=said)
    for way in ways:
        course = WAYS[way](many, num_workers, rounds, said=said)
        course.agrees_with(expected, f"{name} {way}")


def attendance(rounds: int, num_workers: int, seed: int):
    """bool [rounds, M], of whom some are there."""
    key = jax.random.key(seed)
    return jax.random.bernoulli(key, 0.7, (rounds, num_workers))

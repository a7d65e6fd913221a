"""Bytes that compiled programs bring a device, and the bench of links."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_mesh import on_four_devices

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Settings, Skipped

veth = benchmarks.module("_veth")
link, ranks = benchmarks.module("link"), benchmarks.module("_ranks")


def test_received_bytes_of_collectives_are_those_of_rings():
    on_four_devices(
        """
        from jax import lax
        from jax.sharding import PartitionSpec as P
        from inside import _hlo as hlo
        mesh = jax.make_mesh((4,), ("a",))
        squares = jax.make_mesh((2, 2), ("a", "b"))

        def received(f, length, mesh=mesh):
            axes = mesh.axis_names
            mapped = jax.shard_map(
                f, mesh=mesh, in_specs=P(axes), out_specs=P(axes), check_vma=False
            )
            spread = jax.sharding.NamedSharding(mesh, P(axes))
            x = jax.ShapeDtypeStruct((4 * length,), jnp.float32, sharding=spread)
            text = jax.jit(mapped).lower(x).compile().as_text()
            return tuple(hlo.received(text, 4))

        def same(bytes):
            return (bytes, bytes)

        # Of vectors of 1,000 float32, 4,000 bytes, on each of four devices.
        assert received(lambda x: lax.psum(x, "a"), 1000) == same(2 * 3 / 4 * 4000)
        assert received(lambda x: lax.all_gather(x, "a").sum(0), 1000) == same(3 * 4000)
        assert received(
            lambda x: lax.psum_scatter(x, "a", tiled=True), 1000
        ) == same(3 * 1000)
        assert received(
            lambda x: lax.all_to_all(x, "a", 0, 0, tiled=True), 1000
        ) == same(3 * 1000)
        turned = [(i, (i + 1) % 4) for i in range(4)]
        assert received(lambda x: lax.ppermute(x, "a", turned), 1000) == same(4000)
        # By groups of two, and by all four.
        in_pairs = received(lambda x: lax.psum(x, "b"), 1000, squares)
        assert in_pairs == same(2 * 1 / 2 * 4000)
        by_all = received(lambda x: lax.psum(x, ("a", "b")), 1000, squares)
        assert by_all == same(2 * 3 / 4 * 4000)
        # Loops count as often as they run, of branches one.
        loop = lambda x: lax.fori_loop(0, 5, lambda _, x: lax.psum(x, "a"), x)
        assert received(loop, 1000) == same(5 * 6000)

        def either(x):
            dear = lambda x: lax.psum(x, "a")
            cheap = lambda x: lax.ppermute(x, "a", turned)
            return lax.cond(x[0] > 0, dear, cheap, x)

        assert received(either, 1000) == (4000, 6000)
        """
    )


@pytest.mark.slow
def test_received_bytes_of_methods_on_four_devices():
    on_four_devices(
        """
        from jax.sharding import NamedSharding, PartitionSpec as P
        from gdsec_experiments import benchmarks
        from inside import _hlo as hlo
        own = benchmarks.module("_link_jax")
        M, D = 4, 3200
        mesh = jax.make_mesh((M,), (own.AXIS,))
        shaped = lambda shape, *axes: jax.ShapeDtypeStruct(
            shape, jnp.float32, sharding=NamedSharding(mesh, P(*axes))
        )
        params = shaped((40, 80))
        grads = shaped((M, 40, 80), own.AXIS)

        def received(method):
            state = jax.eval_shape(method.init, params)
            specs = gdsec_jax.state_specs(state, own.AXIS)
            lies = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
            state = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                state, jax.tree.broadcast(lies, state),
            )
            text = jax.jit(method.update).lower(grads, state, params).compile()
            return hlo.received(text.as_text(), M)

        methods = own.methods(M, D)
        # Of k = 32 entries the values, and indices of 16 bits; of a code for every
        # entry its bits, and a scale of 32; of a matrix both factors, all-reduced.
        expected = {
            "dense": 2 * 3 / 4 * 4 * D,
            "top_j 1 %": 3 * 32 * (4 + 2),
            "top_j 1 %, bfloat16": 3 * 32 * (2 + 2),
            "gdsec, sparse(1 %)": 3 * 32 * (4 + 2),
            "ef21 1 %": 3 * 32 * (4 + 2),
            "sign_ef": 3 * (D / 8 + 4),
            "qgd, 7 levels": 3 * (D / 2 + 4),
            "laq, 4 bits": 3 * (D / 2 + 4),
            "power_sgd, rank 4": 2 * 3 / 4 * 4 * (4 * 40 + 4 * 80),
        }
        assert set(expected) == set(methods)
        for name, bytes in expected.items():
            found = received(methods[name])
            # Beside them a few numbers that the devices agree on.
            assert bytes <= found.regular <= bytes + 64, (name, bytes, found)
            whole = name == "ef21 1 %"
            most = expected["dense"] if whole else bytes
            assert most <= found.dearest <= most + 64, (name, most, found)
        """
    )


def _can() -> None:
    if reason := veth.unable():
        pytest.skip(reason)


@pytest.mark.slow
def test_what_is_on_the_interface_is_what_the_program_says():
    _can()
    measures = {m.name: m for m in link.bench(Settings(3, small=True))}
    length = math.prod(link.SMALL.shape)
    assert measures["dense, 2 processes: on the interface"].value >= 4e-6 * length
    for name, measure in measures.items():
        assert measure.value > 0 or "PyTorch is not installed" in measure.note, name
    methods = [name.split(":")[0] for name in measures if "/ program" in name]
    assert len(methods) == 9
    for method in methods:
        interface = 1e6 * measures[f"{method}: on the interface"].value
        program = interface / measures[f"{method}: interface / program"].value
        # Headers, acknowledgements, and gloo's own few packets for each collective.
        assert program <= interface <= 1.1 * program + 4e3, method


@pytest.mark.slow
def test_a_link_has_its_rate_and_counts_what_it_carries():
    _can()
    program = """
import socket, sys, time
from gdsec_experiments.benchmarks import _veth as veth
if sys.argv[1] == "send":
    connection = socket.create_connection((sys.argv[2], 5000))
    connection.sendall(bytes(5_000_000))
    connection.close()
    sys.exit()
server = socket.create_server(("", 5000))
print(flush=True)
connection, _ = server.accept()
begin, number = time.perf_counter(), 0
while some := connection.recv(2**16):
    number += len(some)
seconds = time.perf_counter() - begin
print(number, seconds, veth.counters()["received"])
"""
    for number in (2, 4):
        with veth.joined(number) as network:
            network.shape(40)
            one, other = network.hosts[0], network.hosts[-1]
            run = (sys.executable, "-c", program)
            with veth.ended(one.start(*run, "receive", stdout=-1, text=True)) as to:
                to.stdout.readline()
                other.do(*run, "send", one.address)
                found, seconds, counted = map(float, to.communicate()[0].split())
        assert found == 5e6
        assert seconds >= 0.9 * 8 * 5e6 / 40e6
        assert 1.04 <= counted / 5e6 <= 1.1


@pytest.mark.slow
def test_two_packets_of_a_hundred_are_lost_each_way_but_on_the_fast_link():
    if reason := veth.unable(2.0):
        pytest.skip(reason)
    listen = """
import socket
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**24)
own.bind(("", 5000))
own.settimeout(3)
print(flush=True)
number = 0
try:
    while own.recv(100):
        number += 1
except TimeoutError:
    print(number)
"""
    talk = """
import socket, sys, time
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(10_000):
    own.sendto(b"x", (sys.argv[1], 5000))
    if number % 10 == 0:
        time.sleep(0.002)
"""
    with veth.joined(4) as network:
        network.shape(100, fast=1, loss=2.0)
        # From the fast link to a lossy one, back, and over two that are.
        for one, other, links in ((0, 3, 1), (3, 0, 1), (2, 3, 2)):
            source, target = network.hosts[one], network.hosts[other]
            run = (sys.executable, "-c")
            with veth.ended(target.start(*run, listen, stdout=-1, text=True)) as to:
                to.stdout.readline()
                source.do(*run, talk, target.address)
                came = int(to.communicate()[0])
            deviation = (10_000 * 0.02 * 0.98 * links) ** 0.5
            lost = 10_000 * (1 - 0.98**links)
            assert abs(10_000 - came - lost) < 5 * deviation, (one, other, came)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "failed"])
def test_nothing_is_left_of_a_network(how, tmp_path):
    _can()
    program = f"""
import sys, time
from gdsec_experiments.benchmarks import _veth as veth
with veth.joined(4) as network:
    process = network.hosts[0].start("sleep", "1000")
    print(*(host.holder.pid for host in network.hosts), process.pid, flush=True)
    if {how == "failed"}:
        with veth.ended(process):
            raise RuntimeError("wrong")
    time.sleep(1000)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=-1, stderr=-3, text=True
    ) as made:
        pids = [int(pid) for pid in made.stdout.readline().split()]
        if how == "killed":
            made.kill()
    assert len(pids) == 5
    end = time.monotonic() + 30
    while any(map(_runs, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_a_rank_that_dies_is_reported():
    _can()
    with (
        veth.joined(2) as network,
        ranks.started(network, "_link_jax", (4, 4)) as own,
        pytest.raises(RuntimeError, match=r"rank \d ended at prepare.*no such method"),
    ):
        own.ask("prepare", "no such method")


def test_where_there_can_be_no_network_the_bench_is_skipped(monkeypatch):
    monkeypatch.setattr(veth.shutil, "which", lambda tool: None)
    with pytest.raises(Skipped, match="ip, tc, nsenter, setpriv, unshare"):
        link.bench(Settings(1, small=True))
    monkeypatch.undo()
    monkeypatch.setattr(veth.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Skipped, match="network namespaces need root"):
        link.bench(Settings(1, small=True))

"""The data-parallel script learns, goes on elsewhere, and ends if a process does."""

import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from meshes import ROOT, environment
from study.test_distributed import free_port

SCRIPT = ROOT / "gdsec_experiments" / "data_parallel.py"
RUN = """
import gdsec_jax
from gdsec_experiments._processes import together
from gdsec_experiments.data_parallel import main

with together({meeting}):
    main({folder!r}, {options})
"""


def start(folder, options, devices, meeting="") -> subprocess.Popen:
    """A process of the script, with its own number of pretended devices."""
    code = RUN.format(folder=str(folder), options=options, meeting=meeting)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen) -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return out


def run(folder, options, devices, processes=1) -> str:
    """What the first process says, once all have ended."""
    if processes == 1:
        return said(start(folder, options, devices))
    port = free_port()
    meetings = [f'"localhost:{port}", 2, {own}' for own in range(processes)]
    started = [start(folder, options, devices, meeting) for meeting in meetings]
    try:
        first, *_ = [said(process) for process in started]
        return first
    finally:
        for process in started:
            process.kill()
            process.communicate()


def saved(folder, step):
    """The parameters of the newest state, by their names."""
    handler = ocp.PyTreeCheckpointHandler()
    with ocp.CheckpointManager(folder, item_handlers=handler) as saves:
        assert saves.latest_step() == step
        as_arrays = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            saves.item_metadata(step),
        )
        return saves.restore(step, args=ocp.args.PyTreeRestore(restore_args=as_arrays))


def losses(text):
    return [float(x) for x in re.findall(r"loss ([\d.]+),", text)]


def test_it_is_a_screen_long():
    assert len(SCRIPT.read_text("utf-8").splitlines()) < 60


@pytest.mark.slow
def test_it_goes_on_on_fewer_devices_and_in_more_processes(tmp_path):
    options = "num_steps={}, every=20, k=0.05"
    whole = run(tmp_path / "whole", options.format(40), 4)
    first = run(tmp_path / "parts", options.format(20), 4)
    second = run(tmp_path / "parts", options.format(40), 1, processes=2)
    found = losses(first + second)
    np.testing.assert_allclose(found, losses(whole), rtol=1e-3)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(other, one, atol=1e-4),
        *(saved(tmp_path / name, 40)[0] for name in ("whole", "parts")),
    )


@pytest.mark.slow
def test_it_learns_for_a_fiftieth_of_the_bits(tmp_path):
    text = run(tmp_path / "ours", "k=0.01", 4)
    dense = run(tmp_path / "dense", "method=gdsec_jax.gd", 4)
    sent, whole = map(float, re.findall(r"loss .*, (\S+) of (\S+) bits", text)[-1])
    assert sent < whole / 50
    assert losses(text)[-1] < 0.25
    assert losses(dense)[-1] < losses(text)[-1]


@pytest.mark.slow
def test_without_one_process_the_other_ends(tmp_path):
    """In time, with a sentence, and what was saved is whole."""
    port = free_port()
    options = "num_steps=100_000, every=10, k=0.05"
    kept, gone = (
        start(tmp_path / "run", options, 2, f'"localhost:{port}", 2, {own}')
        for own in range(2)
    )
    try:
        while not (tmp_path / "run" / "20").exists():
            assert kept.poll() is gone.poll() is None, kept.communicate()[1][-3000:]
            time.sleep(0.1)
        gone.send_signal(signal.SIGKILL)
        _, errors = kept.communicate(timeout=90)
    finally:
        for process in (kept, gone):
            process.kill()
            process.communicate()
    assert kept.returncode != 0
    assert re.search(
        r"Another process is gone \(.*\): start all of them again\.|"
        r"This most likely indicates that another task died",
        errors,
    ), errors
    steps = [int(x.name) for x in (tmp_path / "run").iterdir() if x.name.isdigit()]
    text = run(tmp_path / "run", f"num_steps={max(steps) + 10}, every=10, k=0.05", 2)
    assert f"{max(steps) + 10}: loss" in text

"""Processes that the command starts end with it."""

import signal
import subprocess
import sys
import time

import pytest

from gdsec_jax.study import _processes

# Each process of the pool says that it is there, and works longer than a test waits.
PROGRAM = """
import pathlib, sys, time
from gdsec_jax.study import _processes

def works(folder, number):
    (folder / str(number)).touch()
    time.sleep(600)

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    with _processes.pool(2) as pool:
        for number in range(2):
            pool.submit(works, folder, number)
        while len(list(folder.iterdir())) < 2:
            time.sleep(0.01)
        if sys.argv[2] == "error":
            raise ValueError("one is enough")
        time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, "error"])
def test_they_end_with_the_process_that_started_them(end, tmp_path):
    """However it ends. All hold its output, which closes when the last is gone."""
    (tmp_path / "program.py").write_text(PROGRAM)
    folder = tmp_path / "there"
    folder.mkdir()
    command = [sys.executable, str(tmp_path / "program.py"), str(folder), str(end)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = subprocess.Popen(command, text=True, **pipes)
    try:
        limit = time.monotonic() + 60
        while len(list(folder.iterdir())) < 2 and time.monotonic() < limit:
            assert program.poll() is None or end == "error"
            time.sleep(0.01)
        if end != "error":
            program.send_signal(end)
        said = program.communicate(timeout=60)[1]
    finally:
        program.kill()
    assert len(list(folder.iterdir())) == 2
    if end == "error":
        assert program.returncode == 1
        assert said.splitlines()[-1] == "ValueError: one is enough"
    else:
        assert program.returncode == -end


def test_what_is_done_comes_back():
    with _processes.pool(2) as pool:
        assert list(pool.map(abs, [-1, 2, -3])) == [1, 2, 3]

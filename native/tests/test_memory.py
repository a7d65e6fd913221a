"""The handlers and kernels without XLA, watched by the sanitizers and by valgrind."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX", "g++")
SOURCES = (
    HERE / "without_xla" / "driver.cc",
    *(HERE.parent / "src" / f"{part}.cc" for part in ("update", "gradient", "select")),
)
# Not optimised: that takes the compiler most of a minute.
FLAGS = ["-std=c++17", "-O0", "-g1", "-Wno-psabi", "-DLEVEL=base", "-pthread"]
# What a program does with references takes as long again to check, and more.
SANITIZE = {
    "address": [
        "-fsanitize=address,undefined",
        "-fno-sanitize=null,alignment,object-size,vptr",
        "-fno-sanitize-recover=all",
    ],
    "thread": ["-fsanitize=thread"],
    "valgrind": [],
}

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"{COMPILER} is not installed"
)


def processor() -> list[str]:
    """Of the widest level that tools and this machine have."""
    known = Path("/proc/cpuinfo")
    flags = set(known.read_text().split()) if known.exists() else set()
    if platform.machine() == "x86_64" and {"avx2", "fma", "bmi2"} <= flags:
        return ["-march=x86-64-v3", "-DLANE_BYTES=32"]
    return ["-DLANE_BYTES=16"]


def built(folder: Path, how: str) -> Path:
    """The driver, compiled for a tool."""
    flags = [*FLAGS, *processor(), *SANITIZE[how], f"-I{HERE / 'without_xla'}"]
    objects = [folder / f"{source.stem}.o" for source in SOURCES]
    running = [
        subprocess.Popen([COMPILER, *flags, "-c", source, "-o", made])
        for source, made in zip(SOURCES, objects, strict=True)
    ]
    assert [process.wait() for process in running] == [0] * len(running)
    driver = folder / "driver"
    subprocess.run([COMPILER, *flags, *objects, "-o", driver], check=True)
    return driver


def ran(*command):
    done = subprocess.run(
        [str(x) for x in command], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_no_access_beyond_an_array_and_nothing_undefined(tmp_path):
    driver = built(tmp_path, "address")
    for threads, how in ((3, "all"), (1, "short")):
        code, _, said = ran(driver, threads, how)
        assert code == 0, said
    code, _, said = ran(driver, 1, "overrun")  # one entry, which is planted
    assert code != 0 and "heap-buffer-overflow" in said


@pytest.mark.slow
def test_threads_do_not_race(tmp_path):
    code, _, said = ran(built(tmp_path, "thread"), 3)
    assert code == 0, said


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="valgrind is not installed"
)
def test_nothing_is_read_before_it_is_written(tmp_path):
    driver = built(tmp_path, "valgrind")
    watched = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full"]
    code, result, said = ran(*watched, driver, 2, "short")
    assert code == 0, said
    assert result == ran(driver, 1, "short")[1]
    code, _, said = ran(*watched, driver, 1, "overrun")
    assert code == 9 and "Invalid read" in said

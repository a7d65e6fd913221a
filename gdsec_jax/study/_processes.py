"""Processes of the command's own, which end with it."""

import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def pool(number: int) -> Iterator[concurrent.futures.Executor]:
    """So many processes for functions of modules.

    They end when this process does, however it is ended, and where an error or an
    interrupt leaves the block: what they were computing is lost then.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would copy no threads
    others = set(multiprocessing.active_children())
    with concurrent.futures.ProcessPoolExecutor(
        number, mp_context=spawn, initializer=_begin
    ) as made:
        try:
            yield made
        except BaseException:
            for child in set(multiprocessing.active_children()) - others:
                child.kill()
            raise


def collect_rarely() -> None:
    """Tracing makes many objects and few circles of them: to look for these takes a
    twentieth to a tenth of a command's time."""
    gc.set_threshold(100_000, 50, 100)


def _begin() -> None:
    collect_rarely()
    _end_with_the_parent()


def _end_with_the_parent() -> None:
    """In a process of a pool: once its parent is gone, nobody waits for what it does.

    A thread waits for that, also while XLA computes. A signal would not do: of one that
    the parent is killed by nothing is heard here.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()

"""Several processes that train together."""

import contextlib
import os
import sys

import jax


@contextlib.contextmanager
def together(coordinator=None, number="1", own="0"):
    """Meet the other processes, if there are any; without one of them, end.

    Where a collective says that one is gone, that is told in a sentence; where it does
    not, JAX ends this process once it has not heard of the other for 20 s.
    """
    if coordinator is not None:
        jax.distributed.initialize(
            coordinator, int(number), int(own), heartbeat_timeout_seconds=20
        )
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if coordinator is None:
            raise
        reason = str(error).splitlines()[0]
        print(
            f"Another process is gone ({reason}): start all of them again.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # an orderly end would wait for it

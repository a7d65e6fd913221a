"""The command `gdsec`, which is `python -m gdsec_jax`, too."""

import os
import signal
import sys


def command() -> int:
    """Run it; while all that it needs is imported an interrupt ends it at once."""
    # Imports would make other errors of a KeyboardInterrupt, or none.
    before = signal.signal(signal.SIGINT, _end)
    from gdsec_jax.study import _processes

    _processes.collect_rarely()
    from gdsec_jax.study import cli

    signal.signal(signal.SIGINT, before)
    return cli.command()


def _end(*_) -> None:
    os.write(2, b"gdsec: interrupted.\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(command())

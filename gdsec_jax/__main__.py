"""`python -m gdsec_jax` is the command `gdsec`."""

import sys

if __name__ == "__main__":
    from gdsec_jax.study.cli import command

    sys.exit(command())

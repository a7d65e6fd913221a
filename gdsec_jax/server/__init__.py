"""What the workers said, leaves [M, *param], to one direction, [*param]."""

from gdsec_jax.server._memory import (
    LateMessagesState,
    ServerMemoryState,
    gradient_estimate,
    late_messages,
    server_memory,
)
from gdsec_jax.server._server import (
    Server,
    fitting_capacity,
    late,
    robust,
    running,
    sparse,
    total,
    two_shot,
)
from gdsec_jax.server._two_shot import TwoShotState

__all__ = [
    "LateMessagesState",
    "Server",
    "ServerMemoryState",
    "TwoShotState",
    "fitting_capacity",
    "gradient_estimate",
    "late",
    "late_messages",
    "robust",
    "running",
    "server_memory",
    "sparse",
    "total",
    "two_shot",
]

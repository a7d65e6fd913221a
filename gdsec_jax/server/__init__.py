"""What the workers said, leaves [M, *param], to one direction, [*param]."""

from gdsec_jax.server._memory import LateMessagesState as LateMessagesState
from gdsec_jax.server._memory import ServerMemoryState as ServerMemoryState
from gdsec_jax.server._memory import gradient_estimate as gradient_estimate
from gdsec_jax.server._memory import late_messages as late_messages
from gdsec_jax.server._memory import server_memory as server_memory
from gdsec_jax.server._server import Server as Server
from gdsec_jax.server._server import late as late
from gdsec_jax.server._server import robust as robust
from gdsec_jax.server._server import running as running
from gdsec_jax.server._server import sparse as sparse
from gdsec_jax.server._server import total as total

__all__ = [
    "LateMessagesState",
    "Server",
    "ServerMemoryState",
    "gradient_estimate",
    "late",
    "late_messages",
    "robust",
    "running",
    "server_memory",
    "sparse",
    "total",
]

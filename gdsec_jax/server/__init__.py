"""What the workers said, leaves [M, *param], to one direction, [*param]."""

from gdsec_jax.server._memory import LateMessagesState as LateMessagesState
from gdsec_jax.server._memory import ServerMemoryState as ServerMemoryState
from gdsec_jax.server._memory import gradient_estimate as gradient_estimate
from gdsec_jax.server._memory import late_messages as late_messages
from gdsec_jax.server._memory import server_memory as server_memory
from gdsec_jax.server._server import Aggregation as Aggregation

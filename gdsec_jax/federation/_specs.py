"""Where the parts of an optimizer's state belong on a mesh."""

from typing import Any

import jax
from jax.sharding import PartitionSpec

from gdsec_jax.federation._one_round import FederationState
from gdsec_jax.federation._spread import Axis, names_of
from gdsec_jax.server._two_shot import TwoShotState


def state_specs(state: Any, axis: Axis) -> Any:
    """A state's partition specs: the workers' parts over the axis, the rest whole.

    For `jax.shard_map`, or with a mesh for `jax.jit(..., out_shardings=)` and
    `jax.device_put`, so that no device holds the memories of other workers.

    Args:
      state: of an optimizer with an algorithm of this package, or its shapes.
      axis: the name of the mesh axis that the workers lie on, or a tuple of names.

    Returns:
      A tree prefix of the state with a `PartitionSpec` in the place of each part.

    Raises:
      ValueError: axis is no name.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jax.sharding import NamedSharding
      >>> import gdsec_jax
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> optimizer = optax.chain(gdsec_jax.top_j(4, k=2, axis="data"), optax.sgd(0.1))
      >>> shapes = jax.eval_shape(optimizer.init, jnp.zeros(9))
      >>> specs = gdsec_jax.state_specs(shapes, "data")
      >>> specs[0].workers == jax.P("data"), specs[0].clock == jax.P()
      (True, True)
      >>> lies = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
      >>> state = jax.jit(optimizer.init, out_shardings=lies)(jnp.zeros(9))
      >>> state[0].workers.error.shape
      (4, 9)
    """
    if not names_of(axis):
        raise ValueError(f"axis is {axis!r}, expected the name of a mesh axis.")
    by_worker, everywhere = PartitionSpec(names_of(axis)), PartitionSpec()
    if len(names_of(axis)) == 1:
        by_worker = PartitionSpec(*names_of(axis))

    def one(node):
        if isinstance(node, TwoShotState):
            return by_worker
        if not isinstance(node, FederationState):
            return everywhere
        own: Any = {"workers": by_worker, "sent": by_worker}
        own["server"] = state_specs(node.server, axis)
        own = dict.fromkeys(node._fields, everywhere) | own
        return FederationState(**own)

    def apart(node):
        return isinstance(node, FederationState | TwoShotState)

    return jax.tree.map(one, state, is_leaf=apart)

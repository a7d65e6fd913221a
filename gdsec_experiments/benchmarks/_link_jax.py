"""A rank of `gdsec bench link`: one worker, who meets the others over gloo."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import gdsec_jax
from gdsec_experiments.benchmarks import _ranks as ranks
from gdsec_jax import server, worker
from gdsec_jax.simulation import _hlo as hlo

AXIS = "data"
SHARE = 0.01  # of the entries that the sparse methods send


def methods(number: int, length: int) -> dict[str, Any]:
    """The algorithms by name, the dense one first."""
    over = {"axis": AXIS}
    few = round(SHARE * length)
    narrow = worker.chain(worker.top_k(SHARE), worker.cast("bfloat16"))
    return {
        "dense": gdsec_jax.gd(number, **over),
        "top_j 1 %": gdsec_jax.top_j(number, SHARE, **over),
        "top_j 1 %, bfloat16": gdsec_jax.federate(
            worker.error_feedback(narrow), number, **over
        ),
        "gdsec, sparse(1 %)": gdsec_jax.gdsec(
            number, 1.0, server=server.sparse(few), **over
        ),
        "ef21 1 %": gdsec_jax.ef21(number, SHARE, **over),
        "sign_ef": gdsec_jax.sign_ef(number, **over),
        "qgd, 7 levels": gdsec_jax.qgd(number, levels=7, **over),
        "laq, 4 bits": gdsec_jax.laq(number, 0.1, bits=4, **over),
        "power_sgd, rank 4": gdsec_jax.power_sgd(number, 4, **over),
    }


class Rank:
    """This process's worker: what it was told to prepare, and its state."""

    def __init__(self, rank: int, number: int, where: str, shape: tuple[int, int]):
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(where, number, rank)
        firsts = {d.process_index: d for d in reversed(jax.devices())}
        devices = [firsts[process] for process in range(number)]
        self.mesh = jax.make_mesh((number,), (AXIS,), devices=devices)
        self.number, self.shape = number, shape
        self.params = jax.device_put(jnp.zeros(shape, jnp.float32), self._by())
        rng = np.random.default_rng(rank)
        # Two in turns, so that every round has news.
        self.gradients = [
            self._everyones(rng.standard_normal((1, *shape), np.float32))
            for _ in range(2)
        ]
        self.one = self._everyones(np.ones(1, np.float32))
        self.sum = jax.jit(jnp.sum, out_shardings=self._by())
        self.state = self.compiled = None

    def prepare(self, name: str) -> dict[str, Any]:
        """Compile a method, and run it once: bytes that arrive by its program."""
        self.state = self.compiled = None
        method = methods(self.number, int(np.prod(self.shape)))[name]
        optimizer = optax.chain(method, optax.sgd(0.1))
        specs = gdsec_jax.state_specs(jax.eval_shape(optimizer.init, self.params), AXIS)
        lies = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)
        self.state = jax.jit(optimizer.init, out_shardings=lies)(self.params)
        update = jax.jit(
            optimizer.update, donate_argnums=1, out_shardings=(self._by(), lies)
        )
        self.compiled = update.lower(
            self.gradients[0], self.state, self.params
        ).compile()
        program = hlo.received(self.compiled.as_text(), self.number)
        self.update()
        return {"program": program._asdict(), "first_bits": self.bits()}

    def run(self, repeats: int) -> dict[str, Any]:
        """Times and bytes of some updates, and the bits that the last one counts."""
        return ranks.timed(self.update, self.barrier, repeats) | {"bits": self.bits()}

    def update(self) -> None:
        """One more."""
        updates, self.state = self.compiled(self.gradients[0], self.state, self.params)
        jax.block_until_ready((updates, self.state))
        self.gradients.reverse()

    def barrier(self) -> None:
        """Until all are here."""
        self.sum(self.one).block_until_ready()

    def bits(self) -> int:
        """That this worker sent in the last round, as it is counted."""
        own = jax.tree.map(lambda x: x.addressable_data(0), self.state)
        return int(gdsec_jax.last_round(own).bits.sum())

    def _by(self, *axes: str) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def _everyones(self, own: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(
            self._by(AXIS), own, (self.number, *own.shape[1:])
        )


if __name__ == "__main__":
    ranks.serve(Rank)

"""A worker of `sockets`, which is a process of its own."""

import json
import socket
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdsec_jax
from gdsec_experiments import _frames as frames
from gdsec_experiments import _softmax as softmax
from gdsec_jax import _trees, data, wire, worker

FINISHED = b""  # in theta's place, when a job is done


def worker_main(settings: dict[str, Any]) -> None:
    """Serve every job, from one connection, with no samples but its own."""
    index, num_workers = settings["index"], settings["num_workers"]
    with np.load(settings["shard"]) as file:
        shard = data.Shards(**file)
    like = softmax.init_params(shard.features.shape[1], settings["classes"])
    known = softmax.methods(num_workers, settings["step"])
    jobs = [softmax.Job(*job) for job in settings["jobs"]]
    pieces = {job.method: known[job.method] for job in jobs}
    steps = {
        name: _worker_step(method, index, num_workers, like)
        for name, method in pieces.items()
    }
    # Compiled by itself, as in the simulator's loop over the workers: the compiler
    # cannot mix it with what comes behind.
    gradient_of = jax.jit(jax.grad(softmax.worker_loss))
    address, size = ("127.0.0.1", settings["port"]), len(frames.to_floats(like))
    with socket.create_connection(address, settings["timeout"]) as connection:
        frames.send_frame(connection, frames.HEAD.pack(index))
        for job in jobs:
            init, step = steps[job.method]
            state = init()
            while (payload := frames.receive_frame(connection, size)) != FINISHED:
                params = frames.from_floats(payload, like)
                gradient = gradient_of(params, shard)
                update, own, state = step(gradient, params, state)
                if not all(np.isfinite(u).all() for u in jax.tree.leaves(update)):
                    raise FloatingPointError("the message is not finite")
                message = wire.message_of(update, own)
                frames.send_frame(connection, wire.encode(message, job.wire))


def _worker_step(method: softmax.Method, index: int, num_workers: int, like):
    """What a worker starts with, and its round behind the gradient."""
    pipeline = optax.with_extra_args_support(method.pipeline)
    clock = gdsec_jax.clock(num_workers, key=method.key)

    def init():
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], pipeline.init(like))
        return clock.init(like), one

    @jax.jit
    def step(gradient, params, state):
        common, own, known = clock.begin(state[0], params)
        own = jax.tree.map(lambda x: x[index][None], own)
        own |= {"active": jnp.ones(1, bool)}

        def run(gradient, state, own):
            return pipeline.update(gradient, state, params, **(common | own))

        # An axis of one worker, for pieces that sum over the axis.
        lifted = jax.vmap(run, axis_name=worker.WORKER_AXIS)
        gradient = jax.tree.map(lambda g: g[None], gradient)
        updates, states = lifted(gradient, state[1], own)
        updates = wire.flush(_trees.cast_like(updates, common["like"]))
        update, one = jax.tree.map(lambda x: x[0], (updates, states))
        return update, one, (known, states)

    return init, step


if __name__ == "__main__":
    worker_main(json.loads(sys.argv[1]))

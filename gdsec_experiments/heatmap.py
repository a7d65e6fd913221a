"""Which components are sent when, by each worker, over the rounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import gdsec_jax
from gdsec_experiments import _parts as parts
from gdsec_jax import server, worker
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, figures, report

LABEL = "GD-SEC"
BINS = 60  # of rounds


class Seen(NamedTuple):
    """State of `seen`."""

    message: optax.Updates


def seen() -> optax.GradientTransformation:
    """A piece that keeps the last message that passed it, for a look from outside."""

    def update(updates, state, params=None):
        del state, params
        return updates, Seen(updates)

    return optax.GradientTransformation(
        lambda p: Seen(optax.tree.zeros_like(p)), update
    )


def section(study: figures.Study) -> report.Section:
    """Heat maps over worker and component: the share of rounds that send it."""
    seconds = parts.stopwatch()
    config = study.config
    with experiment.prepared(config) as problem:
        method = configs.resolved(config.methods[LABEL], problem)
        sent = np.asarray(_sent(problem, method, config.num_rounds))  # [K, M, D]
        chosen = parts.how_chosen(config, problem)
    number = min(BINS, config.num_rounds)
    bins = np.array_split(np.arange(config.num_rounds), number)
    share = np.stack([sent[rounds].mean(axis=0) for rounds in bins])  # [BINS, M, D]
    edges = np.array([rounds[0] for rounds in bins] + [config.num_rounds])
    return parts.section_of(
        study,
        panels=[
            _map(
                edges,
                share.mean(axis=1).T,
                "rounds",
                "component",
                what="% of workers that send it",
            ),
            _map(
                edges,
                share.mean(axis=2).T,
                "rounds",
                "worker",
                what="% of entries that are sent",
            ),
            _map(
                np.arange(sent.shape[2] + 1) - 0.5,
                sent.mean(axis=0),
                "component",
                "worker",
                what="% of rounds that send it",
            ),
        ],
        data=_data(share, edges),
        table=_table(sent),
        claims=_claims(sent),
        chosen=chosen,
        seconds=seconds(),
    )


def _sent(problem, method, num_rounds):
    """bool [K, M, D], what left the workers: GD-SEC of its pieces, with a look in."""
    number = problem.num_workers
    censored = optax.chain(worker.censor(method.xi / number), seen())
    gdsec = gdsec_jax.federate(
        worker.gradient_difference(worker.error_feedback(censored), method.beta),
        number,
        server=server.running().with_memories(method.beta, None),
    )
    optimizer = optax.chain(gdsec, optax.sgd(method.learning_rate))

    def one_round(carry, _):
        params, state = carry
        updates, state = optimizer.update(problem.gradients(params), state, params)
        looks = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Seen))
        (look,) = (x for x in looks if isinstance(x, Seen))
        return (optax.apply_updates(params, updates), state), look.message != 0

    start = (problem.init_params, optimizer.init(problem.init_params))
    _, sent = jax.jit(lambda start: jax.lax.scan(one_round, start, length=num_rounds))(
        start
    )
    return jnp.reshape(sent, (num_rounds, number, -1))


def _map(edges, values, along, up, what):
    def panel(axes):
        rows = np.arange(values.shape[0] + 1) - 0.5  # a number stands at its middle
        image = axes.pcolormesh(edges, rows, 100 * values, cmap="viridis", vmin=0)
        axes.set(xlabel=along, ylabel=up)
        axes.figure.colorbar(image, ax=axes, label=what)
        axes.yaxis.get_major_locator().set_params(integer=True)

    return panel


def _data(share, edges):
    _, workers, components = share.shape
    index = pd.MultiIndex.from_product(
        [edges[:-1] + 1, range(workers), range(components)],
        names=["first_round", "worker", "component"],
    )
    return pd.DataFrame({"share_of_rounds": share.ravel()}, index=index).reset_index()


def _table(sent):
    rows = []
    for number, one in enumerate(sent.transpose(1, 0, 2)):
        often = one.mean(axis=0)
        rows.append(
            {
                "worker": str(number),
                "entries a round": f"{one.sum(axis=1).mean():.2f} of {one.shape[1]}",
                "silent rounds": f"{(~one.any(axis=1)).mean():.1%}",
                "most sent component": f"{often.argmax()} ({often.max():.1%})",
                "never sent": str(int((often == 0).sum())),
            }
        )
    return pd.DataFrame(rows)


def _claims(sent):
    often = sent.mean(axis=(0, 1))
    order = np.sort(often)[::-1]
    few = order[: max(1, order.size // 10)].sum() / order.sum()
    yield report.Claim(
        "some components are sent far more often than others",
        bool(few > 0.2),
        f"a tenth of the components makes {few:.0%} of all that is sent",
    )

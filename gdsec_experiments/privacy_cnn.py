"""The same under noise on a small CNN: loss against bits at an epsilon, and without."""

import optax
from flax import nnx

from gdsec_experiments import _models as models
from gdsec_experiments import _noised as noised
from gdsec_experiments import _parts as parts
from gdsec_jax import data, problems
from gdsec_jax.study import figures, report

EPSILON = 8.0
# Of 6,186 parameters; 1 and 2 % of them.
SETTINGS = {
    "top-j": (64, 128),
    "EF21-SGDM": (128, 256),
    noised.SEC: (300.0, 3000.0),
    noised.FLOOR: (4.0, 8.0),
    noised.QUANTISED: (4.0, 8.0),
    "DIANA": (4, 8),
}


def section(study: figures.Study) -> report.Section:
    """Loss against bits at an epsilon, and without noise."""
    seconds, given = parts.stopwatch(), study.config.problem
    digits = data.load(given.data)
    x = (digits.features / digits.features.max()).astype("float32")
    assert given.clip and given.delta and given.sampling_rate
    model = models.LeNet(x.shape[1], 10, sliced=True, rngs=nnx.Rngs(0), dtype=None)
    loss = optax.softmax_cross_entropy_with_integer_labels
    pair = (x, digits.targets.astype("int32"))
    plain = problems.flax_problem(model, loss, pair, given.num_workers, name="lenet")
    plain = problems.poisson(plain, given.sampling_rate)
    private = problems.private(
        plain,
        given.clip,
        delta=given.delta,
        microbatch=given.microbatch,
    )
    levels = noised.levels_of(study.config, private, plain, [EPSILON])
    runs = noised.runs_of(study, levels, settings=SETTINGS)
    return parts.section_of(
        study,
        panels=[noised.losses_of(level, runs[level.epsilon]) for level in levels],
        data=noised.tidy(runs),
        table=noised.table_of(runs),
        claims=list(noised.claims_of(runs)),
        chosen=noised.chosen_of(runs),
        bands=noised.BANDS,
        seconds=seconds(),
    )

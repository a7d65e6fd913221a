"""A convolutional network: accuracy against bits, workers sorted by label or not."""

import pandas as pd

from gdsec_experiments import _parts as parts
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment, figures, report

SPLITS = ("sorted", "shuffled")
LABELS = ("SGD-SEC", "QSGD-SEC", "top-j", "EF21-SGDM")


def section(study: figures.Study) -> report.Section:
    """Every method at one setting, on both splits."""
    seconds = parts.stopwatch()
    study = _on_data_at_hand(study)
    runs = {
        split: parts.compare(
            study._replace(
                config=study.config.model_copy(
                    update={
                        "problem": study.config.problem.model_copy(
                            update={"split": split}
                        )
                    }
                ),
                folder=study.folder / split,
            )
        )
        for split in SPLITS
    }
    return parts.section_of(
        study,
        panels=[parts.named_at_ends(_panel(runs[split], split)) for split in SPLITS],
        data=pd.concat([_curves(one, split) for split, one in runs.items()]),
        table=pd.concat(
            [parts.costs(one).assign(split=split) for split, one in runs.items()]
        ),
        claims=[
            _of(split, claim)
            for split, one in runs.items()
            for claim in (
                *(
                    parts.keeps_the_rate(one, label, one.config.slack)
                    for label in LABELS
                    if label in study.config.methods
                ),
                parts.fewest_bits(
                    parts.ours_of(one.config), parts.spent(one), parts.leavers(one)
                ),
            )
        ],
        chosen=parts.how_chosen(study.config, runs[SPLITS[0]].problem),
        first=" ".join(
            f"{split.capitalize()} split: {_front(runs[split])}" for split in SPLITS
        ),
        problem=parts.of_the_data(study.config, split=" and ".join(SPLITS)),
        seconds=seconds(),
    )


def _front(runs: experiment.Runs) -> str:
    return parts.first_line(
        parts.ours_of(runs.config), parts.spent(runs), parts.leavers(runs)
    )


def _on_data_at_hand(study: figures.Study) -> figures.Study:
    """With the digits of scikit-learn, if those of MNIST cannot be had."""
    config = study.config
    try:
        configs.load_data(config.problem.data, config.problem.subset)
    except OSError:
        text = f"{config.text} {config.problem.data} cannot be had: 8 x 8 digits are."
        problem = {"data": "digits", "subset": "train"}
        config = config.model_copy(
            update={"text": text, "problem": config.problem.model_copy(update=problem)}
        )
    return study._replace(config=config)


def _panel(runs: experiment.Runs, split: str):
    def panel(axes):
        for label, style in report.line_styles(runs.methods).items():
            history = runs.histories[label]
            axes.plot(history.total_bits, 100 * history.metrics["accuracy"], **style)
        axes.set(
            title=f"{split} split",
            xlabel="uploaded bits, all workers",
            ylabel="accuracy on held-out images, %",
            ylim=(60, 100),  # where methods differ
        )
        parts.logarithmic(axes, "x")

    return panel


def _curves(runs: experiment.Runs, split: str) -> pd.DataFrame:
    curves = parts.curves(runs.histories)
    accuracy = [h.metrics["accuracy"] for h in runs.histories.values()]
    return curves.assign(split=split, accuracy=[x for each in accuracy for x in each])


def _of(split: str, claim: report.Claim) -> report.Claim:
    return claim._replace(text=f"{split} split: {claim.text}")

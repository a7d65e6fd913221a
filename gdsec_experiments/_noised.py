"""Methods under noise: what is compared, how it is chosen, and what is shown of it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax
import pandas as pd
import xarray as xr
from flax import nnx

import gdsec_jax
from gdsec_experiments import _models as models
from gdsec_experiments import _parts as parts
from gdsec_jax import privacy, problems, wire, worker
from gdsec_jax.study import config as configs
from gdsec_jax.study import figures, report, tuning

EPSILONS = (1.0, 3.0, 8.0)
PUBLIC = np.inf  # neither noise nor a clip
CHOOSING, REPORTING = range(2), range(10, 20)
CLOSE = 0.02  # of the loss that SGD has at its end
DENSE, SEC, FLOOR, QUANTISED = "SGD", "SGD-SEC", "SGD-SEC floor", "QSGD-SEC floor"


class Row(NamedTuple):
    """A method with the settings that it has to choose from."""

    name: str  # of the package's function, for its colour
    make: Callable[..., Any]  # from M, a setting and the common options
    settings: tuple[Any, ...]
    public: tuple[Any, ...] = ()  # without noise; by default the same


def _floor(method: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    """GD-SEC with a floor in place of xi; without noise there is xi alone."""

    def make(num_workers, value, *, noise=None, **options):
        own = {"xi": value} if noise is None else {"xi": 0.0, "floor": value}
        return method(num_workers, **own, **more, noise=noise, **options)

    return make


def _largest(num_workers: int, value: int, **options: Any) -> Any:
    return gdsec_jax.top_j(num_workers, k=value, **options)


def _plain(num_workers: int, value: Any, **options: Any) -> Any:
    return gdsec_jax.gd(num_workers, **options)


def _sec(num_workers: int, value: Any, **options: Any) -> Any:
    return gdsec_jax.gdsec(num_workers, xi=value, **options)


def _ef21(num_workers: int, value: Any, **options: Any) -> Any:
    return gdsec_jax.ef21_sgdm(num_workers, k=0.05, eta=value, **options)


def _diana(num_workers: int, value: int, **options: Any) -> Any:
    return gdsec_jax.diana(num_workers, worker.qsgd(value), **options)


XI = (30.0, 100.0, 300.0)
FLOORS = (4.0, 6.0, 8.0)
ETAS = (0.1, 0.3, 1.0)
ROWS = {
    DENSE: Row("gd", _plain, (0.0,)),
    SEC: Row("gdsoec", _sec, XI),
    FLOOR: Row("gdsec", _floor(gdsec_jax.gdsec), FLOORS, XI),
    QUANTISED: Row("qsgdsec", _floor(gdsec_jax.qsgdsec, levels=7), FLOORS, XI),
    "top-j": Row("top_j", _largest, (8,)),
    "EF21-SGDM": Row("ef21_sgdm", _ef21, ETAS),
    "DIANA": Row("diana", _diana, (8,)),
}


# The CNN's: steps of its loss itself, whose smoothness is not known; with few levels a
# quantiser of its whole vectors makes it diverge.
NETWORK_STEPS = (0.25, 0.5, 1.0)
NETWORK_ROUNDS, NETWORK_EVERY = 40, 2
NETWORK_REPORTING = range(10, 16)
NETWORK_ROWS = {
    DENSE: ROWS[DENSE],
    FLOOR: ROWS[FLOOR]._replace(settings=(3.0,), public=(100.0,)),
    QUANTISED: Row("qsgdsec", _floor(gdsec_jax.qsgdsec, levels=255), (3.0,), (100.0,)),
    "top-j": ROWS["top-j"]._replace(settings=(120,)),
    "EF21-SGDM": ROWS["EF21-SGDM"]._replace(settings=(0.3,)),
    "DIANA": ROWS["DIANA"]._replace(settings=(127,)),
}
BANDS = (
    f"Lines: medians of {len(REPORTING)} seeds, of the CNN {len(NETWORK_REPORTING)}; "
    "bands: from the least to the largest."
)


class Level(NamedTuple):
    """What is private at one epsilon, and how."""

    epsilon: float
    multiplier: float  # of the noise; 0 without
    problem: problems.Problem


class Compared(NamedTuple):
    """What methods are compared on, and what they have to choose from."""

    name: str
    levels: list[Level]  # private ones, and last the plain problem
    rows: dict[str, Row]  # by label
    steps: tuple[float, ...]  # times 1/L, if L is known
    num_rounds: int
    eval_every: int
    reporting: range  # seeds


def on_digits(config: configs.RunConfig, problem: problems.Problem) -> Compared:
    """The problem of the figure's config, once more without a clip."""
    plain = dataclasses.replace(problem, private=None)
    steps = configs.values_of(config.grid)["step_factor"]
    return Compared(
        "softmax",
        levels_of(config.num_rounds, problem, plain),
        {label: ROWS[label] for label in config.methods},
        tuple(map(float, steps)),
        config.num_rounds,
        config.eval_every,
        REPORTING,
    )


def on_network(config: configs.RunConfig) -> Compared:
    """A small CNN on the same samples, as many workers, the same sampling."""
    own = config.problem
    digits = configs.load_samples(own)
    x = np.float32(digits.features / digits.features.max())
    y = digits.targets.astype(np.int32)
    options: dict[str, Any] = {"rngs": nnx.Rngs(own.seed), "dtype": None}
    model = models.LeNet(
        digits.features.shape[1], 10, dropout=0.0, sliced=True, **options
    )
    loss = optax.softmax_cross_entropy_with_integer_labels
    plain = problems.flax_problem(
        model, loss, (x, y), own.num_workers, seed=own.seed, name="lenet"
    )
    plain = problems.poisson(plain, own.sampling_rate or 1.0)
    problem = problems.private(
        plain, own.clip or 1.0, delta=own.delta or 0.0, microbatch=own.microbatch
    )
    return Compared(
        "CNN",
        levels_of(NETWORK_ROUNDS, problem, plain),
        NETWORK_ROWS,
        NETWORK_STEPS,
        NETWORK_ROUNDS,
        NETWORK_EVERY,
        NETWORK_REPORTING,
    )


def levels_of(
    num_rounds: int, problem: problems.Problem, plain: problems.Problem
) -> list[Level]:
    """The epsilons that are compared of a private problem, and last the plain one."""
    known = problem.private
    assert known is not None
    found = []
    for epsilon in EPSILONS:
        multiplier = privacy.noise_multiplier(
            epsilon, num_rounds, delta=known.delta, sampling_rate=known.sampling_rate
        )
        found.append(Level(epsilon, multiplier, problem))
    return [*found, Level(PUBLIC, 0.0, plain)]


class Chosen(NamedTuple):
    """A method at an epsilon: its runs with the seeds that report."""

    runs: xr.Dataset
    setting: dict[str, Any]
    why: str
    optimum: float  # f*, so that losses are f itself

    @property
    def losses(self) -> xr.DataArray:
        """f, over seeds and evaluations."""
        return self.runs["objective_error"] + self.optimum

    @property
    def last(self) -> float:
        """f at the end: of the last tenth of the evaluations, the median of all."""
        number = self.runs.sizes["eval_round"]
        return float(
            self.losses.isel(eval_round=slice(-max(number // 10, 1), None)).median()
        )

    @property
    def close(self) -> float:
        """Of SGD: the loss that counts as its own."""
        return (1 + CLOSE) * self.last

    def bits_to(self, loss: float) -> float:
        """Uploaded until f is first at most this, and stays; the median over seeds."""
        target = loss - self.optimum
        return float(np.median(tuning.bits_that_stay(self.runs, target)))


Runs = dict[float, dict[str, Chosen]]  # by epsilon and label


def runs_of(study: figures.Study, compared: Compared) -> Runs:
    """Of all levels, the last without noise."""
    *private, public = compared.levels
    found = [
        *of_levels(study, compared, private),
        *of_levels(study, compared, [public]),
    ]
    levels = zip(compared.levels, found, strict=True)
    return {level.epsilon: own for level, own in levels}


def of_levels(
    study: figures.Study, compared: Compared, levels: Sequence[Level]
) -> list[dict[str, Chosen]]:
    """Every method at epsilons of one problem: SGD's step by its last loss, then bits.

    All runs have the same rounds, which is what they may give away. As many report as
    choose with one value, so that all of a method are one compiled loop.
    """
    config, problem = study.config, levels[0].problem
    form = wire.Format(config.wire, config.value_bits)
    public = levels[0].epsilon == PUBLIC
    unit, optimum = problem.smoothness or 1.0, float(problem.optimum or 0.0)
    found: list[dict[str, Chosen]] = [{} for _ in levels]
    for label, row in compared.rows.items():

        def make(multiplier, step, value, seed, row=row):
            options: dict[str, Any] = {"wire": form, "key": seed}
            if not public:
                sensitivity = problem.private.sensitivity  # pyright: ignore
                options["noise"] = worker.gaussian_noise(multiplier, sensitivity)
            algorithm = row.make(problem.num_workers, value, **options)
            return optax.chain(algorithm, optax.sgd(step / unit))

        def swept(what, grid, make=make, label=label):
            kind = "public" if public else "private"
            return gdsec_jax.sweep(
                problem,
                make,
                grid,
                compared.num_rounds,
                eval_every=compared.eval_every,
                path=study.folder / f"{compared.name} {label} {kind} {what}.nc",
                progress=study.progress if study.progress is None else False,
            )

        values = row.public if public and row.public else row.settings
        grid = {
            "multiplier": [level.multiplier for level in levels],
            "step": list(compared.steps),
        }
        each = [
            swept(f"choosing {x:g}", grid | {"value": [x], "seed": [*CHOOSING]})
            for x in values
        ]
        few = xr.concat(each, "value", join="exact", combine_attrs="drop")
        choices = []
        for n, methods in enumerate(found):
            own, target = few.isel(multiplier=n), 0.0
            if DENSE in methods:
                target = methods[DENSE].close - optimum
            choices.append(tuning.choose(own, tuning.axes_in(own), target, np.inf))
        rows = [
            (level.multiplier, choice.setting["step"], choice.setting["value"])
            for level, choice in zip(levels, choices, strict=True)
        ]
        axes = {("multiplier", "step", "value"): rows, "seed": [*compared.reporting]}
        runs = swept("reporting", axes)
        for n, (methods, choice) in enumerate(zip(found, choices, strict=True)):
            own = runs.isel(multiplier_step_value=n, drop=True)
            own = own.drop_vars(["multiplier", "step", "value"], errors="ignore")
            methods[label] = Chosen(own, choice.setting, choice.why, optimum)
    return found


def _looks() -> dict[str, str]:
    return {label: row.name for label, row in ROWS.items()}


def title_of(epsilon: float) -> str:
    return "no noise" if epsilon == PUBLIC else f"epsilon = {epsilon:g}"


def losses_of(name: str, epsilon: float, runs: dict[str, Chosen]) -> report.Panel:
    """Loss against bits; bands from the least to the largest of the seeds."""

    def panel(axes):
        for label, style in report.line_styles(_looks()).items():
            if label not in runs:
                continue
            one = runs[label].runs
            bits, loss = one["total_bits"].median("seed"), runs[label].losses
            axes.plot(bits, loss.median("seed"), **style)
            axes.fill_between(
                bits, loss.min("seed"), loss.max("seed"),
                color=style["color"], alpha=0.15, linewidth=0,
            )  # fmt: skip
        axes.axhline(runs[DENSE].close, color="0.5", lw=0.8, ls=":")
        axes.set(
            title=f"{name}, {title_of(epsilon)}", xlabel="uploaded bits, all workers",
            ylabel="loss",
        )  # fmt: skip
        parts.logarithmic(axes, "xy")

    return panel


def tidy(everything: Mapping[str, Runs]) -> pd.DataFrame:
    frames = []
    for name, epsilon, methods in _each(everything):
        own = {label: x.runs for label, x in methods.items()}
        frames.append(parts.tidy(own).assign(problem=name, epsilon=epsilon))
    return pd.concat(frames)


def _each(everything: Mapping[str, Runs]) -> Iterator[tuple[str, float, Any]]:
    for name, runs in everything.items():
        for epsilon, methods in runs.items():
            yield name, epsilon, methods


def _share(methods: dict[str, Chosen], label: str) -> float:
    """Of SGD's bits to a loss within 2 % of its last one, how many a method sends.

    Of all its bits, where it does not stay there itself.
    """
    dense = methods[DENSE]
    whole = float(dense.runs["total_bits"].isel(eval_round=-1).median())
    return methods[label].bits_to(dense.close) / min(dense.bits_to(dense.close), whole)


def table_of(everything: Mapping[str, Runs]) -> pd.DataFrame:
    rows = []
    for name, epsilon, methods in _each(everything):
        for label, one in methods.items():
            share = _share(methods, label)
            whole = one.runs["total_bits"].isel(eval_round=-1).median()
            given = PUBLIC
            if "epsilon" in one.runs:
                given = float(one.runs["epsilon"].isel(eval_round=-1).max())
            rows.append(
                {
                    "problem": name,
                    "epsilon": "none" if epsilon == PUBLIC else f"{given:.2f}",
                    "method": label,
                    "last loss": f"{one.last:.3f}",
                    "of SGD's": f"{one.last / methods[DENSE].last:.1%}",
                    "bits to SGD's + 2 %": f"{share:.1%}"
                    if np.isfinite(share)
                    else "-",
                    "Mbit in all": f"{float(whole) / 1e6:.3f}",
                }
            )
    return pd.DataFrame(rows)


def chosen_of(everything: Mapping[str, Runs]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "problem": name,
            "epsilon": title_of(epsilon),
            "method": label,
            "setting": f"step {one.setting['step']:g}, {one.setting['value']:g}",
            "why": one.why,
        }
        for name, epsilon, methods in _each(everything)
        for label, one in methods.items()
    )


def claims_of(name: str, runs: Runs) -> Iterator[report.Claim]:
    """That a tenth of the bits is enough, and what a floor is good for."""
    methods = runs[EPSILONS[-1]]
    shares = {x: _share(methods, x) for x in methods if x != DENSE}
    shares = {x: share for x, share in shares.items() if np.isfinite(share)}
    best = min(shares, key=shares.__getitem__, default="")
    told = ", ".join(f"{x} {share:.1%}" for x, share in shares.items())
    yield report.Claim(
        f"{name}: at epsilon {EPSILONS[-1]:g} a compressed method reaches SGD's loss "
        "within 2 % with at most a tenth of its bits",
        bool(shares and shares[best] <= 0.1),
        f"of SGD's bits: {told or 'none reaches it'}",
    )
    if FLOOR in methods and SEC in methods:
        whole = {
            x: float(methods[x].runs["total_bits"].isel(eval_round=-1).median())
            for x in (DENSE, SEC, FLOOR)
        }
        yield report.Claim(
            f"{name}: without a floor GD-SEC sends noise: what it sends in all is less "
            "with one",
            bool(whole[FLOOR] < whole[SEC]),
            ", ".join(f"{x} {bits / 1e6:.2f} Mbit" for x, bits in whole.items()),
        )

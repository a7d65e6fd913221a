"""How the cost of GD-SEC's update, and of a round, grows with the workers M and size D.

Updates are of float32, jitted and donated; rounds are those of a run, float64. The
exponents of updates are fitted where the arrays exceed the caches; below, a call costs
what starting it does.
"""

import jax

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_experiments.benchmarks import _problems as problems
from gdsec_experiments.benchmarks import _update as update

WORKERS = (1, 10, 100, 1_000, 2_000, 5_000, 10_000)  # of 10,000 components
SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 3 * 10**7, 10**8)  # of 2 workers
ROUNDS = (1_000, 2_000, 5_000, 10_000)  # workers, with 4 samples of length 50
LARGE = 2**27  # bytes that a step moves: several times the caches


def bench(settings: Settings) -> list[Measure]:
    """Both exponents, and the time an entry at either end."""
    if settings.small:
        by_workers = [(m, 100) for m in (1, 10, 100)]
        by_size = [(2, d) for d in (100, 1_000, 10_000)]
    else:
        by_workers = [(m, 10_000) for m in WORKERS]
        by_size = [(2, d) for d in SIZES]
    return [
        *_measures("M", "D = {1:,}", by_workers, settings),
        *_measures("D", "M = {0}", by_size, settings),
        _of_rounds((10, 40) if settings.small else ROUNDS, settings),
    ]


def _of_rounds(numbers: tuple[int, ...], settings: Settings) -> Measure:
    """How a round of a run grows with the number of workers."""
    with jax.enable_x64(True):
        runs = {}
        for number in numbers:
            problem = problems.random_logistic(number, 4, 50)
            optimizer = problems.optimizers_for(problem)["GD-SEC"]
            runs[str(number)] = problems.rounds_of(problem, optimizer)
        times = list(problems.seconds_a_round(runs, settings).values())
    return Measure(
        f"exponent in M of a round, {numbers[0]:,} to {numbers[-1]:,}",
        **benchmarks.exponent(numbers, times),
        must=1.05,
        goal=1.0,
        note=f"D = 50; {1e3 * times[0].median:.3g} to {1e3 * times[-1].median:.3g} ms.",
    )


def _measures(letter: str, fixed: str, shapes, settings: Settings) -> list[Measure]:
    times = []
    for shape in shapes:  # one after the other: together they would fill the memory
        calls = {"step": update.call_of(*shape)}
        times.append(benchmarks.interleaved(calls, settings.repeats)["step"])
        del calls
    axis = 0 if letter == "M" else 1
    large = [
        i
        for i, shape in enumerate(shapes)
        if settings.small or update.bytes_moved(*shape) >= LARGE
    ]
    first, last = shapes[large[0]][axis], shapes[-1][axis]
    measured = ", ".join(
        f"{shape[axis]:.0e}: {each.median:.2g} s"
        for shape, each in zip(shapes, times, strict=True)
    )
    numbers = shapes[-1][0] * shapes[-1][1]
    return [
        Measure(
            f"exponent in {letter}, {first:,} to {last:,}",
            **benchmarks.exponent(
                [shapes[i][axis] for i in large], [times[i] for i in large]
            ),
            must=1.05,
            goal=1.0,
            note=f"{fixed.format(*shapes[-1])}; {letter} {measured}.",
        ),
        Measure(
            f"a worker and component, {letter} = {last:,}",
            **benchmarks.summary(1e9 * t / numbers for t in times[-1].seconds),
            unit="ns",
        ),
    ]

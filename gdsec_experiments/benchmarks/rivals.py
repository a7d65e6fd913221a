"""The same work by a plain NumPy loop over workers and by PyTorch.

Rivals are written as their users write them: whole vectors a worker, threads as they
come. NumPy's compression has two forms: the plain loop is the formulas as they stand,
the other sends indices and values and writes over what it needs no more. PyTorch's is a
threshold sparsifier with residual memory, as in frameworks for gradient compression:
values and indices of what is sent. All compute what GD-SEC does, and tests hold them to
its iterates.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.sparse
import scipy.special

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings, Skipped
from gdsec_experiments.benchmarks import _problems as problems
from gdsec_experiments.benchmarks import _update as update

FORMS = ("dense", "csr")  # of a NumPy user's features: the faster one counts
SIZE, SMALL_SIZE = (8, 12_500_000), (8, 1_250)  # M, D


def bench(settings: Settings) -> list[Measure]:
    """Their time over ours."""
    measures = _compress(settings)
    with jax.enable_x64(True):
        return [*measures, *_rounds(settings)]


# Compression. A rival is a function (gradients like those to come [M, D], xi, beta) to
# its step, from gradients and params to the direction h + sum of the messages, and the
# numbers of entries sent.


def numpy_plain(like: np.ndarray, xi: float, beta: float) -> Callable:
    """The formulas, worker by worker, messages as vectors with zeros."""

    def work(gradient, h, e, threshold, beta, total):
        delta = gradient - h + e
        message = np.where(np.abs(delta) <= threshold, delta.dtype.type(0), delta)
        h[:] = h + beta * message
        e[:] = delta - message
        total += message
        return np.count_nonzero(message)

    return _numpy_loop(work, like, xi, beta)


def numpy_indexed(like: np.ndarray, xi: float, beta: float) -> Callable:
    """Messages as indices and values: the fastest form we know, where few are sent."""
    spare = np.empty_like(like[0])

    def work(gradient, h, e, threshold, beta, total):
        np.subtract(gradient, h, out=spare)
        e += spare
        np.abs(e, out=spare)
        (indices,) = np.nonzero(spare > threshold)
        values = e[indices]
        e[indices] = 0
        total[indices] += values
        h[indices] += beta * values
        return indices.size

    return _numpy_loop(work, like, xi, beta)


def _numpy_loop(work: Callable, like: np.ndarray, xi: float, beta: float) -> Callable:
    """A step of `work` for one worker after the other, which changes h, e and total."""
    num_workers, size = like.shape
    dtype = like.dtype.type
    share, beta = dtype(xi / num_workers), dtype(beta)
    h, e = np.zeros_like(like), np.zeros_like(like)
    server, previous = np.zeros(size, dtype), None

    def step(gradients, params):
        nonlocal server, previous
        threshold = share * np.abs(params - (params if previous is None else previous))
        previous = params.copy()
        total = np.zeros(size, dtype)
        counts = [
            work(gradients[m], h[m], e[m], threshold, beta, total)
            for m in range(num_workers)
        ]
        direction = server + total
        server = server + beta * total
        return direction, np.array(counts)

    return step


def torch_indexed(like: Any, xi: float, beta: float) -> Callable:
    """PyTorch's: gradients, params and direction are its tensors.

    Raises:
      Skipped: it is not installed.
    """
    torch = _torch()
    num_workers, size = like.shape
    h, residual = torch.zeros_like(like), torch.zeros_like(like)
    server, previous = torch.zeros(size, dtype=like.dtype), None

    def step(gradients, params):
        nonlocal previous
        change = params - (params if previous is None else previous)
        threshold = change.abs_().mul_(xi / num_workers)
        previous = params.clone()
        total, counts = torch.zeros_like(params), []
        for m in range(num_workers):
            tensor = gradients[m] - h[m]
            tensor += residual[m]
            (indices,) = torch.where(tensor.abs() > threshold)
            values = tensor[indices]
            counts.append(indices.numel())
            tensor[indices] = 0
            residual[m] = tensor
            total.index_add_(0, indices, values)
            h[m].index_add_(0, indices, values, alpha=beta)
        direction = server + total
        server.add_(total, alpha=beta)
        return direction, np.array(counts)

    return step


def _torch() -> Any:
    # Threads that wait for work in a loop would take a core from whoever comes next.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
    except ImportError as error:
        raise Skipped(
            "PyTorch is not installed: pip install 'gdsec-jax[bench]'."
        ) from error
    return torch


def _compress(settings: Settings) -> list[Measure]:
    num_workers, size = SMALL_SIZE if settings.small else SIZE
    what = f"compress {num_workers} x {size / 1e6:g} M"
    arrays = update.gradients_of(num_workers, size), *update.places_of(size)
    arrays = [*map(np.asarray, arrays), np.asarray(update.backlog_of(arrays[0]))]
    calls = {
        "NumPy loop": _steps(numpy_plain, *arrays),
        "NumPy, by indices": _steps(numpy_indexed, *arrays),
    }
    ours = update.call_of(num_workers, size)
    times = benchmarks.interleaved(calls | {"ours": ours}, settings.repeats)
    turns = dict.fromkeys(calls, times["ours"])
    missing = ""
    try:  # in turns of its own: its threads disturb the others
        calls = {"PyTorch loop": _steps(torch_indexed, *map(_torch().tensor, arrays))}
        own = benchmarks.interleaved(calls | {"ours": ours}, settings.repeats)
        turns["PyTorch loop"] = own.pop("ours")
        times |= own
    except Skipped as reason:
        missing = str(reason)
    share = update.sent(ours())
    measures = []
    for name, must, goal in (
        ("NumPy loop", 4.0, 10.0),
        ("NumPy, by indices", None, None),
        ("PyTorch loop", 2.0, 5.0),
    ):
        value: dict[str, Any] = {"value": float("nan"), "note": f"{missing}"}
        if name in times:
            value = benchmarks.ratio(times[name], turns[name]) | {
                "note": f"{times[name].median:.3g} s and {turns[name].median:.3g} s, "
                f"float32, {share:.2%} of the entries sent."
            }
        measures.append(
            Measure(
                f"{name} / ours, {what}",
                **value,
                must=must,
                goal=goal,
                larger_is_better=True,
            )
        )
    return measures


def _steps(rival: Callable, gradients, first, second, backlog) -> Callable:
    """A call for the next step of a rival's run, which begins as ours does."""
    num_workers = len(gradients)
    xi = update.THRESHOLD / update.MOVE * num_workers
    step = rival(gradients, xi, update.BETA)
    step(0 * backlog, first)  # ours is told at init where params begin
    step(backlog, second)
    places, number = (first, second), 1

    def call():
        nonlocal number
        number += 1
        return step(gradients, places[number % 2])

    return call


# Rounds


def _rounds(settings: Settings) -> list[Measure]:
    measures = []
    for name, make in (
        ("ridge, MNIST", problems.ridge),
        ("logistic, MNIST", problems.logistic),
        ("logistic, a9a, 20 workers", problems.a9a),
    ):
        title = f"NumPy loop / ours, round of {name}"
        asked = {"must": 2.0, "goal": 8.0, "larger_is_better": True}
        try:
            problem = make(settings.small)
        except Skipped as reason:
            measures.append(Measure(title, float("nan"), note=str(reason), **asked))
            continue
        ours = problems.optimizers_for(problem)["GD-SEC"]
        runs = {"ours": problems.rounds_of(problem, ours)}
        runs |= {form: numpy_rounds(problem, form) for form in FORMS}
        times = problems.seconds_a_round(runs, settings)
        best = min(FORMS, key=lambda form: times[form].median)
        both = ", ".join(f"{1e3 * times[f].median:.3g} ms {f}" for f in FORMS)
        measures.append(
            Measure(
                title,
                **benchmarks.ratio(times[best], times["ours"]),
                note=f"the better of {both}, and {1e3 * times['ours'].median:.3g} ms, "
                "float64.",
                **asked,
            )
        )
    return measures


def numpy_rounds(problem: Any, form: str = "dense") -> Callable:
    """A function of a number of rounds that runs GD-SEC from zero, to the last params.

    Args:
      problem: ridge or logistic regression, whose data are taken as they are split.
      form: of the features: "dense", or "csr" of scipy.sparse.
    """
    shards = problem.worker_data.shards
    real = [np.asarray(weight) > 0 for weight in shards.weight]
    features, targets, weights = (
        [np.asarray(own)[which] for own, which in zip(leaf, real, strict=True)]
        for leaf in (shards.features, shards.targets, shards.weight)
    )
    if form == "csr":
        features = [scipy.sparse.csr_array(x) for x in features]
    penalty = np.asarray(problem.worker_data.regularization)
    ridge = problem.name == "ridge"

    def gradient(m, theta):
        x, y = features[m], targets[m]
        z = x @ theta
        slope = z - y if ridge else -y * scipy.special.expit(-y * z)
        return x.T @ (weights[m] * slope) + penalty[m] * theta

    def run(number):
        theta = np.zeros(problem.init_params.shape)
        gradients = np.empty((problem.num_workers, theta.size))
        step = numpy_plain(gradients, problems.xi_of(problem), problems.BETA)
        for _ in range(number):
            for m in range(problem.num_workers):
                gradients[m] = gradient(m, theta)
            direction, _ = step(gradients, theta)
            theta -= direction / problem.smoothness
        return theta

    return run

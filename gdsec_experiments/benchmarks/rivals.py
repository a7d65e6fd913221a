"""The same work by a plain NumPy loop over workers and by PyTorch.

Rivals are written as their users write them: whole vectors a worker, threads as they
come. NumPy's compression has two forms: the plain loop is the formulas as they stand,
the other sends indices and values and writes over what it needs no more. PyTorch's is a
threshold sparsifier with residual memory, as in frameworks for gradient compression:
values and indices of what is sent. All compute what GD-SEC does, and tests hold them to
its iterates.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse
import scipy.special

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings, Skipped
from gdsec_experiments.benchmarks import _problems as problems
from gdsec_experiments.benchmarks import _update as update
from gdsec_jax import _native
from gdsec_jax.problems import _losses
from gdsec_jax.problems._linear import linear_loss

FORMS = ("dense", "csr")  # of a NumPy user's features: the faster one counts
SIZE, SMALL_SIZE = (8, 12_500_000), (8, 1_250)  # M, D


def bench(settings: Settings) -> list[Measure]:
    """Their time over ours."""
    measures = _compress(settings)
    with jax.enable_x64(True):
        return [*measures, *_rounds(settings), *_ef21(settings)]


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
        ("NumPy loop", 6.0, 10.0),
        ("NumPy, by indices", 3.0, 5.0),
        ("PyTorch loop", 5.0, 10.0),
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

ROUNDS = (  # with must and goal
    ("ridge, MNIST", problems.ridge, 2.0, 8.0),
    ("logistic, MNIST", problems.logistic, 1.2, 2.5),
    ("logistic, a9a, 20 workers", problems.a9a, 3.5, 8.0),
    ("logistic, rcv1's shape, 20 workers", problems.rcv1_like, 1.2, 4.0),
    ("logistic, breast cancer", problems.breast_cancer, 8.0, 20.0),
)


def _rounds(settings: Settings) -> list[Measure]:
    measures = []
    for name, make, must, goal in ROUNDS:
        title = f"NumPy loop / ours, round of {name}"
        asked = {"must": must, "goal": goal, "larger_is_better": True}
        try:
            problem = make(settings.small)
        except Skipped as reason:
            measures.append(Measure(title, float("nan"), note=str(reason), **asked))
            continue
        ours = problems.rounds_of(problem, problems.optimizers_for(problem)["GD-SEC"])
        runs = {"ours": ours}
        if _native.used():
            runs["XLA's"] = without_kernels(ours)
        forms = [form for form in FORMS if form == "csr" or not is_sparse(problem)]
        runs |= {form: numpy_rounds(problem, form) for form in forms}
        times = problems.seconds_a_round(runs, settings)
        best = min(forms, key=lambda form: times[form].median)
        all_forms = ", ".join(f"{1e3 * times[f].median:.3g} ms {f}" for f in forms)
        note = f"the best of {all_forms}, and {1e3 * times['ours'].median:.3g} ms"
        if "XLA's" in times:
            by_xla = 1e3 * times["XLA's"].median
            note += f", {by_xla:.3g} ms without kernels"
        measures.append(
            Measure(
                title,
                **benchmarks.ratio(times[best], times["ours"]),
                note=f"{note}, float64.",
                **asked,
            )
        )
        if "XLA's" in times:
            measures.append(
                Measure(
                    f"{title}, without kernels",
                    **benchmarks.ratio(times[best], times["XLA's"]),
                    larger_is_better=True,
                )
            )
    return measures


def without_kernels(run: Callable) -> Callable:
    """The run, by XLA alone."""

    def by_xla(number):
        with _native.native_kernels(False):
            return run(number)

    return by_xla


def is_sparse(problem: Any) -> bool:
    """Whether its features are sparse on the device."""
    return isinstance(problem.worker_data.shards.features, tuple)


def features_of(problem: Any) -> list[Any]:
    """Each worker's features, an array, or a csr_array where they are sparse."""
    features = problem.worker_data.shards.features
    if not is_sparse(problem):
        return list(np.asarray(features))
    values, columns = (np.asarray(x) for x in features.by_sample[:2])
    count, width = values.shape[1:]
    rows = features.by_sample.rows
    rows = np.tile(np.arange(count), (len(values), 1)) if rows is None else rows
    shape = (problem.worker_data.shards.targets.shape[1], problem.init_params.size)
    found = []
    for own in zip(values, columns, np.asarray(rows), strict=True):
        at = np.repeat(own[2], width), own[1].ravel()
        whole = scipy.sparse.coo_array((own[0].ravel(), at), shape).tocsr()
        whole.eliminate_zeros()
        found.append(whole)
    return found


def numpy_rounds(problem: Any, form: str = "dense") -> Callable:
    """A function of a number of rounds that runs GD-SEC from zero, to the last params.

    Args:
      problem: ridge or logistic regression, whose data are taken as they are split.
      form: of the features: "dense", or "csr" of scipy.sparse.
    """
    shards = problem.worker_data.shards
    real = [np.asarray(weight) > 0 for weight in shards.weight]
    features, targets, weights = (
        [own[which] for own, which in zip(leaf, real, strict=True)]
        for leaf in (
            features_of(problem),
            np.asarray(shards.targets),
            np.asarray(shards.weight),
        )
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


# EF21, by its authors' code

EF21_PENALTY = 0.1  # lambda of sum theta^2 / (1 + theta^2)
EF21_STEP = 0.02  # times 1 / L: of one entry in 123 longer steps do not converge
SAME = 100  # rounds after which the iterates are compared


def ef21_rounds(problem: Any, lowest: bool = False) -> Callable:
    """A function of a number of rounds: params, and the gradient's norm in each.

    The operations of EF21's public code (IgorSokoloff/ef21_experiments_source_code,
    "Logistic regression"), with three dense temporaries for a worker's gradient, and
    the weights of the problem's samples.

    Args:
      problem: as `nonconvex` makes it.
      lowest: whether of entries that tie the first is sent, as we do it, and not the
        one that a partition happens to end with. Columns that are the same in all of a
        worker's rows do tie.
    """
    shards = problem.worker_data.shards
    real = [np.asarray(weight) > 0 for weight in shards.weight]
    workers = [
        tuple(np.asarray(leaf[m])[which] for leaf in shards)
        for m, which in enumerate(real)
    ]
    num_workers, step = problem.num_workers, EF21_STEP / problem.smoothness

    def gradient(theta, x, y, weight):
        numerator = np.multiply(x, y[:, np.newaxis])
        denominator = 1 + np.exp(np.multiply(x @ theta, y))
        own = -np.sum((weight / denominator)[:, np.newaxis] * numerator, axis=0)
        return own + EF21_PENALTY / num_workers * 2 * theta / (1 + theta**2) ** 2

    def gradients(theta):
        return np.array([gradient(theta, *worker) for worker in workers])

    def largest(delta):  # one of each row
        result = np.zeros_like(delta)
        rows = np.arange(len(delta))[:, np.newaxis]
        sizes = np.abs(delta)
        columns = np.argpartition(sizes, -1, axis=1)[:, -1:]
        columns = np.argmax(sizes, axis=1)[:, np.newaxis] if lowest else columns
        result[rows, columns] = delta[rows, columns]
        return result

    def run(number):
        theta = np.zeros(problem.init_params.shape)
        known, norms = gradients(theta), []
        theta = theta - step * known.sum(0)
        for _ in range(number - 1):
            now = gradients(theta)
            norms.append(np.linalg.norm(now.sum(0)))
            known = known + largest(now - known)
            theta = theta - step * known.sum(0)
        return theta, np.array(norms)

    return run


def our_ef21_rounds(problem: Any) -> Callable:
    """The same by `simulate`: each round's gradients give its norm."""
    method = gdsec_jax.ef21(problem.num_workers, k=1)
    optimizer = optax.chain(method, optax.sgd(EF21_STEP / problem.smoothness))

    def norm(now):
        return {"norm": jnp.linalg.norm(now.gradients.sum(0))}

    def run(number):
        history = gdsec_jax.simulate(
            problem,
            optimizer,
            number,
            eval_every=2**31 - 1,
            observe=norm,
            progress=False,
        )
        return np.asarray(history.params), history.observed["norm"][1:]

    return run


def nonconvex(problem: Any) -> Any:
    """Logistic regression, with the penalty of EF21's experiments."""
    loss = linear_loss(_losses._logistic, _bounded, "logistic")
    data = problem.worker_data
    share = jnp.full_like(data.regularization, EF21_PENALTY / problem.num_workers)
    return dataclasses.replace(
        problem,
        worker_loss=loss,
        worker_objective=loss,
        worker_data=data._replace(regularization=share),
        optimum=None,
        smoothness=problem.smoothness - problem.regularization + 2 * EF21_PENALTY,
    )


def _bounded(params):
    return jnp.sum(params**2 / (1 + params**2))


def _ef21(settings: Settings) -> list[Measure]:
    title = "EF21's public code / ours, round on a9a, 20 workers"
    asked = {"must": 4.0, "goal": 10.0, "larger_is_better": True}
    try:
        problem = nonconvex(problems.a9a(settings.small))
    except Skipped as reason:
        return [Measure(title, float("nan"), note=str(reason), **asked)]
    ours, theirs = our_ef21_rounds(problem), ef21_rounds(problem)
    runs = {"ours": ours, "theirs": theirs}
    if _native.used():
        runs["XLA's"] = without_kernels(ours)
    (a, norms), (b, known) = ours(SAME), ef21_rounds(problem, lowest=True)(SAME)
    apart = max(np.abs(a - b).max(), np.abs(norms / known - 1).max())
    times = problems.seconds_a_round(runs, settings)
    measures = []
    for name in times.keys() - {"theirs"}:
        both = (
            f"{1e3 * times['theirs'].median:.3g} and {1e3 * times[name].median:.3g} ms"
        )
        measures.append(
            Measure(
                title + ("" if name == "ours" else ", without kernels"),
                **benchmarks.ratio(times["theirs"], times[name]),
                note=f"{both}, float64, the gradient's norm in each round; ties broken "
                f"alike, after {SAME} rounds params and norms differ by {apart:.1g}.",
                **(asked if name == "ours" else {"larger_is_better": True}),
            )
        )
    return sorted(measures, key=lambda measure: measure.name)

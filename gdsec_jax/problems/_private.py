"""Problems whose workers' gradients no single sample can change by much."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gdsec_jax import _checks, _native, _trees, data
from gdsec_jax.problems._linear import LinearData
from gdsec_jax.problems._network import Draw as NetworkDraw
from gdsec_jax.problems._network import Drawn, WorkerLoss
from gdsec_jax.problems._problem import Problem, check_problem
from gdsec_jax.problems._rounds import Draw, drawing
from gdsec_jax.worker import Scope, clip_per_example
from gdsec_jax.worker._samples import bound

Sampling = Literal["poisson", "fixed"]  # as of `privacy.epsilon`
_TRIED = 8  # samples that a loss is tried with
_HUGE = 1e30  # a clip of nothing
_FINEST = 2.0**-23  # of which uniform numbers in float32 are multiples
_CLOSE = 1e-3  # by what it may differ from the sum over them, relative


@dataclasses.dataclass(frozen=True)
class Private:
    """What of a problem bounds the worth of a sample, for `privacy.epsilon`.

    Attributes:
      clip: C, of the gradient of one sample's loss.
      sensitivity: by how much a sample more or less changes a worker's gradient at
        most, in the Euclidean norm; infinite where nothing is clipped.
      sampling_rate: q, with which a sample is in a round; 1: all are in every round.
      sampling: "poisson", each by itself, or "fixed", of batches of a fixed size: then
        a sample more or less means one in another's stead.
      delta: the probability with which the guarantee may fail.
      microbatch, scope: of `worker.clip_per_example`.
    """

    clip: float
    sensitivity: float
    sampling_rate: float
    sampling: Sampling
    delta: float
    microbatch: int | None
    scope: Scope

    def gradient(self, loss: Callable, params: Any, drawn: Any) -> Any:
        """A worker's gradient on what it has drawn, each sample's clipped."""
        if self.clip == np.inf:
            return jax.grad(loss)(params, drawn)
        with _native.native_kernels(False):  # a kernel reads all samples at once
            return self._clipped(loss, params, drawn)

    def _clipped(self, loss: Callable, params: Any, drawn: Any) -> Any:
        bare, shards, rest, public = _parts(drawn)

        def of_one(params, sample):
            number, features, targets = sample
            one = jnp.ones(1, shards.weight.dtype)
            own = data.Shards(features[None], targets[None], one)  # pyright: ignore
            return loss(params, bare(own, number))

        gradient = clip_per_example(
            of_one, self.clip, microbatch=self.microbatch, scope=self.scope
        )
        numbers = jnp.arange(len(shards.weight))
        samples = (numbers, shards.features, shards.targets)
        total = gradient(params, samples, shards.weight)
        if not public:
            return total
        # The penalty, at a sample of zeros that weighs nothing: it sees no data.
        zeros = jax.tree.map(lambda x: jnp.zeros_like(x[:1]), shards)
        return _trees.add(total, jax.grad(loss)(params, rest(zeros)))


def _parts(drawn: Any):
    """Of what a worker draws: what puts samples into it, and the samples.

    Returns (samples, number) to the data of a loss without a penalty, the samples, the
    samples to the data of all, and whether there is a penalty.
    """
    if isinstance(drawn, Drawn):

        def with_key(own, number):
            key = drawn.key
            return Drawn(own, None if key is None else jax.random.fold_in(key, number))

        return with_key, drawn.shards, lambda own: own, False
    if isinstance(drawn, LinearData):
        rest = drawn._replace(gram=None, rows=None)
        none = rest._replace(regularization=jnp.zeros_like(rest.regularization))
        return (
            lambda own, number: none._replace(shards=own),
            drawn.shards,
            lambda own: rest._replace(shards=own),
            True,
        )

    def put(own, number=None):
        is_shards = lambda x: isinstance(x, data.Shards)  # noqa: E731
        one = lambda x: own if is_shards(x) else x  # noqa: E731
        return jax.tree.map(one, drawn, is_leaf=is_shards)

    (shards,) = _trees.of_type(drawn, data.Shards)
    return put, shards, put, False


def private(
    problem: Problem,
    clip: float,
    *,
    delta: float,
    microbatch: int | None = None,
    scope: Scope = "message",
) -> Problem:
    r"""The same problem, with every sample's gradient clipped before they are added up.

    Of the samples S that are in the round, all of them or those that `poisson` draws
    with rate q, worker m computes

    .. math:: g_m = \frac1q \sum_{n \in S} w_n \nabla \ell_n(\theta)
       \min\Big(1, \frac{C}{\|\nabla \ell_n(\theta)\|}\Big) + \text{penalty}

    with the samples' weights :math:`w_n`, 1/N. The penalty sees no data and is not
    clipped. A sample more or less changes g_m by :math:`C \max_n w_n / q` at most,
    `private.sensitivity`: with `worker.gaussian_noise` of that sensitivity in front of
    a method all that it sends is private, and `simulate` says how much. The error stays
    that of the data themselves: who publishes it gives away more.

    It stands last: behind `poisson`, or `minibatch` without replacement, and not with
    other draws, which the accountant does not cover, nor with workers that train. Of
    batches of b samples what is hidden is whether a sample is replaced by another one,
    and the sensitivity is :math:`2 C \sum_n w_n / b`. Samples are told apart by their
    places: a warning says how many have the features and the target of another
    worker's.

    Args:
      problem: with dense `data.Shards` of samples in its worker_data, whose loss is a
        sum over them.
      clip: C, above 0. Infinite leaves the gradients as they are, bit for bit, and
        guarantees nothing.
      delta: the probability with which the guarantee may fail, above 0, and below 1/N:
        at 1/N a guarantee holds that publishes a sample drawn at random.
      microbatch, scope: of `worker.clip_per_example`; a microbatch also makes rounds of
        few samples short.

    Returns:
      A `Problem`, with `private`.

    Raises:
      ValueError: clip or delta is out of range; parameters have 16 bits; there are no
        such samples, or the loss is no sum over them, as that of a network that
        normalises by the batch; the problem draws with replacement, or by a function of
        its own, or is private already.

    Examples:
      >>> import numpy as np, optax
      >>> import gdsec_jax
      >>> from gdsec_jax import problems, worker
      >>> x = np.random.default_rng(0).standard_normal((40, 3))
      >>> ridge = problems.ridge(x, x.sum(1), num_workers=4)
      >>> problem = problems.private(ridge, clip=1.0, delta=1e-3)
      >>> round(problem.private.sensitivity, 6)
      0.025
      >>> noise = worker.gaussian_noise(8.0, problem.private.sensitivity)
      >>> optimizer = optax.chain(gdsec_jax.gd(4, noise=noise, key=0), optax.sgd(0.1))
      >>> updates, _ = optimizer.update(
      ...     problem.gradients(problem.init_params),
      ...     optimizer.init(problem.init_params), problem.init_params)
      >>> updates.shape
      (3,)

    References:
      Abadi et al., Deep Learning with Differential Privacy, 2016,
      https://arxiv.org/abs/1607.00133
    """
    check_problem(problem)
    clip = bound(clip)
    shards = _trees.of_type(problem.worker_data, data.Shards)
    if len(shards) != 1 or isinstance(shards[0].features, tuple):
        raise ValueError(
            f"{problem.name} has no data.Shards with dense features in its "
            "worker_data, expected samples whose gradients can be clipped."
        )
    if problem.private is not None:
        raise ValueError(f"{problem.name} is private already, expected it once.")
    sampling, rate, heaviest = _sampled(problem, shards[0])
    narrow = {
        x.dtype.name
        for x in map(jnp.asarray, jax.tree.leaves(problem.init_params))
        if x.dtype.itemsize < 4
    }
    if narrow:
        raise ValueError(
            f"{problem.name} has parameters in {' and '.join(sorted(narrow))}, "
            "expected float32 or float64: gradients are rounded to the parameters' "
            "dtype, and in 16 bits that changes them by more than a sample may."
        )
    _warn_of_repeats(problem.name, shards[0])
    weight = np.abs(np.asarray(shards[0].weight, np.float64))
    number = int((weight > 0).sum())
    delta = float(delta) if np.ndim(delta) == 0 else np.nan
    if not 0 < delta < 1 / number:
        raise ValueError(
            f"delta is {delta:g}, expected a number above 0 and below 1/N = "
            f"{1 / number:.3g}: a larger one guarantees nothing."
        )
    made = Private(clip, clip * heaviest, rate, sampling, delta, microbatch, scope)
    clip_per_example(problem.worker_loss, clip, microbatch=microbatch, scope=scope)
    _check_a_sum(problem, made)
    return dataclasses.replace(problem, private=made)


def _sampled(problem: Problem, shards: data.Shards) -> tuple[Sampling, float, float]:
    """How a round's samples are drawn, the rate, and the most that one may weigh."""
    draw: Any = problem.draw
    weight = np.asarray(shards.weight, np.float64)
    known = draw is None or isinstance(draw, Draw | NetworkDraw)
    batch_size: Any = getattr(draw, "batch_size", None)
    if known and batch_size is None:
        rate = getattr(draw, "rate", None) or 1.0
        return "poisson", rate, float(np.abs(weight).max()) / rate
    if draw is not None and known and not draw.replacement:
        rate = float(batch_size / (weight > 0).sum(-1).min())
        heaviest = float(np.abs(weight.sum(-1)).max()) / batch_size
        return "fixed", rate, 2 * heaviest  # of one that comes, and one that goes
    words = f"{batch_size} a round with replacement" if known else "in a way of its own"
    raise ValueError(
        f"{problem.name} draws its samples {words}, which the accountant does not "
        "cover, expected problems.poisson(problem, rate), or all samples."
    )


def _warn_of_repeats(name: str, shards: data.Shards) -> None:
    """Of one sample at two workers each gives away an epsilon."""
    features, targets, weight = map(np.asarray, shards)
    owners: dict[int, int] = {}
    repeats = 0
    for m, n in zip(*np.nonzero(weight), strict=True):
        row = hash(features[m, n].tobytes() + targets[m, n].tobytes())
        repeats += owners.setdefault(row, m) != m
    if repeats:
        warnings.warn(
            f"{repeats} samples of {name} have the features and the target of one at "
            "another worker: if they are the same one, each of the workers gives away "
            "its epsilon of it.",
            stacklevel=3,
        )


def _check_a_sum(problem: Problem, made: Private) -> None:
    """That a worker's loss is the sum over its samples that is clipped."""
    loss = problem.worker_loss
    network = loss.network if isinstance(loss, WorkerLoss) else None
    if network is not None and network.normalises:
        raise ValueError(
            f"{problem.name} normalises by the batch, so that no sample has a gradient "
            "of its own, expected a model without, of layer or group norms say."
        )

    def cut(x):
        if not isinstance(x, data.Shards):
            return x[0]
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[0, :_TRIED]), x)

    own: Any = jax.tree.map(
        cut, problem.worker_data, is_leaf=lambda x: isinstance(x, data.Shards)
    )
    if isinstance(own, LinearData):
        own = own._replace(gram=None, rows=None)
    if network is not None:  # without dropout
        own = Drawn(own, None)
    flat, structure = jax.tree.flatten(problem.init_params)
    keys = jax.random.split(jax.random.key(0), len(flat))
    moved = [
        x + jnp.asarray(0.1 * jax.random.normal(k, x.shape), x.dtype)
        for x, k in zip(flat, keys, strict=True)
    ]
    params = jax.tree.unflatten(structure, moved)
    huge = dataclasses.replace(made, clip=_HUGE)
    whole = jax.jit(jax.grad(loss))(params, own)
    added = jax.jit(lambda p, own: huge.gradient(loss, p, own))(params, own)
    dtype = _trees.norm_dtype(params)
    far = _trees.norm(_trees.sub(added, whole), dtype)
    if not far <= _CLOSE * _trees.norm(whole, dtype):
        raise ValueError(
            f"the loss of {problem.name} is no sum of its samples' losses times their "
            "weights, expected one: without a penalty, unless it is one of this "
            "package's problems (optax.add_decayed_weights makes one)."
        )


def poisson(problem: Problem, rate: float) -> Problem:
    r"""The same problem, each sample in a round with a probability of its own.

    In each round each of worker m's samples is drawn with probability q, independently
    of all others, so that batches differ in size, and

    .. math:: g_m = \frac1q \sum_{n \in B} w_n \nabla \ell_n(\theta) + \text{penalty},

    an unbiased estimate of its gradient of f_m. What a round gives away of a sample is
    amplified, and known, where batches are drawn so. The error is that of all data.
    Gradients of all samples are computed, those that are not drawn with weight 0, which
    the microbatches of `private` leave out.

    Args:
      problem: as of `minibatch`, whose batches it replaces.
      rate: q in (0, 1], rounded up to a multiple of 2^-23, as which it is drawn and
        accounted.

    Returns:
      A `Problem` that `simulate` needs a key for.

    Raises:
      ValueError: rate is out of range; there are no such samples; the problem is
        private already.

    Examples:
      >>> import jax, numpy as np
      >>> from gdsec_jax import problems
      >>> x = np.random.default_rng(0).standard_normal((40, 3))
      >>> problem = problems.poisson(problems.ridge(x, x.sum(1), 4), rate=0.5)
      >>> problem.gradients(problem.init_params, jax.random.key(0)).shape
      (4, 3)
    """
    number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not number or not 0 < rate <= 1:
        raise ValueError(f"rate is {_checks.shown(rate)}, expected a number in (0, 1].")
    if rate < _FINEST:
        raise ValueError(
            f"rate is {rate:g}, expected at least 2^-23 = {_FINEST:.3g}, the least "
            "with which samples are drawn."
        )
    # A uniform number is below a rate as often as below the next multiple.
    return drawing(problem, rate=math.ceil(float(rate) / _FINEST) * _FINEST)

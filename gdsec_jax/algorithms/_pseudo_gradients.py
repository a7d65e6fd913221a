"""Methods whose workers train by any optimizer of optax, and send how far they went.

Each is a chain: `local`, what travels, and what the server makes of the mean. As in
`_local.py` they are of the mean convention, and their outer step is `optax.sgd(1.0)`.
"""

from collections.abc import Callable
from typing import Any, Literal, Unpack, get_args

import optax

from gdsec_jax import _checks
from gdsec_jax.algorithms._local import LocalOptions
from gdsec_jax.algorithms._options import Aggregator, algorithm
from gdsec_jax.federation import Axis, federate
from gdsec_jax.federation._local import in_fragments, local
from gdsec_jax.server import robust
from gdsec_jax.server._sum import over_senders
from gdsec_jax.worker import chunk_top_k, error_feedback, fragment, whole

Inner = Callable[[Any], optax.GradientTransformation]
Average = Literal["workers", "senders"]


class PseudoGradientOptions(LocalOptions, total=False):
    """Of a method that adds up, or compresses, how far the workers went."""

    axis: Axis | None


def chained(*stages: optax.GradientTransformation) -> Aggregator:
    """Several stages as one Aggregator, whose state is that of their chain."""
    return Aggregator(*optax.chain(*stages))


def trained(
    num_workers: int,
    inner: Inner,
    local_learning_rate,
    steps: int,
    options: Any,
    **turns,
):
    """Each worker by itself, with `inner` of that rate; of the options, its own."""
    _checks.positive("local_learning_rate", local_learning_rate)
    if not callable(inner):
        raise ValueError(
            f"inner is {_checks.shown(inner)}, expected a function of the learning "
            "rate, such as optax.adamw."
        )
    turns["on_nonfinite"] = options.get("on_nonfinite", "drop")
    return local(num_workers, inner(local_learning_rate), steps, **turns)


def outside(rate, momentum) -> optax.GradientTransformation:
    """What SGD with Nesterov's momentum steps along, times its rate."""
    _checks.positive("outer_learning_rate", rate)
    _checks.number_in_range("outer_momentum", momentum, 0.0, 1.0)
    return optax.chain(optax.trace(momentum, nesterov=True), optax.scale(rate))


@algorithm(PseudoGradientOptions)
def diloco(
    num_workers: int,
    local_learning_rate,
    steps: int,
    *,
    inner: Inner = optax.adamw,
    outer_learning_rate=0.7,
    outer_momentum=0.9,
    **options: Unpack[PseudoGradientOptions],
) -> Aggregator:
    r"""DiLoCo: many steps of AdamW by each worker, a momentum of their mean outside.

    .. math::
       \theta_m &\leftarrow \text{inner}(\theta_m, \nabla \tilde f_m(\theta_m))
         \quad H \text{ times from } \theta_m = \theta^k, \quad
         \Delta = \text{mean}_{m \in S} (\theta^k - \theta_m) \\
       v &\leftarrow \beta v + \Delta, \quad
         \theta^{k+1} = \theta^k - \alpha (\Delta + \beta v)

    S are the workers that are heard in a round, and each keeps its optimizer's state
    from round to round. With `optax.contrib.muon` inside it is MuLoCo, with `optax.sgd`
    and without momentum federated averaging.

    Where the workers' optima differ it ends beside the solution, as `scaffold` does
    not. With SGD inside, and quadratic :math:`\tilde f_m` with Hessians :math:`A_m` and
    optima :math:`\theta^*_m`, it converges linearly to the :math:`\theta` of

    .. math:: \sum_m \big(I - (I - \eta A_m)^H\big) (\theta - \theta^*_m) = 0,

    whose error falls with :math:`(\eta H)^2`, and is 0 for H = 1. AdamW's steps are of
    nearly equal length, whatever the gradient's is: it ends where the workers' steps
    cancel, which no smaller rate brings nearer to the solution. Where all workers have
    one optimum both get there, AdamW until its steps do not shrink any more.

    Args:
      local_learning_rate: :math:`\eta` of the inner optimizer; may be traced.
      steps: H, 50 to 500 in the paper.
      inner: a function from :math:`\eta` to an optax optimizer; the paper's AdamW has
        `weight_decay=0.1` in the place of optax's 1e-4: a `functools.partial`.
      outer_learning_rate: :math:`\alpha`; may be traced.
      outer_momentum: :math:`\beta` in [0, 1]; may be traced.

    Returns:
      :math:`\alpha (\Delta + \beta v)`, of `WorkerLosses`. The step is 1.

    Examples:
      >>> import gdsec_jax, optax
      >>> algorithm = gdsec_jax.diloco(4, local_learning_rate=4e-4, steps=50)
      >>> optimizer = optax.chain(algorithm, optax.sgd(1.0))

    References:
      Douillard et al., DiLoCo, 2023, https://arxiv.org/abs/2311.08105; the recursion,
      and a worked example, are those of a public code. Thérien et al., MuLoCo, 2025,
      https://arxiv.org/abs/2505.23725. The local step 4e-4 is the paper's, of language
      models; no theorem gives one that we know of.
    """
    return chained(
        trained(num_workers, inner, local_learning_rate, steps, options),
        federate(whole(), num_workers, reduction="senders", **options),
        outside(outer_learning_rate, outer_momentum),
    )


@algorithm(PseudoGradientOptions)
def streaming_diloco(
    num_workers: int,
    local_learning_rate,
    steps: int,
    fragments: int,
    *,
    overlap: int = 0,
    merging=None,
    inner: Inner = optax.adamw,
    outer_learning_rate=0.7,
    outer_momentum=0.9,
    **options: Unpack[PseudoGradientOptions],
) -> Aggregator:
    r"""Streaming DiLoCo: DiLoCo by fragments of the parameters, one a round, in turn.

    .. math::
       \theta_m &\leftarrow \text{inner}(\theta_m, \nabla \tilde f_m(\theta_m))
         \quad H/P \text{ times}, \quad
         \Delta_i = \text{mean}_{m \in S} (\theta^k_i - \theta_{m,i})
         \text{ of i in fragment } k \bmod P \\
       v_i &\leftarrow \beta v_i + \Delta_i, \quad
         \theta^{k+1}_i = \theta^k_i - \alpha (\Delta_i + \beta v_i)
         \text{ of these} \\
       \theta_{m,i} &\leftarrow a \theta_{m,i} + (1 - a) \theta^{k+1}_i
         \text{ of these, V steps later}

    A round sends a P-th of the parameters up, and all of them travel once in H steps:
    as many bits as `diloco`, at a P-th of its peak. The way down is counted as for all
    methods, whole parameters a round, although a P-th of them has changed. In the other
    fragments each worker goes on from where it was. Where it ends is as with `diloco`:
    beside the solution, unless all workers have one optimum.

    Args:
      local_learning_rate: :math:`\eta` of the inner optimizer; may be traced.
      steps: H, a multiple of the fragments.
      fragments: P, of :math:`\lceil D/P \rceil` entries each, one behind the other;
        the last are shorter, or empty.
      overlap: V, steps that workers take before the common parameters of a fragment
        have come, fewer than H/P; the paper's is 5.
      merging: a in [0, 1], the paper's 0.5; None: 0. May be traced.
      inner: a function from :math:`\eta` to an optax optimizer.
      outer_learning_rate: :math:`\alpha`; may be traced.
      outer_momentum: :math:`\beta` in [0, 1]; may be traced.

    Returns:
      :math:`\alpha (\Delta + \beta v)` in the fragment of the round, 0 elsewhere, of
      `WorkerLosses`. The step is 1.

    Raises:
      ValueError: steps is no multiple of the fragments, which public codes round.

    Examples:
      >>> import gdsec_jax, optax
      >>> algorithm = gdsec_jax.streaming_diloco(
      ...     4, local_learning_rate=4e-4, steps=48, fragments=4, overlap=5,
      ...     merging=0.5)
      >>> optimizer = optax.chain(algorithm, optax.sgd(1.0))

    References:
      Douillard et al., Streaming DiLoCo, 2025, https://arxiv.org/abs/2501.18512; the
      recursion is that of a public code. Fragments there are layers.
    """
    turns = {"fragments": fragments, "overlap": overlap, "merging": merging}
    outer = outside(outer_learning_rate, outer_momentum)
    return chained(
        trained(num_workers, inner, local_learning_rate, steps, options, **turns),
        federate(fragment(fragments), num_workers, reduction="senders", **options),
        in_fragments(outer, fragments),
    )


@algorithm(PseudoGradientOptions)
def sparse_loco(
    num_workers: int,
    local_learning_rate,
    steps: int,
    k: float = 64,
    *,
    chunk: int = 4096,
    bits: int | None = 2,
    decay=0.95,
    average: Average = "workers",
    inner: Inner = optax.adamw,
    **options: Unpack[PseudoGradientOptions],
) -> Aggregator:
    r"""SparseLoCo: DiLoCo whose workers send a few entries of each chunk, in four bins.

    .. math::
       \theta_m &\leftarrow \text{inner}(\theta_m, \nabla \tilde f_m(\theta_m))
         \quad H \text{ times from } \theta_m = \theta^k \\
       e_m &\leftarrow \beta e_m + \theta^k - \theta_m, \quad
         s_m = Q(\text{top}_k \text{ of each chunk of } e_m), \quad
         e_m \leftarrow e_m - s_m \\
       \theta^{k+1} &= \theta^k - \text{mean}_{m \in S} s_m

    The error memory stands for DiLoCo's momentum, which there is none of outside. Of a
    large model 64 of 4,096 entries at 2 bits, with indices of 12, are 146 times fewer
    bits than its float32.

    What is not sent waits, and goes at once: of an entry that is sent every n rounds
    :math:`G = (1 - \beta^n) / (1 - \beta)` pseudo-gradients, with n about chunk/k; at
    64 of 4,096 that is 19. So a local step that is fine for `diloco` may diverge here.
    Where the workers' optima differ it ends beside the solution as `diloco` does, and
    does not rest: the entries that are sent change. Where all have one optimum, and G
    times as short steps of SGD inside, it gets there.

    Args:
      local_learning_rate: :math:`\eta` of the inner optimizer; may be traced.
      steps: H, the paper's is 30.
      k: how many entries of a chunk, or a fraction of it.
      chunk: entries of a chunk, neighbours in a leaf; a shorter leaf is one.
      bits: of a value, as in `worker.chunk_top_k`; None: as it is.
      decay: :math:`\beta` in [0, 1]; may be traced.
      average: "workers" divides by all that are heard, S, as the paper's formula;
        "senders" each entry by how many sent it, as its public code: steps that are
        longer, up to M times where few send the same.
      inner: a function from :math:`\eta` to an optax optimizer.

    Returns:
      :math:`\text{mean } s_m`, of `WorkerLosses`. The step is 1.

    Examples:
      >>> import gdsec_jax, optax
      >>> algorithm = gdsec_jax.sparse_loco(4, local_learning_rate=4e-4, steps=30)
      >>> optimizer = optax.chain(algorithm, optax.sgd(1.0))

    References:
      Sarfi, Thérien, Lidin, Belilovsky, SparseLoCo, 2025,
      https://arxiv.org/abs/2508.15706; the recursion is that of a public code, which
      clips each worker to the median norm besides, `robust.clipped_to_median`, and has
      bins half a width further down.
    """
    _checks.one_of("average", average, get_args(Average))
    piece = error_feedback(chunk_top_k(k, chunk=chunk, bits=bits), decay=decay)
    given: Any = {"reduction": "senders"} | options
    if average == "senders":  # M times their mean, whoever is there
        given |= {"reduction": "mean", "server": robust(over_senders)}
    return chained(
        trained(num_workers, inner, local_learning_rate, steps, options),
        federate(piece, num_workers, **given),
    )

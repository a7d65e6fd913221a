"""Methods beside their papers' public code: the same data, and how far apart they get.

What a method draws is handed to the public code, and both have the same compressors
without chance: what is compared is the recursion.
"""

import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdsec_jax
from gdsec_experiments import neighbours
from gdsec_experiments.neighbours import _public
from gdsec_jax import WorkerLosses, algorithms, worker
from gdsec_jax.algorithms._own_points import adiana_probability
from gdsec_jax.federation._train import coming_steps

M, LENGTH, ROUNDS, K = 5, 16, 200, 3
COMMITS = "619d1fd (2024), 2fd42b7 (2023), 54d3f56 (2023) and ac72ee9 (2021)"
HEADER = ("method", "what its public code has", "largest difference", "what differs")
_QUADRATIC = "quadratic loss"
_CLAG = "\N{CYRILLIC SMALL LETTER ES}lag on logistic loss/src/algorithms.py"
_DASHA = "code/distributed_optimization_library/algorithm.py"


def caption() -> str:
    """The setting."""
    return (
        f"{M} workers with a quadratic of {LENGTH} parameters each, float64, "
        f"{ROUNDS} rounds from the same point; the largest difference of a parameter "
        "over all rounds, by the largest parameter. Code of "
        f"{COMMITS}; " + neighbours.versions("gdsec-jax", "jax", "numpy") + "."
    )


class Data(NamedTuple):
    r""":math:`\\tilde f_m(x) = x^T A_m x / 2 - b_m^T x`, and where all begin."""

    A: np.ndarray  # [M, D, D]
    b: np.ndarray  # [M, D]
    start: np.ndarray  # [D]

    def gradients(self, x: Any) -> Any:
        """Of all workers, [M, D]."""
        return self.A @ x - self.b

    @property
    def step(self) -> float:
        """Half of that of gradient descent for the worst worker."""
        return 0.5 / max(np.linalg.eigvalsh(each)[-1] for each in self.A)


def data() -> Data:
    """Workers that differ."""
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((M, LENGTH, LENGTH)) * np.linspace(0.5, 1.5, LENGTH)
    A = np.swapaxes(roots, 1, 2) @ roots / LENGTH + 0.1 * np.eye(LENGTH)
    return Data(A, rng.standard_normal((M, LENGTH)), rng.standard_normal(LENGTH))


def ours(
    given: Data, method: optax.GradientTransformation, step: float
) -> tuple[np.ndarray, list[Any]]:
    """Theta before each round and at the end, and the method's states then."""
    optimizer = optax.chain(method, optax.sgd(step))
    trains = coming_steps(method.init(given.start)) is not None

    def loss(x, own, key):
        del key
        A, b = own
        return x @ A @ x / 2 - b @ x

    @jax.jit
    def one(x, state):
        updates: Any = given.gradients(x)
        if trains:
            updates = WorkerLosses(loss, (jnp.asarray(given.A), jnp.asarray(given.b)))
        updates, state = optimizer.update(updates, state, x)
        return optax.apply_updates(x, updates), state

    x: Any = jnp.asarray(given.start)
    state: Any = optimizer.init(x)
    course, states = [given.start], [state[0]]
    for _ in range(ROUNDS):
        x, state = one(x, state)
        course.append(np.asarray(x))
        states.append(state[0])
    return np.array(course), states


def half() -> worker.Piece:
    """Every other entry, doubled, in the next round the others: this is no chance."""

    def update(updates, state, params=None, *, round, worker_index, **extra_args):
        del params, extra_args
        kept = (jnp.arange(LENGTH) + round + worker_index) % 2 == 0
        return jnp.where(kept, 2 * updates, 0), state

    return worker.Piece(lambda params: (), update, variance=lambda params: 1.0)


class Halves:
    """The same in NumPy, of one worker after the other, so many times, by rounds."""

    def __init__(self, first: int = 0, times: int = 1):
        self._numbers: Iterator[int] = (
            number + m
            for number in itertools.count(first)
            for m in range(M)
            for _ in range(times)
        )

    def __call__(self, v: np.ndarray, *_: Any) -> np.ndarray:
        kept = (np.arange(LENGTH) + next(self._numbers)) % 2 == 0
        return np.where(kept, 2 * v, 0)

    def compress(self, v: np.ndarray) -> Any:
        """As a message of DASHA's code."""
        sent = self(v)
        return types.SimpleNamespace(decompress=lambda: sent)


# The public codes' courses, theta before each round and at the end


def _three_points(given: Data, name: str, estimator: str, *rest: str, **more: Any):
    """A function of a script of 3PC, called as the script does, with its arguments."""
    script = f"{_QUADRATIC}/{name}.py"
    names = (estimator, *(() if "top_k_compressor" in more else ("top_k_compressor",)))
    code = _public.parts(
        _public.THREE_POINTS, script, *names,
        np=np, quadratic_grad_i=lambda x, A, b: A @ x - b, **more,
    )  # fmt: skip

    def course(**arguments: Any) -> np.ndarray:
        x, memories = given.start, given.gradients(given.start)
        gradients, seen = memories.copy(), [given.start]
        for _ in range(ROUNDS):
            x = x - given.step * memories.mean(0)
            seen.append(x)
            arguments |= {"g_ar": memories, "grads_prev": gradients}
            taken = {n: arguments[n] for n in rest}
            made = getattr(code, estimator)(
                A=given.A, x=x, b=given.b, n_workers=M, **taken
            )
            memories = made[0]
            gradients = made[-2] if "grads_prev" in rest else gradients
        return np.array(seen)

    return course


def _v1(given: Data):
    method = gdsec_jax.threepc(M, K, "v1", reduction="mean")
    names = ("biased_diana_2_fg_estimator", "k", "g_ar", "grads_prev")
    course = _three_points(given, "3PCv1_topk_fg", *names)
    return ours(given, method, given.step)[0], course(k=K)


def _v2(given: Data):
    piece = worker.three_point("v2", worker.top_k(K), half())
    method = algorithms.difference_memory(piece, M, reduction="mean")
    names = ("anna_fg_estimator", "k_tk", "k_rk", "g_ar", "grads_prev", "rs", "probs")
    # The first message is whole in both, and compressed in none.
    own = {"rand_k_compressor": Halves(first=1)}
    course = _three_points(given, "3PCv2_randk_topk_fg", *names, **own)
    seen = course(k_tk=K, k_rk=K, rs=None, probs=None)
    return ours(given, method, given.step)[0], seen


def _v4(given: Data):
    method = gdsec_jax.threepc(M, K, "v4", second_k=2, reduction="mean")
    names = ("jacqueline_fg_estimator", "k_tk1", "k_tk2", "g_ar")
    course = _three_points(given, "3PCv4_topk_topk_fg", *names)
    return ours(given, method, given.step)[0], course(k_tk1=K, k_tk2=2)


def _v5(given: Data):
    method = gdsec_jax.threepc(M, K, "v5", probability=0.2, key=1, reduction="mean")
    found, states = ours(given, method, given.step)
    whole = (gdsec_jax.last_round(x).entries[0] > K for x in states[2:])
    coins = itertools.chain(map(int, whole), [0])
    drawn = types.SimpleNamespace(binomial=lambda *_: [next(coins)])
    names = ("marina_topk_fg_estimator", "k", "prob", "g_ar", "grads_prev", "rs")
    course = _three_points(given, "3PCv5_topk_fg", *names)
    return found, course(k=K, prob=0.2, rs=drawn)


def _clag(given: Data):
    code = _public.parts(_public.THREE_POINTS, _CLAG, "CLAG_step", np=np, jnp=jnp)
    top = worker.top_k(K)
    compressor = types.SimpleNamespace(
        k=K, compress=lambda v: top.update(v, top.init(v), v)[0]
    )
    oracle = types.SimpleNamespace(compute_grad=given.gradients)
    x: Any = jnp.asarray(given.start)
    memories = last = jnp.asarray(given.gradients(given.start))
    seen = [given.start]
    for _ in range(ROUNDS):
        x, memories, last, _ = code.CLAG_step(
            x, memories, 0, oracle, compressor, 2.0, last, given.step
        )
        seen.append(np.asarray(x))
    method = gdsec_jax.clag(M, K, zeta=2.0, reduction="mean")
    return ours(given, method, given.step)[0], np.array(seen)


def _dasha(given: Data):
    numpy = types.SimpleNamespace(NUMPY="numpy")
    code = _public.parts(
        _public.DASHA, _DASHA,
        *("BaseNodeAlgorithm", "BaseCompressorNodeAlgorithm"),
        *("BaseZeroMarinaNodeAlgorithm", "ZeroMarinaNodeAlgorithm"),
        *("PointWithCachedGradient", "zeros_based_on_function_type"),
        np=np, FunctionType=numpy,
    )  # fmt: skip
    a, halves, nodes = 1 / 3, Halves(), []
    for A, b in zip(given.A, given.b, strict=True):
        function = types.SimpleNamespace(
            gradient=lambda x, A=A, b=b: A @ x - b,
            type=lambda: numpy.NUMPY,
            deterministic=lambda: True,
        )
        nodes.append(code.ZeroMarinaNodeAlgorithm(function, halves))
        nodes[-1].init_node(given.start, a)
    x, estimate, seen = given.start, np.zeros(LENGTH), []
    for _ in range(ROUNDS + 1):  # its first step does not move
        x = x - given.step * estimate
        seen.append(x)
        sent = [node.step(x).decompress() for node in nodes]
        estimate = estimate + np.mean(sent, axis=0)
    method = gdsec_jax.dasha(M, half(), momentum=a, reduction="mean")
    return ours(given, method, given.step)[0], np.array(seen)


def _workers(given: Data, **options: Any) -> list[Any]:
    code = _public.parts(_public.PROXSKIP, "proxskip/methods/utils.py", "Worker", np=np)
    losses = [
        types.SimpleNamespace(gradient=lambda x, A=A, b=b: A @ x - b)
        for A, b in zip(given.A, given.b, strict=True)
    ]
    return [code.Worker(False, loss=x, batch_size=None, **options) for x in losses]


def _scaffold(given: Data):
    steps, rate = 4, given.step / 4
    workers, x, seen = _workers(given, it_local=steps), given.start, [given.start]
    c = np.zeros(LENGTH)
    for _ in range(ROUNDS):
        x = np.mean([each.run_scaffold(x, rate, c) for each in workers], axis=0)
        c = c + np.mean([each.get_control_var() for each in workers], axis=0) - c
        seen.append(x)
    method = gdsec_jax.scaffold(M, rate, steps)
    return ours(given, method, 1.0)[0], np.array(seen)


def _scaffnew(given: Data):
    p = 0.25
    found, states = ours(given, gdsec_jax.scaffnew(M, given.step, p, key=1), 1.0)
    workers, x, seen = _workers(given, prox_skip=True), given.start, [given.start]
    for state in states[:-1]:
        number: Any = coming_steps(state)
        for each in workers:
            drawn = types.SimpleNamespace(geometric=lambda p, n=int(number): n)
            each.rng_skip = drawn
        x = np.mean([each.run_local(x, given.step, p) for each in workers], axis=0)
        seen.append(x)
    return found, np.array(seen)


def _adiana(given: Data):
    mu = float(min(np.linalg.eigvalsh(each)[0] for each in given.A))
    smooth, omega = 0.5 / given.step, 1.0
    p = adiana_probability(omega, M)
    step = min(given.step, M / (64 * omega * smooth * (2 * p * (omega + 1) + 1) ** 2))
    method = gdsec_jax.adiana(M, half(), step, mu, key=1)
    found, states = ours(given, method, step)
    moves = ((new.w != old.w).any() for old, new in itertools.pairwise(states[1:]))
    coins, seen = itertools.chain([False], moves, [False]), []
    code = _public.parts(
        _public.FEDNL, "methods.py", "adiana",
        np=np, print=lambda *_: None,
        bernoulli=types.SimpleNamespace(rvs=lambda _: next(coins)),
        grad=lambda _, m, x, __: given.A[m[0]] @ x - given.b[m[0]],
        loss_logistic=lambda _, __, y, ___: seen.append(y) or 1.0,
        compute_omega=lambda *_: omega, compute_bit=lambda *_: 0,
        compression_dic={"half": Halves(times=2)},
    )  # fmt: skip
    arguments = types.SimpleNamespace(
        node=M, L=smooth, lamda=mu, comp_method="half", T=ROUNDS
    )
    code.adiana(np.zeros((M, LENGTH)), np.arange(M), given.start, arguments, 0.0)
    return found, np.array(seen)


METHODS: dict[str, tuple[Callable[[Data], tuple], str, str]] = {
    "`threepc`, v1": (_v1, "top-k", "nothing"),
    "`threepc`, v2": (_v2, "top-k behind a fixed choice of entries", "nothing"),
    "`threepc`, v4": (_v4, "top-k twice", "nothing"),
    "`threepc`, v5": (_v5, "top-k, our coins", "nothing"),
    "`clag`": (_clag, "top-k", "nothing"),
    "`dasha`": (
        _dasha,
        "a fixed choice of entries",
        "our step is larger than its code's; in its first round nothing moves",
    ),
    "`scaffold`": (_scaffold, "option II, four steps", "nothing"),
    "`scaffnew`": (
        _scaffnew,
        "our numbers of steps",
        "it changes h at the start of the next round",
    ),
    "`adiana`": (_adiana, "a fixed choice of entries, our coins", "nothing"),
}


def seen(name: str) -> float:
    """How far two courses get from each other, by the largest parameter."""
    with jax.enable_x64(True):
        found, theirs = METHODS[name][0](data())
    return float(np.abs(found - theirs).max() / np.abs(found).max())


def rows() -> list[tuple[str, ...]]:
    """All methods."""
    return [
        (name, has, f"{seen(name):.0e}", differs)
        for name, (_, has, differs) in METHODS.items()
    ]

"""All of optax behind GD-SEC: which of its functions work there, and in which ways.

Each is held against itself alone, given the directions that GD-SEC hands on.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import gdsec_jax
from gdsec_experiments import neighbours
from gdsec_jax import problems

M, ROUNDS, XI = 3, 4, 2.0
WAYS = ("loop", "donated", "scan", "x64", "bfloat16", "mixed", "injected", "simulate")
HEADER = ("optax", *WAYS, "why")
_WORKS = "\N{CHECK MARK}"

_OF_HESSIANS = ("contrib.sophia", "contrib.hutchinson_estimator_diag_hessian")
_BATCHES = "takes gradients of single samples: it belongs into a worker"
_COPIES = "its state starts as the parameters' own buffers: copy it once"
_HESSIAN = (
    "wants `obj_fn`, which `simulate` does not hand on; its random vector has one dtype"
)
_OF_ONE_DTYPE = "its state changes its dtype where leaves differ in theirs"
WHY = {
    "inject_hyperparams": "turns b2 = 0.999 into the gradient's dtype, where it is 1: "
    "name float32 by `hyperparam_dtype`",
    "lbfgs": _COPIES,
    "lookahead": "takes pairs of parameters, `optax.LookaheadParams`",
    "measure_with_ema": "as `monitor`",
    "monitor": "its state has no measurements before the first update: two loops, the "
    "first of one round",
    "scale_by_distance_over_gradients": f"{_COPIES}; in bfloat16 its state changes its "
    "dtype",
    "scale_by_lbfgs": _COPIES,
    "contrib.cocob": _COPIES,
    "contrib.dadapt_adamw": _OF_ONE_DTYPE,
    "contrib.differentially_private_aggregate": _BATCHES,
    "contrib.dog": f"{_COPIES}; {_OF_ONE_DTYPE}",
    "contrib.dowg": f"{_COPIES}; {_OF_ONE_DTYPE}",
    "contrib.dpsgd": _BATCHES,
    "contrib.hutchinson_estimator_diag_hessian": _HESSIAN,
    "contrib.madgrad": _COPIES,
    "contrib.mechanize": f"{_COPIES}; clips numbers of two dtypes",
    "contrib.momo": _OF_ONE_DTYPE,
    "contrib.momo_adam": _OF_ONE_DTYPE,
    "contrib.prodigy": f"{_COPIES}; {_OF_ONE_DTYPE}",
    "contrib.sam": f"{_COPIES}; refuses further arguments, `value=` say",
    "contrib.scale_by_cocob": _COPIES,
    "contrib.scale_by_madgrad": _COPIES,
    "contrib.scale_by_muon": "of matrices alone: `contrib.muon` takes all trees",
    "contrib.sophia": _HESSIAN,
}
WHY["inject_stateful_hyperparams"] = WHY["inject_hyperparams"]
_LABELS = {"b": "freeze", "w": "step"}
_MASK = {"b": True, "w": False}
_ADAM = optax.adam(0.01)


def _norm(updates, *_, **__):
    return optax.tree.norm(updates)


def _later(step, **_):
    return step > 1


def _a_search(search: Callable) -> Callable:
    return lambda: optax.chain(optax.scale(-1.0), search(5))


# What a function needs beyond `learning_rate`, which is 0.1 here; all others have
# defaults for everything.
GIVEN: dict[str, Callable[[], Any]] = {
    "MultiSteps": lambda: optax.MultiSteps(_ADAM, 2).gradient_transformation(),
    "adaptive_grad_clip": lambda: optax.adaptive_grad_clip(0.1),
    "add_noise": lambda: optax.add_noise(0.01, 0.55, key=0),
    "apply_if_finite": lambda: optax.apply_if_finite(_ADAM, 3),
    "chain": lambda: optax.chain(optax.trace(0.9), optax.scale(-0.1)),
    "clip": lambda: optax.clip(0.1),
    "clip_by_block_rms": lambda: optax.clip_by_block_rms(0.1),
    "clip_by_global_norm": lambda: optax.clip_by_global_norm(0.1),
    "conditionally_mask": lambda: optax.conditionally_mask(_ADAM, _later),
    "conditionally_transform": lambda: optax.conditionally_transform(_ADAM, _later),
    "ema": lambda: optax.ema(0.9),
    "flatten": lambda: optax.flatten(_ADAM),
    "freeze": lambda: optax.freeze(_MASK),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(0.1),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(
        optax.adam
    )(0.1),
    "lookahead": lambda: optax.lookahead(_ADAM, 2, 0.5),
    "masked": lambda: optax.masked(_ADAM, _MASK),
    "measure_with_ema": lambda: optax.monitor(
        {"norm": optax.measure_with_ema(_norm, 0.9)}
    ),
    "monitor": lambda: optax.monitor({"norm": _norm}),
    "multi_transform": lambda: optax.multi_transform(
        {"freeze": optax.set_to_zero(), "step": _ADAM}, _LABELS
    ),
    "named_chain": lambda: optax.named_chain(("trace", optax.trace(0.9))),
    "partition": lambda: optax.partition(
        {"freeze": optax.set_to_zero(), "step": _ADAM}, _LABELS
    ),
    "scale": lambda: optax.scale(-0.1),
    "scale_by_backtracking_linesearch": _a_search(
        optax.scale_by_backtracking_linesearch
    ),
    "scale_by_schedule": lambda: optax.scale_by_schedule(
        optax.cosine_decay_schedule(0.1, 10)
    ),
    "scale_by_zoom_linesearch": _a_search(optax.scale_by_zoom_linesearch),
    "selective_transform": lambda: optax.selective_transform(_ADAM, freeze_mask=_MASK),
    "snapshot": lambda: optax.snapshot("norm", _norm),
    "stateless": lambda: optax.stateless(lambda g, params: optax.tree.scale(-0.1, g)),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(
        lambda g, param: -g / 8
    ),
    "trace": lambda: optax.trace(0.9),
    "with_extra_args_support": lambda: optax.with_extra_args_support(_ADAM),
    "contrib.differentially_private_aggregate": lambda: (
        optax.contrib.differentially_private_aggregate(1.0, 0.1, key=0)
    ),
    "contrib.dpsgd": lambda: optax.contrib.dpsgd(0.1, 1.0, 0.1, seed=0),
    "contrib.mechanize": lambda: optax.contrib.mechanize(_ADAM),
    "contrib.sam": lambda: optax.contrib.sam(_ADAM, optax.sgd(0.05), sync_period=2),
    "contrib.schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
    "contrib.split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(
        _ADAM
    ),
}


def names() -> list[str]:
    """Every function of optax that makes a transformation, and those of its contrib."""
    found = ["MultiSteps"]
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name, made in inspect.getmembers(module, _is_function):
            if not name.startswith("_") and _makes(made):
                found.append(prefix + name)
    return sorted(found, key=lambda name: ("." in name, name))


def _is_function(value: Any) -> bool:
    """`nadam` is a partial one."""
    return inspect.isfunction(value) or isinstance(value, functools.partial)


def _makes(function: Callable) -> bool:
    said = inspect.signature(function).return_annotation
    text = str(said)
    if said is inspect.Signature.empty:
        text = inspect.getsource(function)
    return "GradientTransformation" in text


def make(name: str, rate: Any = 0.1) -> optax.GradientTransformation:
    """The transformation of that name, with what it needs."""
    if name in GIVEN:
        return GIVEN[name]()
    module = optax.contrib if name.startswith("contrib.") else optax
    function = getattr(module, name.removeprefix("contrib."))
    takes = "learning_rate" in inspect.signature(function).parameters
    return function(**({"learning_rate": rate} if takes else {}))


def _start(dtypes: dict[str, str]) -> dict[str, jax.Array]:
    return {"b": jnp.full(3, 0.5, dtypes["b"]), "w": jnp.ones((4, 3), dtypes["w"])}


def _loss(params: Any, data: Any) -> jax.Array:
    """A worker's: half the squared distance from where it wants the parameters."""
    rows = jax.tree.map(lambda p, t: ((p - t.astype(p.dtype)) ** 2).sum(), params, data)
    return sum(jnp.float32(0.5) * x.astype(jnp.float32) for x in jax.tree.leaves(rows))


def _data() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        "b": jnp.asarray(rng.standard_normal((M, 3)), jnp.float32),
        "w": jnp.asarray(rng.standard_normal((M, 4, 3)), jnp.float32),
    }


def _given(name: str, params: Any) -> tuple[Any, dict[str, Any]]:
    """The workers' gradients, and what some functions want beside them."""
    data = _data()
    grads = jax.vmap(jax.grad(_loss), (None, 0))(params, data)

    def value_fn(params):
        return jax.vmap(_loss, (None, 0))(params, data).sum()

    value, grad = jax.value_and_grad(value_fn)(params)
    extra = {"value": value, "grad": grad, "value_fn": value_fn}
    # What is not known is refused by some of them.
    if name in _OF_HESSIANS:
        extra = {"obj_fn": value_fn}
    return grads, {} if name == "contrib.sam" else extra


def _chained(stage: optax.GradientTransformation):
    return optax.chain(_gdsec(), optax.with_extra_args_support(stage))


def _gdsec(xi: Any = XI):
    return gdsec_jax.gdsec(M, xi=xi, beta=0.1)


def _round(name: str, stage: Any, carry, *, alone: bool = False):
    """One of the chain and of the stage alone: how far apart their updates are."""
    params, chained, handing, own = carry
    grads, extra = _given(name, params)
    handed, handing = _gdsec().update(grads, handing, params)
    stage = optax.with_extra_args_support(stage)
    expected, own = stage.update(handed, own, params, **extra)
    updates = expected
    if not alone:
        updates, chained = _chained(stage).update(grads, chained, params, **extra)
    carry = optax.apply_updates(params, updates), chained, handing, own
    return carry, _gaps(updates, expected)


def _gaps(updates: Any, expected: Any) -> jax.Array:
    """How far apart two trees are, leaf by leaf, and behind that how large one is."""
    gaps = jax.tree.map(lambda u, v: jnp.abs(u - v).max(), updates, expected)
    sizes = jax.tree.map(lambda v: jnp.abs(v).max(), expected)
    return jnp.stack([x.astype(jnp.float32) for x in jax.tree.leaves((gaps, sizes))])


def _carry(stage, params, *, alone=False):
    chained = () if alone else _chained(stage).init(params)
    return params, chained, _gdsec().init(params), stage.init(params)


def _check(gaps: Any, tolerance: float) -> None:
    gaps = np.asarray(gaps, np.float64)
    half = gaps.shape[-1] // 2
    if not np.isfinite(gaps).all():
        raise ArithmeticError("updates are not finite")
    if not (gaps[..., :half] <= tolerance * (1e-6 + gaps[..., half:])).all():
        raise ArithmeticError("the updates are others than expected")


def _in_a_loop(name, alone):
    stage = make(name)
    step = jax.jit(functools.partial(_round, name, stage, alone=alone))
    carry = _carry(stage, _start({"b": "float32", "w": "float32"}), alone=alone)
    for _ in range(2):
        carry, gap = step(carry)
        _check(gap, 1e-5)


def _updates(name, stage, alone, *, donated=False):
    """Those of two rounds of the chain, or of a function alone."""
    stage = optax.with_extra_args_support(stage)

    def step(params, state):
        given, extra = _given(name, params)
        if alone:
            given = _gdsec().update(given, _gdsec().init(params), params)[0]
        updates, state = stage.update(given, state, params, **extra)
        return optax.apply_updates(params, updates), state, updates

    run = jax.jit(step, donate_argnums=(0, 1) if donated else ())
    params = _start({"b": "float32", "w": "float32"})
    state, made = stage.init(params), []
    for _ in range(2):
        given = jax.tree.leaves(params)
        params, state, updates = run(params, state)
        made.append(updates)
        if any(x.is_deleted() != donated for x in given):
            raise RuntimeError("this device keeps what is given away")
    return made


def _donated(name, alone):
    """Rounds that overwrite parameters and state, against such that do not."""
    stage = make(name) if alone else _chained(make(name))
    found = _updates(name, stage, alone, donated=True)
    _check(_gaps(found, _updates(name, stage, alone)), 1e-5)


def _in_a_scan(name, alone, b="float32", w="float32", tolerance=1e-5):
    def all_rounds(params):
        stage = make(name)
        carry = _carry(stage, params, alone=alone)

        def one(carry, _):
            return _round(name, stage, carry, alone=alone)

        return jax.lax.scan(one, carry, length=ROUNDS)[1]

    _check(jax.jit(all_rounds)(_start({"b": b, "w": w})), tolerance)


def _in_x64(name, alone):
    with jax.enable_x64(True):
        _in_a_scan(name, alone)
        _in_a_scan(name, alone, "float64", "float64")


def _injected(name, alone):
    """With xi and the learning rate as injected numbers, against them as constants."""

    def whole(xi, rate):
        return optax.chain(_gdsec(xi), make(name, rate))

    def of_stage(rate):
        return make(name, rate)

    made, given = (of_stage, {}) if alone else (whole, {"xi": XI})
    injected = optax.inject_hyperparams(made)(rate=0.1, **given)
    found = _updates(name, injected, alone)
    _check(_gaps(found, _updates(name, made(rate=0.1, **given), alone)), 1e-5)


def _simulated(name, _):
    problem = problems.from_loss(
        _loss, _data(), _start({"b": "float32", "w": "float32"})
    )
    run = gdsec_jax.simulate(problem, _chained(make(name)), ROUNDS)
    if not np.isfinite(run.objective_error).all():
        raise ArithmeticError("the error is not finite")


_DO = {
    "loop": _in_a_loop,
    "donated": _donated,
    "scan": _in_a_scan,
    "x64": _in_x64,
    "bfloat16": functools.partial(
        _in_a_scan, b="bfloat16", w="bfloat16", tolerance=0.02
    ),
    "mixed": functools.partial(_in_a_scan, w="bfloat16", tolerance=0.02),
    "injected": _injected,
    "simulate": _simulated,
}


def tried(name: str, way: str) -> tuple[str, str]:
    """Whether a function works in a way, and the error if not."""
    try:
        _DO[way](name, False)
        return _WORKS, ""
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    if way == "simulate":
        return "no", said
    try:
        _DO[way](name, True)
    except Exception:
        return "nor alone", said
    return "no", said


def row(name: str) -> tuple[str, ...]:
    """How a function does in all ways."""
    return (f"`{name}`", *(tried(name, way)[0] for way in WAYS), WHY.get(name, ""))


def rows() -> list[tuple[str, ...]]:
    """Of those that do not work in every way.

    Raises:
      ValueError: they are others than those that WHY explains, and the caption counts.
    """
    made = {name: row(name) for name in names()}
    made = {name: row for name, row in made.items() if set(row[1:-1]) != {_WORKS}}
    if made.keys() != WHY.keys():
        raise ValueError(
            f"{', '.join(sorted(made.keys() ^ WHY.keys()))}: in one of WHY and what "
            "was seen, expected in both or in neither."
        )
    return list(made.values())


def caption() -> str:
    """How many there are, and what the marks mean."""
    return (
        f"The {len(WHY)} of {len(names())} functions of optax and optax.contrib that "
        f"do not work in every way; the other {len(names()) - len(WHY)} do. “nor "
        "alone”: it fails with the directions alone, too; "
        + neighbours.versions("gdsec-jax", "optax", "jax")
        + "."
    )

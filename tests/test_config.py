"""Configs: what is accepted, what is refused, and what is made of them."""

import inspect
import re
from pathlib import Path

import jax
import numpy as np
import pydantic
import pytest

import gdsec_jax
from gdsec_jax import config as configs
from gdsec_jax import experiment, problems

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture
def load(tmp_path):
    """Write a config, and load it."""

    def write(text: str) -> configs.RunConfig:
        path = tmp_path / "run.toml"
        path.write_text(text, "utf-8")
        return configs.load(path)

    return write


FULL = """
title = "Ridge, ξ = 10"
num_rounds = 300
eval_every = 7
target = 1e-3
wire = "bitmap"
value_bits = 32

[problem]
kind = "logistic"
data = "breast_cancer"
num_workers = 3
split = "contiguous"
sizes = [500, 1, 68]
seed = 4
regularization = 0.0
dtype = "float32"

[methods.GD]
name = "gd"
learning_rate = 0.5

[methods."GD-SEC xi 10"]
name = "gdsec"
xi = 10
beta = 1.0
"""


# What is accepted


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.toml")), ids=lambda path: path.stem
)
def test_shipped_configs_load(path):
    config = configs.load(path)
    assert config.title
    for label, method in config.methods.items():
        factory = getattr(gdsec_jax, method.name)
        step = inspect.signature(factory).parameters.keys() & {"learning_rate"}
        factory(5, **method.parameters(), **dict.fromkeys(step, 0.1))
        assert (CONFIGS / label).name == label  # it names a file


def test_there_are_shipped_configs_and_the_figures_among_them():
    names = {path.stem for path in CONFIGS.rglob("*.toml")}
    assert {"ridge", "logistic"} <= set(experiment.figure_configs()) <= names


def test_every_field_is_read(load):
    config = load(FULL)
    assert config.title == "Ridge, ξ = 10"
    assert (config.num_rounds, config.eval_every, config.target) == (300, 7, 1e-3)
    assert (config.wire, config.value_bits) == ("bitmap", 32)
    problem = config.problem
    assert (problem.kind, problem.data) == ("logistic", "breast_cancer")
    assert (problem.num_workers, problem.split, problem.seed) == (3, "contiguous", 4)
    assert problem.sizes == (500, 1, 68)
    assert problem.regularization == 0.0
    assert problem.dtype == "float32"
    assert list(config.methods) == ["GD", "GD-SEC xi 10"]
    assert config.methods["GD"].learning_rate == 0.5
    assert config.methods["GD"].parameters() == {}
    assert config.methods["GD-SEC xi 10"].parameters() == {"xi": 10.0, "beta": 1.0}


def test_every_parameter_of_every_method_is_a_field():
    common = set(inspect.signature(gdsec_jax.gdsec).parameters) - {"xi", "beta"}
    renamed = {"key": "seed"}
    by_theory = {"probabilities"}
    for method in gdsec_jax.METHODS.values():
        own = set(inspect.signature(method.factory).parameters) - common - by_theory
        fields = {renamed.get(name, name) for name in own}
        assert fields <= set(configs.MethodConfig.model_fields), method.name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name = 'top_j'\nk = 3", {"k": 3}),
        ("name = 'top_j'\nk = 1.0\nscope = 'leaf'", {"k": 1.0, "scope": "leaf"}),
        ("name = 'qgd'\nlevels = 4\nseed = 7", {"levels": 4, "key": 7}),
    ],
)
def test_parameters_of_a_method(text, expected, load):
    given = load(f"[methods.X]\n{text}").methods["X"].parameters()
    assert given == expected
    assert {name: type(value) for name, value in given.items()} == {
        name: type(value) for name, value in expected.items()
    }


def test_a_compressor_takes_its_own_parameters(load):
    text = "[methods.X]\nname = 'diana'\ncompressor = 'qsgd'\nlevels = 4\nbeta = 0.5"
    given = load(text).methods["X"].parameters()
    assert set(given) == {"compressor", "beta"}
    expected = gdsec_jax.worker.qsgd(4).variance(np.zeros(100))
    assert given["compressor"].variance(np.zeros(100)) == expected


def test_a_step_factor_and_the_formats_reach_the_optimizer(load):
    text = "all_formats = true\n[methods.L]\nname = 'lag'\n[methods.I]\nname = 'iag'"
    config = load(text)
    problem = configs.make_problem(config.problem)
    for label in ("L", "I"):
        optimizer = configs.make_optimizer(config.methods[label], config, problem, 2.0)
        history = gdsec_jax.simulate(problem, optimizer, 2)
        assert set(history.format_bits) == set(
            gdsec_jax.wire.FORMATS + gdsec_jax.wire.CONVENTIONS
        )
        step = gdsec_jax.theory(config.methods[label].name, problem).learning_rate
        first = gdsec_jax.simulate(problem, optimizer, 1)
        grads = problem.gradients(problem.init_params)
        sent = grads[first.participants[0]].sum(0)
        np.testing.assert_allclose(first.params, -2 * step * sent, rtol=1e-9)


def test_an_empty_file_is_the_defaults(load):
    config = load("")
    assert config == configs.RunConfig()
    assert config.problem.kind == "ridge"
    assert list(config.methods) == ["GD"]


def test_a_config_cannot_be_changed(load):
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        load("").num_rounds = 3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("wire = 'coo'", "coo, 64-bit values"),
        ("wire = 'coo'\nproblem.dtype = 'float32'", "coo, 32-bit values"),
        ("value_bits = 16", "rle, 16-bit values"),
    ],
)
def test_the_wire_in_words(text, name, load):
    assert load(text).wire_name() == name


def test_the_baseline_is_gradient_descent_or_the_first_method(load):
    sec = "[methods.SEC]\nname = 'gdsec'\nxi = 1\n"
    other = "[methods.SOEC]\nname = 'gdsoec'\nxi = 1\n"
    assert load(f"{sec}{other}").baseline() == "SEC"
    assert load(f"{sec}{other}[methods.plain]\nname = 'gd'").baseline() == "plain"


# What is refused: the message names the file and the field

GDSEC = "[methods.SEC]\nname = 'gdsec'\n"
BAD = {
    "unknown field": ("rounds = 3", "rounds is an unknown field, expected one of"),
    "unknown nested field": (
        "problem.workers = 3",
        "problem.workers is an unknown field, expected one of",
    ),
    "unknown field of a method": (
        "[methods.GD]\nname = 'gd'\nstep = 1.0",
        "methods.GD.step is an unknown field, expected one of",
    ),
    "wrong type": ("num_rounds = 'many'", "num_rounds is 'many', expected a"),
    "bool for a number": ("num_rounds = true", "num_rounds is True, expected "),
    "text for a number": ("num_rounds = '10'", "num_rounds is '10', expected "),
    "fraction": ("num_rounds = 2.5", "num_rounds is 2.5, expected a valid int"),
    "zero rounds": ("num_rounds = 0", "num_rounds is 0, expected greater than"),
    "negative interval": ("eval_every = -1", "eval_every is -1, expected"),
    "zero target": ("target = 0", "target is 0, expected greater than 0"),
    "NaN target": ("target = nan", "target is nan, expected"),
    "unknown wire": ("wire = 'zip'", "wire is 'zip', expected 'dense', 'coo'"),
    "no bits": ("value_bits = 0", "value_bits is 0, expected"),
    "unknown kind": ("problem.kind = 'svm'", "problem.kind is 'svm', expected"),
    "no workers": ("problem.num_workers = 0", "problem.num_workers is 0, expected"),
    "an empty part": (
        "problem.sizes = [3, 0]",
        "problem.sizes.1 is 0, expected greater",
    ),
    "negative seed": ("problem.seed = -1", "problem.seed is -1, expected"),
    "negative lambda": (
        "problem.regularization = -0.1",
        "problem.regularization is -0.1, expected greater than or equal to 0",
    ),
    "infinite lambda": (
        "problem.regularization = inf",
        "problem.regularization is inf, expected a finite number",
    ),
    "unknown dtype": (
        "problem.dtype = 'float16'",
        "problem.dtype is 'float16', expected",
    ),
    "no such table": ("problem = 3", "problem is 3, expected"),
    "no methods": ("methods = {}", "methods is empty, expected at least one."),
    "unknown algorithm": (
        "[methods.X]\nname = 'sgd'",
        "methods.X.name is 'sgd', expected 'gd'",
    ),
    "no algorithm": ("[methods.X]\nxi = 1.0", "methods.X.name is missing."),
    "negative xi": (f"{GDSEC}xi = -1", "methods.SEC.xi is -1, expected"),
    "NaN xi": (f"{GDSEC}xi = nan", "methods.SEC.xi is nan, expected"),
    "beta above 1": (
        f"{GDSEC}xi = 1\nbeta = 1.5",
        "methods.SEC.beta is 1.5, expected less than or equal to 1",
    ),
    "zero step": (
        "[methods.GD]\nname = 'gd'\nlearning_rate = 0",
        "methods.GD.learning_rate is 0, expected greater than 0",
    ),
    "gd with xi": (
        "[methods.GD]\nname = 'gd'\nxi = 1.0",
        "methods.GD: gd has no parameter xi.",
    ),
    "gd with beta": (
        "[methods.GD]\nname = 'gd'\nbeta = 1.0",
        "methods.GD: gd has no parameter beta.",
    ),
    "top-j without k": (
        "[methods.X]\nname = 'top_j'",
        "methods.X: top_j needs the parameter k.",
    ),
    "zero entries": (
        "[methods.X]\nname = 'top_j'\nk = 0",
        "methods.X.k is 0, expected an integer of at least 1 or a float in (0, 1].",
    ),
    "a fraction above 1": (
        "[methods.X]\nname = 'top_j'\nk = 1.5",
        "methods.X.k is 1.5, expected an integer of at least 1 or a float in (0, 1].",
    ),
    "DIANA without a compressor": (
        "[methods.X]\nname = 'diana'",
        "methods.X: diana needs the parameter compressor.",
    ),
    "a compressor without k": (
        "[methods.X]\nname = 'diana'\ncompressor = 'random_k'",
        "methods.X: random_k needs the parameter k.",
    ),
    "a parameter that the compressor has not": (
        "[methods.X]\nname = 'marina'\ncompressor = 'natural'\nlevels = 4",
        "methods.X: marina has no parameter levels.",
    ),
    "unknown compressor": (
        "[methods.X]\nname = 'marina'\ncompressor = 'zip'",
        "methods.X.compressor is 'zip', expected 'random_k'",
    ),
    "no bits for LAQ": (
        "[methods.X]\nname = 'laq'\nbits = 0",
        "methods.X.bits is 0, expected greater than or equal to 1",
    ),
    "no step factor": ("step_factors = [0.0]", "step_factors.0 is 0.0, expected great"),
    "gdsec without xi": (GDSEC, "methods.SEC: gdsec needs the parameter xi."),
    "slash in a label": (
        "[methods.'a/b']\nname = 'gd'",
        "the label 'a/b' may hold letters, digits, blanks and _.+-.",
    ),
    "a label of dots": ("[methods.'..']\nname = 'gd'", "the label '..' may hold"),
    "an empty label": ("[methods.'']\nname = 'gd'", "the label '' may hold letters"),
    "newline in a label": ('[methods."a\\nb"]\nname = "gd"', r"the label 'a\nb' may"),
    "labels of one option": (
        "[methods.GD_1]\nname = 'gd'\n[methods.gd-1]\nname = 'gd'",
        "the labels GD_1, gd-1 must differ by more than case and _ or -",
    ),
    "seed of 70 bits": ("problem.seed = 999999999999999999999", "problem.seed is 9999"),
    "many bits": ("value_bits = 65", "value_bits is 65, expected less than or equal"),
    "no TOML": ("num_rounds = = 3", "is not valid TOML: Invalid value"),
    "a field twice": ("wire = 'coo'\nwire = 'rle'", "is not valid TOML: Cannot over"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(text, message, load, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(text)
    assert str(tmp_path / "run.toml") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, pydantic.ValidationError)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe\x00title")
    with pytest.raises(ValueError, match=r"run\.toml is not valid TOML: .*decode byte"):
        configs.load(tmp_path / "run.toml")


def test_a_missing_file(tmp_path):
    path = tmp_path / "none.toml"
    message = re.escape(f"{path} is not a file, expected a TOML config.")
    with pytest.raises(FileNotFoundError, match=message):
        configs.load(path)
    with pytest.raises(
        FileNotFoundError, match="is not a file, expected a TOML config"
    ):
        configs.load(tmp_path)


# What is made of them


def test_the_problem_of_a_config(load, x64):
    config = load(FULL.replace('"float32"', '"float64"')).problem
    problem = configs.make_problem(config)
    loaded = gdsec_jax.data.load("breast_cancer")
    parts = np.split(np.arange(569), [500, 501])
    expected = problems.logistic(
        loaded.features, loaded.targets, 3, regularization=0.0, split=parts
    )
    assert problem.name == "logistic"
    assert problem.smoothness == expected.smoothness
    shards, others = problem.worker_data.shards, expected.worker_data.shards
    np.testing.assert_array_equal(shards.features, others.features)
    np.testing.assert_array_equal(shards.targets, others.targets)
    assert problem.init_params.dtype == np.float64


@pytest.mark.parametrize(
    "kind", ["ridge", "logistic", "lasso", "nonlinear_least_squares"]
)
def test_every_kind_of_problem(kind, tmp_path):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((12, 3))
    np.savez(tmp_path / "own.npz", features=features, targets=np.arange(12) % 2)
    config = configs.ProblemConfig.model_validate(
        {"kind": kind, "data": str(tmp_path / "own.npz"), "num_workers": 2}
    )
    problem = configs.make_problem(config)
    assert problem.name == kind
    assert problem.init_params.shape == (3,)


def test_the_split_of_a_config(load):
    text = "problem.split = 'dirichlet'\nproblem.concentration = 0.1\nproblem.seed = 3"
    problem = configs.make_problem(load(text).problem)
    targets = gdsec_jax.data.load("digits").targets
    parts = gdsec_jax.data.split(targets, 5, "dirichlet", seed=3, concentration=0.1)
    sizes = (np.asarray(problem.worker_data.shards.weight) > 0).sum(axis=1)
    assert sizes.tolist() == [len(part) for part in parts]
    assert max(sizes) > 2 * min(sizes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "problem.data = 'nosuch'",
            "data is 'nosuch', expected a file that exists, or",
        ),
        (
            "problem.sizes = [1, 2]",
            "sizes has 2 entries that sum to 3, expected 5 that",
        ),
        (
            "problem.subset = 'test'",
            "split of 'digits' is 'test', expected one of train",
        ),
        (
            "problem.num_workers = 2000",
            "num_workers is 2000, expected at most the number",
        ),
        ("problem.proximal = true", "problem.proximal is for lasso, got kind 'ridge'."),
        ("problem.kind = 'logistic'", "must have two values, got 10."),
    ],
)
def test_problems_that_cannot_be_made(text, message, load):
    with pytest.raises(ValueError, match=re.escape(message)):
        configs.make_problem(load(text).problem)


def test_the_optimizer_of_a_method(load):
    text = """
    num_rounds = 30
    value_bits = 32
    problem.data = 'digits'
    [methods.default]
    name = 'gd'
    [methods.half]
    name = 'gdsec'
    xi = 0.0
    learning_rate = 0.005
    """
    config = load(text)
    problem = configs.make_problem(config.problem)
    default, half = (
        configs.make_optimizer(method, config, problem)
        for method in config.methods.values()
    )
    gradients = jax.jit(problem.gradients)(problem.init_params)
    total = np.asarray(gradients).sum(axis=0)
    for optimizer, step in ((default, 1 / problem.smoothness), (half, 0.005)):
        state = optimizer.init(problem.init_params)
        update = jax.jit(optimizer.update)
        updates, state = update(gradients, state, problem.init_params)
        np.testing.assert_allclose(updates, -step * total, rtol=1e-4, atol=1e-6)
        sent = gdsec_jax.last_round(state)
    assert sent.parts[0].uploads.layout.format == ("rle", 32, ())
    assert default.init(problem.init_params)[0].sent.uploads.layout.code.dense


def test_the_proximal_step_stands_last(load):
    config = load("[problem]\nkind = 'lasso'\nproximal = true\nregularization = 0.5")
    problem = configs.make_problem(config.problem)
    optimizer = configs.make_optimizer(config.methods["GD"], config, problem)
    gradients = jax.jit(problem.gradients)(problem.init_params)
    state = optimizer.init(problem.init_params)
    updates, _ = jax.jit(optimizer.update)(gradients, state, problem.init_params)
    moved = -np.asarray(gradients).sum(axis=0) / problem.smoothness
    shrunk = np.sign(moved) * np.maximum(np.abs(moved) - 0.5 / problem.smoothness, 0)
    np.testing.assert_allclose(updates, shrunk, rtol=1e-4, atol=1e-6)
    assert (np.asarray(updates) == 0).sum() > 5

"""Configs: what is accepted, what is refused, and what is made of them."""

import inspect
import pickle
import re
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pydantic
import pytest
from inside import _formats

import gdsec_jax
from gdsec_jax import problems, wire
from gdsec_jax.study import config as configs
from gdsec_jax.study import experiment
from gdsec_jax.study.config._method import function_of

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def load(tmp_path):
    """Write a config, and load it."""

    def write(text: str) -> configs.RunConfig:
        path = tmp_path / "run.toml"
        path.write_text(text, "utf-8")
        return configs.load(path)

    return write


def method_of(**fields) -> configs.MethodConfig:
    return configs.MethodConfig.model_validate(fields)


def problem_of(**fields) -> problems.Problem:
    return configs.make_problem(configs.ProblemConfig.model_validate(fields))


FULL = """
title = "Ridge, ξ = 10"

[problem]
kind = "logistic"
data = "breast_cancer"
num_workers = 3
split = "contiguous"
sizes = [500, 1, 68]
seed = 4
regularization = 0.0

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
    "path",
    [x for x in sorted(CONFIGS.rglob("*.toml")) if x.parent.name != "league"],
    ids=lambda path: path.stem,
)
def test_shipped_configs_load(path):
    config = configs.load(path)
    assert config.title
    assert pickle.loads(pickle.dumps(config)) == config  # figures take it elsewhere
    for label, method in config.methods.items():
        factory = function_of(method.name)
        of_theory = {"learning_rate", "local_learning_rate", "probability"}
        of_theory |= {"strong_convexity"}
        of_theory &= inspect.signature(factory).parameters.keys()
        factory(5, **dict.fromkeys(of_theory, 0.1) | method.parameters())
        assert (CONFIGS / label).name == label  # it names a file


def test_fields_of_all_tables_are_read(load):
    config = load(FULL)
    assert config.title == "Ridge, ξ = 10"
    assert config.problem.sizes == (500, 1, 68)
    assert list(config.methods) == ["GD", "GD-SEC xi 10"]
    assert config.methods["GD"].learning_rate == 0.5
    assert config.methods["GD"].parameters() == {}
    assert config.methods["GD-SEC xi 10"].parameters() == {"xi": 10.0, "beta": 1.0}
    again = configs.validate(config.model_dump(mode="json"), "saved")
    assert again == config


def test_what_older_versions_have_saved_is_read():
    every = {"xi": None, "k": None, "coordinate_xi": False, "compressor": None}
    saved = {"methods": {"GD": {"name": "gd", "step_factor": 2.0} | every}}
    assert configs.validate(saved, "saved").methods["GD"] == method_of(
        name="gd", step_factor=2.0
    )


def test_a_method_has_the_fields_that_its_function_takes():
    more = {"xi": {"coordinate_xi", "budget"}, "compressor": {"k", "levels", "scope"}}
    more["server"] = {"aggregation", "trim", "max_delay", "acknowledged", "capacity"}
    more["server"] |= {"max_norm_ratio"}
    more["noise"] = {"noise_multiplier"}
    elsewhere = {"num_workers", "learning_rate", "probabilities", "key"}
    elsewhere |= {"wire", "reduction", "weights", "on_nonfinite", "on_standstill"}
    elsewhere |= {"state_dtype", "axis", "within", "noise"}
    common = set(configs.MethodConfig.model_fields)
    for name, method in gdsec_jax.METHODS.items():
        takes = set(inspect.signature(method.factory).parameters)
        expected = takes - elsewhere
        for parameter in takes & set(more) - ({"xi"} if name == "cgd" else set()):
            expected |= more[parameter]
        model = config_of(name)
        assert set(model.model_fields) - common == expected, name
        for field in expected:
            assert model.model_fields[field].description, (name, field)


def config_of(name):
    """The class of a method's config, whatever it needs."""
    given = {"compressor": "natural", "xi": 1.0, "k": 1, "steps": 1, "warmup": 1}
    given["fragments"] = 1
    takes = inspect.signature(gdsec_jax.METHODS[name].factory).parameters
    fields = {field: x for field, x in given.items() if field in takes}
    return type(method_of(name=name, **fields))


def test_a_parameter_without_an_entry_is_read_from_signature_and_docstring():
    field = config_of("rand_k").model_fields["error_feedback"]
    assert field.annotation == bool | None
    words = "Whether an error memory takes the place of the scaling. By default False."
    assert field.description == words
    assert "By default 0.01" in config_of("gdsec").model_fields["beta"].description


def test_parameters_of_a_method():
    def given(name, **fields):
        return method_of(name=name, **fields).parameters()

    assert repr(given("top_j", k=3)) == "{'k': 3}"
    share = given("top_j", k=1.0, scope="leaf")
    assert repr(share) == "{'k': 1.0, 'scope': 'leaf'}"
    assert given("qgd", levels=4, seed=7) == {"levels": 4, "key": 7}
    assert given("gd", seed=7) == {}  # it is of minibatches and of who takes part
    found = given("diana", compressor="qsgd", levels=4, beta=0.5)
    assert set(found) == {"compressor", "beta"}
    expected = gdsec_jax.worker.qsgd(4).variance(np.zeros(100))
    assert found["compressor"].variance(np.zeros(100)) == expected


def test_a_step_factor_and_the_formats_reach_the_optimizer(load):
    text = "all_formats = true"
    for label, name in (("L", "lag"), ("I", "iag")):
        text += f"\n[methods.{label}]\nname = '{name}'\nstep_factor = 2.0"
    config = load(text)
    problem = configs.make_problem(config.problem)
    for label in ("L", "I"):
        optimizer = configs.make_optimizer(config.methods[label], config, problem)
        first = gdsec_jax.simulate(problem, optimizer, 1)
        assert set(first.format_bits) == {*wire.FORMATS, *_formats.CONVENTIONS}
        step = gdsec_jax.theory(config.methods[label].name, problem).learning_rate
        grads = problem.gradients(problem.init_params)
        sent = grads[first.participants[0]].sum(0)
        np.testing.assert_allclose(first.params, -2 * step * sent, rtol=1e-5)


def test_a_private_method_is_noised_by_its_seed_and_sweeps_its_multiplier(load):
    private = "clip = 0.5\ndelta = 1e-5\nsampling_rate = 0.5\nnum_workers = 2"
    method = GDSEC + "xi = 0.0\nnoise_multiplier = 2.0\nfloor = 3.0\nseed = 4"
    config = load(f"[problem]\n{private}\ndtype = 'float32'\n{method}")
    problem = configs.make_problem(config.problem)
    assert config.methods["SEC"].draws()
    optimizer = configs.make_optimizer(config.methods["SEC"], config, problem)
    (noise, *_), *_ = optimizer.init(problem.init_params)[0].workers, 0
    deviation = 2.0 * problem.private.sensitivity
    np.testing.assert_allclose(noise.deviation, [deviation] * 2, rtol=1e-6)
    by_hand = optax.chain(
        gdsec_jax.gdsec(
            2,
            xi=0.0,
            floor=3.0,
            noise=gdsec_jax.worker.gaussian_noise(2.0, problem.private.sensitivity),
            key=4,
            wire="rle",
        ),
        optax.sgd(configs.resolved(config.methods["SEC"], problem).learning_rate),
    )
    one, other = (
        gdsec_jax.simulate(problem, x, 5, key=0) for x in (optimizer, by_hand)
    )
    assert (one.params == other.params).all()
    assert (one.bits == other.bits).all()
    plain = configs.make_problem(configs.ProblemConfig(num_workers=2))
    with pytest.raises(
        ValueError, match=r"noise_multiplier is 2.0 and the problem has"
    ):
        configs.make_optimizer(config.methods["SEC"], config, plain)


def test_the_server_of_a_method():
    made = method_of(name="gd", max_delay=2, max_norm_ratio=3.0).parameters()["server"]
    assert (made.max_delay, made.max_norm_ratio) == (2, 3.0)
    made = method_of(name="gd", capacity=4).parameters()["server"]
    assert (made.capacity, made.max_norm_ratio) == (4, None)
    made = method_of(name="gd", max_norm_ratio=3.0).parameters()["server"]
    assert made == gdsec_jax.server.total(max_norm_ratio=3.0)
    made = method_of(name="gd", server="running").parameters()["server"]
    assert made == gdsec_jax.server.running()
    made = method_of(name="gd", aggregation="trimmed_mean", trim=0.4).parameters()
    five = np.float32([[1], [2], [3], [4], [100]])  # five times the middle one's mean
    np.testing.assert_allclose(made["server"].combine(five, None), [15.0])


def test_an_empty_file_is_the_defaults(load):
    config = load("")
    assert config == configs.RunConfig()
    assert config.problem.kind == "ridge"
    assert list(config.methods) == ["GD"]


def test_the_wire_in_words(load):
    assert load("wire = 'coo'").wire_name() == "index and value, 64-bit values"
    assert load("problem.dtype = 'float32'").wire_name() == "run lengths, 32-bit values"
    assert load("value_bits = 16").wire_name() == "run lengths, 16-bit values"


def test_the_baseline_is_gradient_descent_or_the_first_method(load):
    sec = "[methods.SEC]\nname = 'gdsec'\nxi = 1\n"
    other = "[methods.SOEC]\nname = 'gdsoec'\nxi = 1\n"
    assert load(f"{sec}{other}").baseline() == "SEC"
    steps = "[methods.FedAvg]\nname = 'gd'\nlocal_steps = 2\n"
    plain = "[methods.plain]\nname = 'gd'"
    assert load(f"{sec}{steps}{other}{plain}").baseline() == "plain"


# What is refused: the message names the file and the field


def rows(table: str) -> list[tuple[str, str]]:
    """A TOML text, its lines joined by "; ", and a message: a row a line or two."""
    pairs = (row.split(" |") for row in re.split(r"\n(?! )", table.strip()))
    return [(text.replace("; ", "\n"), message.strip()) for text, message in pairs]


REFUSED = rows(
    r"""
name = 'one_bit_adam'; warmup = 0 | warmup is 0, expected an integer from 1 to
name = 'streaming_diloco'; steps = 5; fragments = 2 |
    steps is 5, expected a multiple of the fragments, 2
name = 'streaming_diloco'; steps = 4; fragments = 2; overlap = 2 | overlap is 2, expe
name = 'streaming_diloco'; steps = 4; fragments = 2; grid.fragments = [2, 3] |
    with fragments = 3 of the grid, steps is 4, expected a multiple of the fragments, 3
name = 'dasha_pp'; cohort = 8; compressor = 'natural' | cohort is 8, expected an integ
"""
)


@pytest.mark.parametrize("text, message", REFUSED)
def test_what_methods_refuse_is_said_before_data_are_read(load, text, message):
    config = load(f"problem.data = 'nowhere.csv'\n[methods.X]\n{text}")
    refused = pytest.raises(ValueError, match=f"methods.X: {message}")
    with refused, experiment.prepared(config):
        pass


def test_what_waits_for_the_problem_is_not_refused_before(load):
    sec = "[methods.SEC]\nname = 'gdsec'\nxi = 1.0\n"
    clip = "problem = {clip = 1.0, delta = 1e-5}\n"
    for text in (
        f"{clip}{sec}noise_multiplier = 0",
        f"{clip}{sec}noise_multiplier = 1.0\nfloor = 1.0",
        f"{sec}coordinate_xi = true",
        "[methods.X]\nname = 'tamuna'\ngrid.owners = [2, 3]",
        "[methods.X]\nname = 'adiana'\ncompressor = 'natural'",
    ):
        configs.check_makes(load(text))


GDSEC = "[methods.SEC]\nname = 'gdsec'\n"
BAD = rows(
    r"""
rounds = 3 | rounds is an unknown field, did you mean num_rounds? Expected one of
problem.workers = 3 | problem: workers is an unknown field, did you mean num_workers?
[methods.GD]; name = 'gd'; step = 1.0 |
    methods.GD: gd has no parameter step, expected one of server, aggregation,
[methods.GD]; name = 'gd'; xi = 1.0 | methods.GD: gd has no parameter xi, expe
num_rounds = 'many' | num_rounds is 'many', expected a
num_rounds = 0 | num_rounds is 0, expected greater than
wire = 'zip' | wire is 'zip', expected 'dense', 'coo'
problem.sizes = [3, 0] | problem.sizes.1 is 0, expected greater
problem = 3 | problem is 3, expected a table of fields.
methods.X = 3 | methods.X is 3, expected a table of
methods = {} | methods is empty, expected at least one.
[methods.X]; name = 'sgd' | methods.X: name is 'sgd', did you mean gd? Expected one
[methods.X]; xi = 1.0 | methods.X: name is missing.
[methods.SEC]; name = 'gdsec'; xi = nan | methods.SEC.xi is nan, expected
[methods.X]; name = 'top_j' | methods.X: top_j needs the parameter k.
[methods.X]; name = 'diloco'; steps = 2; local_learning_rate = true |
    methods.X.local_learning_rate is True, expected a number.
[methods.X]; name = 'streaming_diloco'; steps = 2; fragments = true |
    methods.X.fragments is True, expected a valid integer.
[methods.X]; name = 'marina_p'; k = 2 |
    methods.X: k is of a compressor, and none is given, expected one.
[methods.X]; name = 'scaffold'; steps = 2; local_steps = 2 |
    methods.X: local_steps is 2, expected none: the workers of scaffold train by a rule
[methods.X]; name = 'gd'; local_steps = 2; noise_multiplier = 1.0 |
    methods.X: local_steps is 2 and noise_multiplier is 1.0, expected one of them: each
[methods.X]; name = 'top_j'; k = 0 |
    methods.X.k is 0, expected an integer of at least 1 or a float in (0, 1].
[methods.X]; name = 'top_j'; k = 1.5 |
    methods.X.k is 1.5, expected an integer of at least 1 or a float in (0, 1].
[methods.X]; name = 'diana' | methods.X: diana needs the parameter compressor.
[methods.X]; name = 'diana'; compressor = 'random_k' |
    methods.X: random_k needs the parameter k.
[methods.X]; name = 'marina'; compressor = 'natural'; levels = 4 |
    methods.X: natural has no parameter levels.
[methods.SEC]; name = 'gdsec'; xi = 'adapted' |
    methods.SEC.xi is 'adapted', expected a number or 'adaptive'.
[methods.SEC]; name = 'gdsec'; xi = 'adaptive'; coordinate_xi = true |
    methods.SEC: coordinate_xi needs a number for xi, got 'adaptive'.
[methods.CGD]; name = 'cgd'; xi = 'adaptive' |
    methods.CGD.xi is 'adaptive', expected a valid number
[methods.SEC]; name = 'gdsec'; xi = 1.0; budget = 0.1 |
    methods.SEC: budget is for xi = 'adaptive' alone.
[methods.GD]; name = 'gd'; participation_rule = 'uniform' |
    methods.GD: participation_rule needs the share participation.
[methods.GD]; name = 'gd'; absent = 'hold' |
    methods.GD: absent needs a participation or a budget_bits.
[methods.GD]; name = 'gd'; aggregation = 'median'; trim = 0.0 |
    methods.GD: trim is for the aggregation trimmed_mean alone.
[methods.GD]; name = 'gd'; aggregation = 'median'; max_delay = 1 |
    methods.GD: aggregation and max_delay are given, expected one of them: each
problem = {batch_size = 3, sampling_rate = 0.5} |
    problem: batch_size and sampling_rate are given, expected one.
problem.clip = 1.0 | problem: a clip goes with a delta, and a delta with a clip.
problem = {clip = 0.0, delta = 1e-5} | problem.clip is 0.0, expected greater than 0
problem.microbatch = 3 | problem: microbatch is for a problem with a clip alone.
[methods.SEC]; name = 'gdsec'; xi = 1.0; floor = 2.0 |
    methods.SEC: floor needs the parameter noise_multiplier.
channel.power_w = 2.0 | channel: power_w needs an snr_db: without one there is no radio.
problem = {kind = 'network', model = 'mlp', intercept = true} |
    problem: a network has no intercept, but biases of its own.
problem = {data = 'characters', scale = 'max'} |
    problem: characters have no scale, expected none.
problem.scale = 'std' | problem.scale is 'std', expected 'none', 'standard' or 'max'.
problem.proximal = true | problem: proximal is for the kind lasso alone.
problem.options = {density = 0.1} |
    problem: the data digits have no option density, expected none.
problem = {data = 'heterogeneous', options = {num_workers = 3}} |
    problem: the data heterogeneous have no option num_workers, did you mean num_feat
problem = {data = 'sparse_binary', options = {num_samples = 3}} |
    problem: the data sparse_binary need the option num_features.
problem = {data = 'sparse_binary', options = {density = 'low'}} |
    problem.options.density is 'low', expected a valid integer
[methods.SEC]; name = 'gdsec' | methods.SEC: gdsec needs the parameter xi.
[methods.'a/b']; name = 'gd' |
    the label 'a/b' may hold letters, digits, blanks and _.+-.
[methods.'..']; name = 'gd' | the label '..' may hold
[methods.'']; name = 'gd' | the label '' may hold letters
[methods."a\nb"]; name = "gd" | the label 'a\nb' may
[methods.GD_1]; name = 'gd'; [methods.gd-1]; name = 'gd' |
    the labels GD_1, gd-1 must differ by more than case and _ or -
problem.seed = 999999999999999999999 | problem.seed is 9999
num_rounds = = 3 | is not valid TOML: Invalid value
wire = 'coo'; wire = 'rle' | is not valid TOML: Cannot over
problem.model = 'mlp' | a model goes with the kind network, and with it alone
problem.held_out = 0.5 | held_out is for the kind network alone
problem.kind = 'network' | a model goes with the kind
problem = {kind = 'network', model = 'mlp', regularization = 0.1} |
    a network has no regularization
problem = {kind = 'network', model = 'mlp', dtype = 'float64'} |
    a network has the dtype float32
[grid]; foo = [1] |
    methods.GD: with foo = 1 of the grid, gd has no parameter foo, expected one
[grid]; step_factor = 1.0 |
    grid.step_factor is 1.0, expected a list of values, or a table of
[problem.grid]; workers = [1] |
    problem: with workers = 1 of the grid, workers is an unknown field, did
[problem.grid]; num_workers = [5, 0] |
    problem: with num_workers = 0 of the grid, num_workers is 0, expected greater
"""
)

BAD += [
    (f"problem = {{kind = 'lasso', {text}", message)
    for text, message in rows(
        """
proximal = true}; [methods.S]; name = 'scaffold'; steps = 2 |
    methods.S: it makes its steps itself, and has no proximal form here.
proximal = true}; [methods.F]; name = 'gd'; local_steps = 2 |
    methods.F: with local_steps above 1 it makes its steps itself, and has no proximal
proximal = true}; [methods.F]; name = 'gd'; grid.local_steps = [1, 2] |
    methods.F: with local_steps = 2 of the grid, with local_steps above 1 it makes its
proximal = true}; grid.local_steps = [1, 2]; [methods.F]; name = 'gd' |
    methods.F: with local_steps = 2 of the grid, with local_steps above 1 it makes its
proximal = true}; [search]; [methods.F]; name = 'gd'; search.local_steps = 1 |
    methods.F: with local_steps above 1 it makes its steps itself, and has no proximal
grid.proximal = [true]}; [methods.A]; name = 'adiana'; compressor = 'whole' |
    methods.A: it makes its steps itself, and has no proximal form here.
"""
    )
]


@pytest.mark.parametrize(("text", "message"), BAD)
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
    for path in (tmp_path / "none.toml", tmp_path):
        message = re.escape(f"{path} is not a file, expected a TOML config.")
        with pytest.raises(FileNotFoundError, match=message):
            configs.load(path)


# What is made of them


def test_the_problem_of_a_config(load):
    problem = configs.make_problem(load(FULL).problem)
    loaded = gdsec_jax.data.load("breast_cancer")
    assert problem.name == "logistic"
    assert problem.regularization == 0.0
    shards = problem.worker_data.shards
    for m, part in enumerate(np.split(np.arange(569), [500, 501])):
        own = shards.features[m][: len(part)]
        np.testing.assert_allclose(own, loaded.features[part], rtol=1e-6)
        assert (np.asarray(shards.weight[m]) > 0).sum() == len(part)


def test_how_a_file_is_read(load, tmp_path):
    (tmp_path / "own.csv").write_text("0,1,2,3\n9,5,1,7\n8,6,2,4\n")
    config = load(
        "[problem]\ndata = 'own.csv'\nnum_workers = 1\n"
        "read = {header = true, target = 1, index = '0'}"
    )
    loaded = configs.load_samples(config.problem)
    assert (loaded.features.tolist(), loaded.targets.tolist()) == (
        [[1, 7], [2, 4]],
        [5, 6],
    )
    problem = configs.make_problem(config.problem)
    np.testing.assert_array_equal(problem.worker_data.shards.targets, [[5, 6]])
    (tmp_path / "own.svm").write_text("1 1:1\n-1 2:2\n")
    config = load(
        "problem = {data = 'own.svm', read = {zero_based = true, num_features = 4}}"
    )
    features = configs.load_samples(config.problem).features
    assert features.toarray().tolist() == [[0, 1, 0, 0], [0, 0, 2, 0]]


def test_a_path_is_seen_from_the_folder_of_the_config(tmp_path, monkeypatch):
    inner, elsewhere = tmp_path / "inner", tmp_path / "elsewhere"
    for folder, value in ((inner, 1.0), (elsewhere, 2.0)):
        folder.mkdir()
        np.savez(folder / "own.npz", X=np.eye(3), y=np.full(3, value))
    (inner / "run.toml").write_text(
        "[problem]\ndata = 'own.npz'\n[problem.grid]\n"
        "data = ['own.npz', 'digits', '../elsewhere/own.npz']\n"
        "[real.problem]\ndata = '../elsewhere/own.npz'\n"
    )
    (inner / "two.toml").write_text(
        "[problem.grid]\n'num_workers, data' = [[1, 'own.npz'], [2, 'digits']]\n"
        f"[real.problem]\ndata = '{elsewhere / 'own.npz'}'\n"
    )
    monkeypatch.chdir(elsewhere)  # where a file of the same name is another
    for path in (inner / "run.toml", "../inner/run.toml"):
        config = configs.load(path)
        assert configs.load_samples(config.problem).targets.tolist() == [1, 1, 1]
        own, named, other = config.problem.grid["data"]
        assert named == "digits"
        real = config.real["problem"]["data"]
        for each, value in ((own, 1), (other, 2), (real, 2)):
            assert configs.load_data(each).targets.tolist() == [value] * 3
    config = configs.load("../inner/two.toml")
    (_, own), (_, named) = config.problem.grid["num_workers, data"]
    assert (configs.load_data(own).targets[0], named) == (1, "digits")
    assert Path(config.real["problem"]["data"]) == elsewhere / "own.npz"
    # What is chosen may be written elsewhere.
    text = (
        "[problem]  # mine\ndata = 'own.npz'  # ones\n[real]\nproblem.data = 'mnist'\n"
    )
    (inner / "run.toml").write_text(text)
    for place in ("chosen.toml", tmp_path / "a" / "b" / "chosen.toml"):
        configs.write_chosen("../inner/run.toml", configs.RunConfig(), place)
        chosen = configs.load(place)
        assert configs.load_samples(chosen.problem).targets.tolist() == [1, 1, 1]
        assert chosen.real["problem"]["data"] == "mnist"
        assert "[problem]  # mine\n" in Path(place).read_text()
    configs.write_chosen(inner / "run.toml", configs.RunConfig(), inner / "run.toml")
    assert (inner / "run.toml").read_text() == text


def test_data_in_a_line():
    rng, x = np.random.default_rng(0), np.zeros((2000, 3))
    said = {
        "target with 10 classes, 0 to 9": np.arange(2000) % 10,
        "target with 2 classes, -1 to 1": np.sign(rng.normal(size=2000)),
        "target with 2,000 different values, 0 to 1999": np.arange(2000),
        "target with 2 different values, 0 to 0.5": np.arange(2000) % 2 / 2,
    }
    for words, targets in said.items():
        line = configs.said_of(gdsec_jax.data.Dataset("toy", x, targets))
        assert line == f"toy: 2,000 samples, 3 features, {words}"
    characters = gdsec_jax.data.characters(2, text="abcabc")
    assert configs.said_of(characters).startswith("text: 2 samples, 2 features, target")


@pytest.mark.parametrize(
    "kind", ["ridge", "logistic", "lasso", "nonlinear_least_squares"]
)
def test_every_kind_of_problem(kind, tmp_path):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((12, 3))
    np.savez(tmp_path / "own.npz", features=features, targets=np.arange(12) % 2)
    problem = problem_of(kind=kind, data=str(tmp_path / "own.npz"), num_workers=2)
    assert problem.name == kind
    assert problem.init_params.shape == (3,)


NETWORK = {"kind": "network", "model": "mlp", "num_workers": 3, "batch_size": 4}
NETWORK |= {"held_out": 0.25}


def test_a_network():
    config = configs.validate({"problem": NETWORK}, "test")
    assert config.problem.dtype == "float32"
    problem = configs.make_problem(config.problem)
    assert (problem.name, problem.num_workers) == ("mlp", 3)
    assert problem.error_name == "held-out loss"
    kept = int((np.asarray(problem.worker_data.weight) > 0).sum())
    held = problem.held_out.shards.targets.size
    assert kept + held == len(gdsec_jax.data.load("digits").targets)
    assert held == round(0.25 * (kept + held))
    assert problem.worker_data.features.max() == 1.0
    measured = jax.eval_shape(problem.measured, problem.init_params)
    assert set(measured.metrics) == {"accuracy"}
    method = method_of(name="gd", learning_rate=0.1)
    params = {"w": jnp.ones(2)}
    gradients = {"w": jnp.ones((3, 2))}
    moved = {"sgd": -0.3, "momentum": -0.57, "adam": -0.1}
    for name, expected in moved.items():
        own = config.model_copy(update={"optimizer": name})
        optimizer = configs.make_optimizer(method, own, problem)
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(gradients, state, params)
        assert float(updates["w"][0]) == pytest.approx(expected, rel=1e-4), name


def test_a_network_of_characters():
    fields = {"kind": "network", "model": "transformer", "options": {"length": 8}}
    fields |= {"data": "characters", "split": "contiguous", "dtype": "float32"}
    problem = problem_of(**fields)
    assert problem.worker_data.features.shape[::2] == (5, 8)
    assert problem.worker_data.features.dtype == np.int32
    assert problem.error_name == "objective"


def test_the_split_of_a_config():
    problem = problem_of(split="dirichlet", concentration=0.1, seed=3)
    targets = gdsec_jax.data.load("digits").targets
    parts = gdsec_jax.data.split(targets, 5, "dirichlet", seed=3, concentration=0.1)
    sizes = (np.asarray(problem.worker_data.shards.weight) > 0).sum(axis=1)
    assert sizes.tolist() == [len(part) for part in parts]
    assert max(sizes) > 2 * min(sizes)


NO_PROBLEMS = rows(
    """
data = 'nosuch' | data is 'nosuch', expected a file that exists, or
sizes = [1, 2] | sizes has 2 entries that sum to 3, expected 5 that
subset = 'test' | split of 'digits' is 'test', expected one of train
num_workers = 2000 | num_workers is 2000, expected at most the number
kind = 'logistic' | must have two values, got 10.
"""
)
NO_NETWORKS = rows(
    """
model = 'transformer' | problem.model is 'transformer' for 'digits', expected the tra
data = 'characters' | problem.model is 'mlp' for 'python_documentation'
held_out = 1e-4 | problem.held_out is 0.0001 of 1797 samples, expected
held_out = 0.9999 | problem.held_out is 0.9999 of 1797 samples, expected
model = 'lenet'; data = 'breast_cancer' | 'lenet' for 30 features
data = 'sparse_binary'; options = {num_samples = 9, num_features = 9, density = 0.5} |
    problem.data 'sparse_binary' is sparse, expected dense features
"""
)


@pytest.mark.parametrize(
    ("base", "row"),
    [({}, x) for x in NO_PROBLEMS] + [(NETWORK, x) for x in NO_NETWORKS],
)
def test_problems_that_cannot_be_made(base, row):
    more, message = row
    with pytest.raises(ValueError, match=re.escape(message)):
        problem_of(**base | tomllib.loads(more))


def test_the_optimizer_of_a_method(load):
    half = "name = 'gdsec'\nxi = 0.0\nlearning_rate = 0.005"
    text = f"[methods.default]\nname = 'gd'\n[methods.half]\n{half}"
    config = load(f"value_bits = 32\n{text}")
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
    one = "[methods.F]\nname = 'gd'\nlocal_steps = 1"  # which is the method's own step
    assert load(f"problem = {{kind = 'lasso', proximal = true}}\n{one}").methods["F"]


# Generators


def test_a_generator_takes_its_options():
    options = {"num_samples": 12, "num_features": 7, "density": 0.3}
    fields = {"kind": "logistic", "data": "sparse_binary", "num_workers": 2, "seed": 3}
    problem = problem_of(**fields, options=options)
    expected = gdsec_jax.data.sparse_binary(12, 7, 0.3, seed=3)
    parts = gdsec_jax.data.split(expected.targets, 2, seed=3)
    own = problems.logistic(expected.features, expected.targets, 2, split=parts)
    assert problem.init_params.shape == (7,)
    assert problem.smoothness == own.smoothness


def test_a_generator_is_told_the_problem(x64):
    fields = {"data": "heterogeneous", "num_workers": 3, "split": "contiguous"}
    fields |= {"kind": "ridge", "regularization": 0.5}
    options = {"samples_per_worker": 9, "num_features": 4}
    problem = problem_of(**fields, options=options | {"seed": 8})
    prescribed = (1.3 ** np.arange(3) + 1) ** 2
    np.testing.assert_allclose(problem.worker_smoothness, prescribed, rtol=1e-6)
    other = problem_of(**fields, options=options | {"seed": 9})
    assert problem.smoothness != other.smoothness


# Grids


def test_a_grid(load):
    def values(text):
        grid = load(f"{GDSEC}[methods.SEC.grid]\n{text}").methods["SEC"].grid
        return configs.values_of(grid)

    ((names, (row,)),) = values("'beta , xi' = [[0.1, 1]]").items()
    assert (names, list(row)) == (("beta", "xi"), [0.1, 1])
    text = "xi = {start = 1, stop = 100, num = 3}\nlocal_steps = [1, 4]"
    assert values(text) == {"xi": [1.0, 10.0, 100.0], "local_steps": [1, 4]}


@pytest.mark.parametrize(
    ("start", "stop", "num", "scale", "expected"),
    [
        (1e-3, 0.1, 3, "log", [1e-3, 0.01, 0.1]),
        (100.0, 1.0, 3, "log", [100.0, 10.0, 1.0]),
        (0.1, 0.5, 5, "linear", [0.1, 0.2, 0.3, 0.4, 0.5]),
        (1 / 3, 2 / 3, 2, "linear", [1 / 3, 2 / 3]),
        (7.0, 7.0, 1, "log", [7.0]),
    ],
)
def test_a_range(start, stop, num, scale, expected):
    one = configs.Range(start=start, stop=stop, num=num, scale=scale)
    assert one.values() == expected


IN_GRID = rows(
    """
xi = [1.0]; xj = [1.0] |
    : with xi = 1.0, xj = 1.0 of the grid, gdsec has no parameter xj, expected
grid = [1.0] | : the grid has 'grid', which is no field
chosen = ['so'] | : the grid has 'chosen', which is no
'xi,' = [[1, 2]] | : the grid has '', which is no field to vary.
'xi,xi' = [[1, 2]] | : the grid has 'xi' twice, expected it
xi = [1]; 'xi,beta' = [[1, 0.5]] | : the grid has 'xi' twice, expected it once.
xi = [] | : grid['xi'] is empty, expected at least one value.
'xi,beta' = [] | : grid[('xi', 'beta')] is empty, expected at least one value.
'xi,beta' = [[1, 0.5], [1]] |
    : grid[('xi', 'beta')] holds [1], expected 2 values.
'xi,beta' = [1, 0.5] | : grid[('xi', 'beta')] holds 1, expected 2 values.
'xi,beta' = [[1, 0.5], [2, 1.5]] |
    : with xi = 2, beta = 1.5 of the grid, beta is 1.5, expected less than or
xi = ['big'] |
    : with xi = 'big' of the grid, xi is 'big', expected a number or 'adaptive'.
xi = ['1.0', 2.0] | : the grid has '1.0' for xi, expected a value such as 1.0.
xi = [2.0, true] | : with xi = True of the grid, xi is True, expected a number.
xi = {start = 1, stop = 2, num = 10001} |
    .grid.xi.num is 10001, expected less than or equal to 10000
beta = [0.1] | : with beta = 0.1 of the grid, gdsec needs the parameter xi.
xi = 3 | .grid.xi is 3, expected a list of values, or a table of
xi = {start = 0, stop = 1, num = 3} |
    .grid.xi: start is 0.0 and stop 1.0, expected numbers above 0 for the scale
xi = {start = -1e308, stop = 1e308, num = 3, scale = 'linear'} |
    .grid.xi: start is -1e+308 and stop 1e+308, expected a distance that is a
xi = {start = 1, stop = 2} | .grid.xi.num is missing.
xi = {start = 1, stop = 2, num = 1} |
    .grid.xi: num is 1, expected at least 2 for both ends.
xi = {start = 1, stop = 2, num = 2, step = 1} |
    .grid.xi: step is an unknown field, did you mean stop? Expected one of start,
"""
)


@pytest.mark.parametrize(("text", "message"), IN_GRID)
def test_what_is_refused_in_a_grid(text, message, load, tmp_path):
    message = f"{tmp_path / 'run.toml'}: methods.SEC{message}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        load(f"{GDSEC}[methods.SEC.grid]\n{text}")
    assert "\n" not in str(caught.value)


def test_a_methods_own_values_stand_for_the_common_ones(load):
    own = "[methods.GD]\nname = 'gd'\n[methods.GD.grid]\nstep_factor = [3.0]\n"
    config = load(f"[grid]\nstep_factor = [1.0]\nlearning_rate = [0.1]\n{own}")
    joined = configs.joined(config.grid, config.methods["GD"].grid)
    assert list(joined.items()) == [("learning_rate", (0.1,)), ("step_factor", (3.0,))]


@pytest.mark.parametrize(
    ("text", "missing"),
    rows(
        """
name = 'gdsec'; grid.xi = [1.0] | gdsec needs the parameter xi
name = 'top_j'; grid.k = [1, 2] | top_j needs the parameter k
name = 'gdsec'; coordinate_xi = true; grid.xi = [1.0] |
    coordinate_xi needs the parameter xi
name = 'marina'; compressor = 'random_k'; grid.k = [1, 2] |
    random_k needs the parameter k
name = 'diana'; grid.compressor = ['natural'] | diana needs the parameter compressor
"""
    ),
)
def test_a_parameter_may_be_in_the_grid_alone(text, missing):
    method = method_of(**tomllib.loads(text))
    with pytest.raises(ValueError, match=f"^{missing}.$"):
        configs.varied(method)
    ((name, (value, *_)),) = method.grid.items()
    assert getattr(configs.varied(method, **{name: value}), name) == value


# One setting of a method


def test_a_setting_is_checked(load):
    method = load(f"{GDSEC}xi = 0.0\nchosen = 'so'").methods["SEC"]
    varied = configs.varied(method, xi=2, step_factor=0.5)
    assert (varied.xi, varied.step_factor, varied.chosen) == (2.0, 0.5, "")
    given = configs.varied(method, beta=0.5).model_dump(exclude_unset=True)
    assert given == {"name": "gdsec", "xi": 0.0, "beta": 0.5}
    for fields, message in (
        ({"xi": -1.0}, "xi is -1.0, expected greater than or equal to 0."),
        ({"zip": 1.0}, "gdsec has no parameter zip, expected one of xi, beta, "),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            configs.varied(method, **fields)


@pytest.fixture(scope="module")
def digits():
    return configs.make_problem(configs.ProblemConfig(dtype="float32"))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"name": "gd"}, ()),
        ({"name": "gd", "learning_rate": 0.5, "step_factor": 3.0}, ()),
        ({"name": "lag", "step_factor": 2.0}, ()),
        ({"name": "diana", "compressor": "natural"}, ("beta",)),
        ({"name": "diana", "compressor": "natural", "beta": 0.25}, ()),
        ({"name": "marina", "compressor": "random_k", "k": 8}, ("probability",)),
    ],
)
def test_what_theory_says_becomes_numbers(fields, found, digits):
    method = method_of(**fields)
    resolved = configs.resolved(method, digits)
    theory = gdsec_jax.theory(method.name, digits, **method.parameters())
    step = method.learning_rate or theory.learning_rate
    assert resolved.learning_rate == step * method.step_factor
    assert resolved.step_factor == 1.0
    for name in found:
        assert getattr(resolved, name) == theory.parameters[name]
    changed = {"learning_rate", "step_factor", *found}
    assert method.model_dump(exclude=changed) == resolved.model_dump(exclude=changed)
    assert configs.resolved(resolved, digits) == resolved


def test_who_compresses_what_goes_down_has_no_broadcast_k(digits):
    method = method_of(name="ef21_p", k=3, broadcast_k=2)
    with pytest.raises(ValueError, match="^broadcast_k is 2, expected none"):
        configs.make_optimizer(method, configs.RunConfig(), digits)


def test_the_broadcast_stands_behind_the_step(digits):
    config = configs.RunConfig(wire="coo")
    method = method_of(name="gd", broadcast_k=3)
    optimizer = configs.make_optimizer(method, config, digits)
    history = gdsec_jax.simulate(digits, optimizer, 1)
    assert np.count_nonzero(history.params) == 3
    step = np.asarray(digits.gradients(digits.init_params)).sum(0) / digits.smoothness
    largest = np.argsort(-np.abs(step))[:3]
    np.testing.assert_allclose(history.params[largest], -step[largest], rtol=1e-5)


def test_a_threshold_for_each_coordinate(digits):
    fields = {"name": "gdsec", "xi": 40.0, "beta": 0.5, "coordinate_xi": True}
    method = method_of(**fields)
    optimizer = configs.make_optimizer(method, configs.RunConfig(), digits)
    xi = 40.0 / np.asarray(digits.coordinate_smoothness)
    algorithm = gdsec_jax.gdsec(5, xi, 0.5)
    expected = optax.chain(algorithm, optax.sgd(1 / digits.smoothness))
    ours, theirs = (gdsec_jax.simulate(digits, o, 4) for o in (optimizer, expected))
    np.testing.assert_array_equal(ours.entries, theirs.entries)
    np.testing.assert_allclose(ours.params, theirs.params, rtol=1e-6)
    assert 0 < ours.entries[1:].sum() < 3 * 5 * 64

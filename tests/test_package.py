"""The shape of the package: its public names, and the direction data flow in."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gdsec_jax

ROOT = Path(gdsec_jax.__file__).parent
TOPICS = (
    *("algorithms", "data", "flower", "numpy_worker", "plot", "privacy", "problems"),
    "study.report",
    *("wire", "worker"),
)

# A user can take the algebra alone: what each room may import of the package, beside
# the shared helpers, which import nothing of it but each other.
HELPERS = {"_checks", "_devices", "_masks", "_native", "_plain", "_trees"}
PAGES = {  # public spellings of what stands in a room
    "channel": "uplink",
    "logs": "files",
    "participation": "uplink",
    "robust": "server",
}
MAY_IMPORT = {
    "wire": set(),
    "files": set(),
    "worker": {"wire"},
    "numpy_worker": {"wire"},
    "server": {"wire", "worker"},
    "federation": {"server", "wire", "worker"},
    "algorithms": {"federation", "server", "wire", "worker"},
    "data": {"files"},
    "privacy": set(),
    "problems": {"data", "worker"},
    "_theory": {"algorithms", "problems", "worker"},
    "uplink": {"federation", "server"},
    "simulation": {"federation", "files", "privacy", "problems", "uplink", "worker"},
    "plot": {"algorithms", "simulation", "wire"},
    "flower": {"federation", "files", "numpy_worker", "simulation", "wire"},
    "__main__": {"study"},
    "study": {
        *("_theory", "algorithms", "data", "federation", "files", "plot", "problems"),
        *("privacy", "server", "simulation", "uplink", "wire", "worker", *PAGES),
    },
} | {page: {room} for page, room in PAGES.items()}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "gdsec_jax"
        ):
            parts = (node.module or "").split(".")
            names = [alias.name for alias in node.names]
            yield from [parts[1]] if len(parts) > 1 else names


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.stem)
def test_data_flow_one_way(path):
    place = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if place == "__init__":
        return
    allowed = set() if place in HELPERS else MAY_IMPORT[place]
    assert set(_imports(path)) <= allowed | HELPERS | {place}


def _banned():
    """What ruff lets no module import at its top that `import gdsec_jax` imports."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    lint = tomllib.loads(text)["tool"]["ruff"]["lint"]
    return set(lint["flake8-tidy-imports"]["banned-module-level-imports"])


def test_importing_leaves_out_what_few_calls_need():
    code = """
import sys, jax, optax
before = set(sys.modules)
import gdsec_jax
print(*set(sys.modules) - before)
from gdsec_jax import *  # all that it loads when it is used
print(*set(sys.modules) - before)
import gdsec_jax.study.cli
print(*set(sys.modules) - before)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    bare, package, command = (set(line.split()) for line in ran.stdout.splitlines())
    assert {x for x in bare if x.startswith("gdsec")} == {"gdsec_jax"}
    assert "gdsec_jax.simulation._simulate" in package
    assert "gdsec_jax.study.cli" in command
    assert not package & _banned()
    # Needed to say what is wrong with the command line.
    assert command & _banned() <= {"gdsec_jax.study", "rich", "tyro"}


def test_the_package_has_one_page_too():
    """Its stub, which type checkers read and from which it is loaded."""
    tree = ast.parse(Path(gdsec_jax.__file__).with_suffix(".pyi").read_text("utf-8"))
    names = [n.names[0].asname for n in tree.body if isinstance(n, ast.ImportFrom)]
    (listed,) = (n.value for n in tree.body if isinstance(n, ast.Assign))
    assert sorted(names) == sorted(ast.literal_eval(listed))
    assert sorted(names) == sorted(gdsec_jax.__all__)
    assert set(TOPICS) - {"algorithms", "study.report"} <= set(names)
    for name in names:
        assert getattr(gdsec_jax, name) is not None
    assert not inspect.ismodule(gdsec_jax.theory)
    assert not inspect.ismodule(gdsec_jax.simulate)


@pytest.mark.parametrize(
    ("old", "new"), [("Grouped", "WorkerBatches"), ("rounds", "clock")]
)
def test_old_names(old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is deprecated .* use .*{new}"):
        assert getattr(gdsec_jax, old) is getattr(gdsec_jax, new)
    with pytest.raises(AttributeError, match="no_such_name"):
        gdsec_jax.no_such_name  # noqa: B018


@pytest.mark.parametrize("topic", TOPICS)
def test_all_is_what_the_page_imports(topic):
    module = importlib.import_module(f"gdsec_jax.{topic}")
    for name in module.__all__:
        getattr(module, name)  # some are loaded when they are first used
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(module.__all__)


def test_every_public_function_is_documented_with_an_example():
    missing = []
    for module in (
        gdsec_jax,
        *(importlib.import_module(f"gdsec_jax.{t}") for t in TOPICS),
    ):
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.isfunction(value):
                continue
            if ">>>" not in (inspect.getdoc(value) or ""):
                missing.append(f"{module.__name__}.{name}")
    assert missing == []


def test_every_module_says_what_it_is():
    for info in pkgutil.walk_packages(gdsec_jax.__path__, "gdsec_jax."):
        assert importlib.import_module(info.name).__doc__, info.name

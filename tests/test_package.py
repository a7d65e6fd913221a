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
TOPICS = ("algorithms", "data", "problems", "study.report", "wire", "worker")

# A user can take the algebra alone: what each room may import of the package, beside
# the shared helpers, which import nothing of it but each other.
HELPERS = {"_checks", "_devices", "_trees"}
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
    "server": {"worker"},
    "federation": {"server", "wire", "worker"},
    "algorithms": {"federation", "server", "wire", "worker"},
    "data": {"files"},
    "problems": {"data"},
    "_theory": {"algorithms", "problems", "worker"},
    "uplink": {"federation", "server"},
    "simulation": {"federation", "files", "problems", "uplink", "worker"},
    "study": {
        *("_theory", "algorithms", "data", "federation", "files", "problems"),
        *("server", "simulation", "uplink", "wire", "worker", *PAGES),
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
import gdsec_jax.study.cli
print(*set(sys.modules) - before)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    package, command = (set(line.split()) for line in ran.stdout.splitlines())
    assert "gdsec_jax" in package
    assert "gdsec_jax.study.cli" in command
    assert not package & _banned()
    # Needed to say what is wrong with the command line.
    assert command & _banned() <= {"gdsec_jax.study", "rich", "tyro"}


def test_the_package_has_one_page_too():
    page = {name for name, value in vars(gdsec_jax).items() if not name.startswith("_")}
    modules = {name for name in page if inspect.ismodule(getattr(gdsec_jax, name))}
    assert set(TOPICS) - {"algorithms", "study.report"} <= set(gdsec_jax.__all__)
    assert page - modules == set(gdsec_jax.__all__) - modules


@pytest.mark.parametrize("topic", TOPICS)
def test_all_is_what_the_page_imports(topic):
    module = importlib.import_module(f"gdsec_jax.{topic}")
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
        for name, value in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(value):
                continue
            if ">>>" not in (inspect.getdoc(value) or ""):
                missing.append(f"{module.__name__}.{name}")
    assert missing == []


def test_every_module_says_what_it_is():
    for info in pkgutil.walk_packages(gdsec_jax.__path__, "gdsec_jax."):
        assert importlib.import_module(info.name).__doc__, info.name

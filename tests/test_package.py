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
from gdsec_jax.algorithms import _censored, _options
from gdsec_jax.worker import _censor, _memories

ROOT = Path(gdsec_jax.__file__).parent
TOPICS = ("algorithms", "data", "problems", "report", "wire", "worker")

# A user can take the algebra alone: what each part may import of the package, beside
# the shared helpers, which import nothing of it but each other.
HELPERS = {"_checks", "_devices", "_trees", "_files", "_shipped"}
MAY_IMPORT = {
    "worker": {"wire"},
    "wire": set(),
    "data": set(),
    "channel": set(),
    "robust": set(),
    "_attendance": set(),
    "_outliers": {"_attendance"},
    "_streams": set(),
    "_link": {
        *("_attendance", "_streams", "channel", "participation", "problems", "server"),
    },
    "_totals": {"_collective"},
    "participation": {"_attendance"},
    "_counting": {"_last_round", "_steps", "wire"},
    "_last_round": {"wire"},
    "_rounds": set(),
    "_control": {"_last_round"},
    "_adaptive": {"_control"},
    "_componentwise": set(),
    "_blocks": set(),
    "_steps": set(),
    "_devices": set(),
    "_collective": {"_devices"},
    "_columns": {"_blocks", "_componentwise", "_steps"},
    "_groups": {"_blocks", "_devices", "_steps"},
    "_round": {"_blocks", "_columns", "_devices", "_groups", "_steps", "worker"},
    "federation": {
        *("wire", "worker", "_collective", "_control", "_groups", "_last_round"),
        *("_rounds", "_steps", "_attendance", "_counting", "_outliers", "_totals"),
        *("_round", "participation", "server"),
    },
    "server": {"worker"},
    "_broadcast": {"wire", "worker", "_attendance", "_rounds"},
    "algorithms": {"wire", "worker", "server", "federation", "_control"},
    "theory": {"algorithms", "problems", "worker"},
    "_check_optimizer": {"_groups", "_last_round"},
    "problems": {"data"},
    "_netcdf": set(),
    "history": {"_netcdf"},
    "logs": set(),
    "_environment": set(),
    "_norms": {"federation", "worker"},
    "_loop": {
        *("_last_round", "_norms", "_broadcast", "_groups", "history", "problems"),
        *("_link", "_streams", "channel"),
    },
    "_mesh": {"_devices", "_last_round", "federation", "problems"},
    "_fingerprint": {"_loop", "problems"},
    "_orbax": set(),
    "_manifest": set(),
    "_checkpoint": {"_loop", "_manifest", "_orbax"},
    "_simulate": {
        *("_check_optimizer", "_checkpoint", "_environment", "_fingerprint", "_loop"),
        *("_mesh", "_norms", "history", "problems"),
        *("_attendance", "_link", "channel", "participation"),
    },
    "_sweep": {
        *("_check_optimizer", "_environment", "_loop", "_mesh", "_netcdf", "_norms"),
        *("_attendance", "_link", "channel", "problems"),
    },
    "report": {"algorithms", "history"},
    "config": {
        *("_adaptive", "_broadcast", "algorithms", "data", "problems", "theory"),
        *("channel", "participation", "robust", "wire", "worker"),
    },
    "tuning": {"_sweep", "config", "problems"},
    "experiment": {
        *(
            "_simulate",
            "_sweep",
            "config",
            "history",
            "problems",
            "report",
            "theory",
        ),
        *("tuning", "wire"),
    },
    "figures": {"_environment", "config", "data", "experiment", "report"},
    "benchmarks": {"_environment", "experiment"},
    "_distributed": set(),
    "_own_log": {"logs"},
    "cli": {
        *("algorithms", "benchmarks", "config", "data", "experiment", "figures"),
        *("_distributed", "_own_log", "logs"),
    },
}


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
import gdsec_jax.cli
print(*set(sys.modules) - before)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    package, command = (set(line.split()) for line in ran.stdout.splitlines())
    assert "gdsec_jax" in package
    assert "gdsec_jax.cli" in command
    assert not package & _banned()
    # Needed to say what is wrong with the command line.
    assert command & _banned() <= {"gdsec_jax.cli", "rich", "tyro"}


def test_the_package_has_one_page_too():
    page = {name for name, value in vars(gdsec_jax).items() if not name.startswith("_")}
    modules = {name for name in page if inspect.ismodule(getattr(gdsec_jax, name))}
    assert set(TOPICS) - {"algorithms", "report"} <= set(gdsec_jax.__all__)
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


def test_gdsec_is_small():
    """The whole of GD-SEC, by either server, takes under 60 lines of code.

    Counted are statements one a line, without docstrings, checks of input, and the
    matching of a tree of xi to the parameters'.
    """
    worker_side = (
        gdsec_jax.gdsec,
        _censored._censor,
        _options.share,
        _options.difference_memory,
        gdsec_jax.worker.censor,
        _censor._censor_leaf,
        gdsec_jax.worker.error_feedback,
        gdsec_jax.worker.gradient_difference,
        _memories._message,
    )
    for server in (gdsec_jax.server_memory, gdsec_jax.gradient_estimate):
        lines = 0
        for piece in (*worker_side, server):
            body = ast.parse(inspect.getsource(piece)).body[0]
            assert isinstance(body, ast.FunctionDef)
            code = ast.unparse(_Unchecked().visit(body)).splitlines()
            lines += sum(1 for line in code if line.strip())
        assert lines < 60, server.__name__


class _Unchecked(ast.NodeTransformer):
    """Leaves out docstrings, calls of `_checks`, and the branches that raise."""

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Constant):
            return None
        return None if ast.unparse(node).startswith("_checks.") else node

    def visit_If(self, node):
        raises = isinstance(node.body[0], ast.Raise) and not node.orelse
        return None if raises else self.generic_visit(node)


def test_every_module_says_what_it_is():
    for info in pkgutil.walk_packages(gdsec_jax.__path__, "gdsec_jax."):
        assert importlib.import_module(info.name).__doc__, info.name

"""Where every method gets to at the step of `theory`, and its page."""

import inspect
import re
from typing import Any, NamedTuple

import pytest
from cases import real_problem
from oracles import MATRICES, optimizer_of, perm_k, qsgd, random_k, reshaped, top_k

import gdsec_jax


class Row(NamedTuple):
    """Where a method gets to, with these arguments."""

    name: str
    arguments: dict[str, Any]
    near: float | None = None  # bound of its error over the initial one; None: 1e-10


# On ridge regression with lambda = 1, L / lambda = 11.5. Where a number is given, the
# relative error stays below it in the last 1,000 of 4,000 rounds, and never comes down
# to 1e-8; all others are at 1e-10 within 4,000.
CONVERGENCE = {
    "gd": Row("gd", {}),
    "gdsec": Row("gdsec", {"xi": 5.0, "beta": 0.1}),
    "gdsoec": Row("gdsoec", {"xi": 0.5, "beta": 0.1}),
    "qsgdsec": Row("qsgdsec", {"xi": 5.0, "beta": 0.02, "levels": 8}),
    "qsgdsec, no memory": Row("qsgdsec", {"xi": 5.0, "beta": 0.0, "levels": 8}, 1e-4),
    "cgd": Row("cgd", {"xi": 1.0}),
    "lag": Row("lag", {}),
    "laq": Row("laq", {}),
    "iag": Row("iag", {}),
    "top_j": Row("top_j", {"k": 6}, 1e-3),
    "sign_ef": Row("sign_ef", {}, 1e-3),
    "low_rank": Row("low_rank", {"rank": 1}, 5e-3),
    "power_sgd": Row("power_sgd", {"rank": 1}),
    "qgd": Row("qgd", {"levels": 8}, 1e-4),
    "natural": Row("natural", {}, 1e-4),
    "terngrad": Row("terngrad", {}, 2e-4),
    "rand_k": Row("rand_k", {"k": 16}, 1e-3),
    "rand_k, feedback": Row("rand_k", {"k": 16, "error_feedback": True}, 1e-2),
    "ef21": Row("ef21", {"k": 6}),
    "ef21_sgdm": Row("ef21_sgdm", {"k": 16, "eta": 0.3}),
    "diana": Row("diana", {"compressor": random_k(16)}),
    "diana, qsgd": Row("diana", {"compressor": qsgd(8)}),
    "marina": Row("marina", {"compressor": random_k(16)}),
    "clag": Row("clag", {"k": 16, "zeta": 2.0}),
    "ef_bv": Row("ef_bv", {"compressor": random_k(16)}),
    "ef_bv, top-k": Row("ef_bv", {"compressor": top_k(16)}),
    "threepc, v1": Row("threepc", {"k": 6, "variant": "v1"}),
    "threepc": Row("threepc", {"k": 16, "variant": "v2"}),
    "threepc, v4": Row("threepc", {"k": 6, "variant": "v4"}),
    "threepc, v5": Row("threepc", {"k": 16, "variant": "v5", "probability": 0.2}),
    "econtrol": Row("econtrol", {"k": 6}),
    "dasha": Row("dasha", {"compressor": random_k(16)}),
    "dasha, perm-k": Row("dasha", {"compressor": perm_k()}),
    "sign_majority": Row("sign_majority", {}, 1e-3),
    "demo": Row("demo", {"k": 4, "chunk": 16}, 1e-4),
    "ef21_p": Row("ef21_p", {"k": 32}),
    "ef21_muon": Row("ef21_muon", {"k": 16, "eta": 0.3}, 1e-2),
    "one_bit_adam": Row("one_bit_adam", {"warmup": 50}, 1e-5),
}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("row", CONVERGENCE.values(), ids=CONVERGENCE.keys())
def test_converges(row):
    problem, *_ = real_problem("digits", regularization=1.0)
    if row.name in MATRICES:
        problem = reshaped(problem, (8, 8))
    optimizer, _ = optimizer_of(row.name, row.arguments, problem)
    target = 1e-10 * float(problem.error(problem.init_params))
    run = gdsec_jax.simulate(problem, optimizer, 4000, stop=gdsec_jax.Stop(target))
    errors = run.objective_error / run.initial_error
    if row.near is None:
        assert run.outcome == "target"
    else:
        assert run.outcome == "completed"
        assert errors[-1000:].max() < row.near
        assert errors.min() > 1e-8


# Completeness: nothing joins the table without its row and its page.


def test_every_method_has_its_row():
    # Those whose workers train have modules of their own.
    ours = {name for name, each in gdsec_jax.METHODS.items() if not each.trains}
    assert {row.name for row in CONVERGENCE.values()} == ours


# Of papers before 2022: what all of them write alike.
USUAL = "gd cgd lag laq iag top_j sign_ef low_rank power_sgd qgd natural terngrad"
USUAL += " rand_k ef21 diana marina"


def test_every_later_method_says_where_its_formula_is_from():
    """A word in the table, and more in its docstring."""
    said = {x.name: x.formula for x in gdsec_jax.METHODS.values()}
    assert {name for name, x in said.items() if x == "usual"} == set(USUAL.split())
    words = {"public code": "public (code|baseline)", "memory": "from memory of"}
    words["descriptions"] = "descriptions of it"
    for name in said.keys() - set(USUAL.split()):
        page = inspect.getdoc(gdsec_jax.METHODS[name].factory) or ""
        sources = " ".join(page[page.index("References:") :].split())
        assert re.search(words[said[name]], sources), name


@pytest.mark.parametrize("name", gdsec_jax.METHODS)
def test_every_method_has_its_page(name):
    """In the order of all pages, with every argument, and where the method gets to."""
    factory = gdsec_jax.METHODS[name].factory
    page = inspect.getdoc(factory) or ""
    assert ":math:" in page or ".. math::" in page
    sections = ("Args:", "Returns:", "Raises:", "Examples:", "References:")
    places = [page.find(f"\n{section}\n") for section in sections]
    assert -1 not in places and places == sorted(places), places
    arguments, examples = page[places[0] : places[1]], page[places[3] : places[4]]
    assert ">>> " in examples and f"gdsec_jax.{name}(" in examples
    entries = re.findall(r"^  ([\w, ]+): ", arguments, flags=re.MULTILINE)
    described = [word for entry in entries for word in entry.split(", ")]
    assert sorted(described) == sorted(inspect.signature(factory).parameters)
    near = name in CONVERGENCE and CONVERGENCE[name].near is not None
    assert ("neighbourhood" in page) == near

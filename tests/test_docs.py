"""What the documentation shows runs, names everything, and can be read on a phone."""

import functools
import html.parser
import importlib.util
import inspect
import re
import tomllib
import urllib.parse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from inside import _uploads, coming_steps
from study.report import browser

import gdsec_jax
from gdsec_jax import wire
from gdsec_jax.study import config

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGE = (DOCS / "ADDING_A_METHOD.md").read_text("utf-8")
PAGES = sorted(path.stem for path in DOCS.glob("*.md"))
TUTORIALS = sorted(path.stem for path in DOCS.glob("tutorials/*_*.md"))
NOTEBOOKS = [f"tutorials/{name}" for name in TUTORIALS]
SITE = DOCS / "_build" / "html"


@pytest.fixture(scope="module")
def names():
    """What the blocks define, run one after the other."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    found: dict = {}
    for block in blocks:
        exec(compile(block, "ADDING_A_METHOD.md", "exec"), found)
    return found


def test_the_page_is_short():
    assert len(PAGE.splitlines()) < 60


def test_the_oracle_moved(names):
    assert np.abs(names["theta"]).max() > 0.01
    assert (
        names["row"].line == "Each entry to the nearest of -c, 0 and c, the rest kept."
    )


def test_the_method_learns(names):
    """Like gradient descent, for a fraction of its bits."""
    problem = names["problem"]
    step = optax.sgd(1 / problem.smoothness)
    ours, gd = (
        gdsec_jax.simulate(problem, optax.chain(algorithm, step), 500)
        for algorithm in (names["row"].factory(5, wire="golomb"), gdsec_jax.gd(5))
    )
    assert ours.objective_error[-1] < 1.1 * gd.objective_error[-1]
    assert ours.total_bits[-1] < 0.2 * gd.total_bits[-1]


def test_its_messages_become_the_bytes_that_are_counted(names):
    piece = names["nearest_of_three"]()
    rng = np.random.default_rng(0)
    v = {"w": jnp.float32(rng.standard_normal((4, 3))), "b": jnp.float32([0.5, -2.0])}
    update, state = piece.update(v, piece.init(v))
    message = wire.message_of(wire.flush(update), state)
    layout = _uploads.layout_of(v, "rle", message.code)
    bits = _uploads.count(update, layout).bits()
    encoded = wire.encode(message, "rle")
    assert 0 < len(encoded) == -(-int(bits) // 8)
    again = wire.decode(encoded, v, "rle", message.code)
    jax.tree.map(np.testing.assert_array_equal, again.values, message.values)


@pytest.mark.parametrize("path", re.findall(r"`([\w/]+(?:\.py|\.md|/))`", PAGE))
def test_the_places_exist(path):
    assert (ROOT / path).exists() or (ROOT / "gdsec_jax" / path).exists()


def test_its_options_are_named(names):
    """optax.inject_hyperparams and the configs look for them there."""
    parameters = inspect.signature(names["ternary_difference"]).parameters
    assert {"num_workers", "beta", "wire", "reduction", "weights"} <= set(parameters)


def test_the_architecture_names_what_there_is():
    """Every file that the page names, in the room of the lines around it."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    package = ROOT / "gdsec_jax"
    rooms = [ROOT, package, *(path for path in package.iterdir() if path.is_dir())]
    for name in re.findall(r"`([\w/]+\.py)`", page):
        assert any((room / name).is_file() for room in rooms), name


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


WITH_CODE = [
    name
    for name in sorted(set(PAGES) - {"ADDING_A_METHOD"})
    if re.search(r"^```(python|toml)", (DOCS / f"{name}.md").read_text("utf-8"), re.M)
]


def test_pages_have_code():
    assert {"index", "methods", "in_a_chain", "your_own_data"} <= set(WITH_CODE)


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs(name, tmp_path, monkeypatch):
    """In order, as a reader would paste it; configs are some."""
    monkeypatch.chdir(tmp_path)
    page = (DOCS / f"{name}.md").read_text("utf-8")
    names: dict = {}
    if name == "tpus" and importlib.util.find_spec("libtpu") is None:
        pytest.skip("no libtpu: pip install 'gdsec-jax[tpu-aot]'")
    if name == "flower" and importlib.util.find_spec("flwr") is None:
        pytest.skip("no Flower: pip install 'gdsec-jax[flower]'")
    if name == "privacy" and importlib.util.find_spec("dp_accounting") is None:
        pytest.skip("no accountant: pip install 'gdsec-jax[privacy]'")
    for block in blocks(page, "python"):
        exec(compile(block, f"{name}.md", "exec"), names)
    are_configs(page)


def test_the_tables_of_fields_are_the_schema():
    """And a reader of the repository sees them: nothing is made while it is built."""
    page = (DOCS / "config.md").read_text("utf-8")
    spec = importlib.util.spec_from_file_location("fields", DOCS / "fields.py")
    assert spec is not None and spec.loader is not None
    fields = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fields)
    assert fields.written(page) == page, "python docs/fields.py writes them"
    without = re.sub(r"\n\| `intercept.*", "", page)
    assert without != page == fields.written(without)
    shown = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    left_out = {"problem", "methods", "channel", "grid", "read"}
    left_out |= {"letter", "text", "by_name", "real"}  # of figures
    for model in (config.RunConfig, config.ProblemConfig, config.MethodConfig):
        assert set(model.model_fields) - left_out <= shown
    assert set(gdsec_jax.METHODS) <= shown
    assert (
        "| `gdsec` | `xi`, `beta = 0.01`, `floor`, `budget`, `coordinate_xi` |" in page
    )


def are_configs(page: str):
    for block in blocks(page, "toml"):
        values = tomllib.loads(block)
        for label, method in values.get("methods", {}).items():
            if ":" in method.get("name", ""):  # in a file of the reader's
                method |= {"name": "gdsec", "xi": 1.0}
            method.setdefault("name", "gdsec" if label != "top-j" else "top_j")
        assert config.validate(values, "the page").methods


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_configs_of_a_notebook_are_some(name):
    """Its cells run whenever the site is built."""
    are_configs((DOCS / f"{name}.md").read_text("utf-8"))


def test_tutorials_can_be_found_and_taken_along():
    assert len(TUTORIALS) == 11
    index = (DOCS / "tutorials" / "index.md").read_text("utf-8")
    for name in TUTORIALS:
        assert f"\n{name}\n" in index
        page = (DOCS / "tutorials" / f"{name}.md").read_text("utf-8")
        assert f"{{nb-download}}`{name}.ipynb`" in page


PUBLIC = [
    f"{module}.{name}" if module else name
    for module in ("", *(x for x in gdsec_jax.__all__ if x.islower()))
    if not module or inspect.ismodule(getattr(gdsec_jax, module))
    for name in importlib.import_module(f"gdsec_jax.{module}".rstrip(".")).__all__
]


def test_every_public_name_is_in_the_reference():
    """Of a module by `automodule`, whose members are its __all__; others by name."""
    assert len(PUBLIC) > 100
    reference = "\n".join(x.read_text("utf-8") for x in DOCS.glob("api/*.md"))
    for name in PUBLIC:
        module, _, own = name.rpartition(".")
        if module or inspect.ismodule(getattr(gdsec_jax, own)):
            assert f".. automodule:: gdsec_jax.{module or own}\n" in reference
        else:
            assert re.search(rf"^\.\. (py:)?\w+:: {own}$", reference, re.MULTILINE), own


def test_the_names_elsewhere_are_compositions():
    """Each makes a step of gradients, or of losses, that is not zero everywhere."""
    page = (DOCS / "names_elsewhere.md").read_text("utf-8")
    names: dict = {}
    exec(blocks(page, "python")[0], names)
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", page, re.MULTILINE)[2:]
    assert len(rows) >= 50
    params = {"w": jnp.zeros((8, 8))}
    grads = {"w": jnp.arange(320.0).reshape(5, 8, 8)}

    def loss(params, data, key):
        del key
        return jnp.mean((params["w"] - data) ** 2)

    losses = gdsec_jax.WorkerLosses(loss, grads["w"] / 320)
    for name, code in rows:
        made = eval(code.strip("`"), names)
        if isinstance(made, gdsec_jax.Uplink):
            assert made.participation(jax.random.key(0), 0).any()
            continue
        state = made.init(params)
        given = grads if coming_steps(state) is None else losses
        update = functools.partial(made.update, given)
        updates, state = jax.jit(update)(state, params)
        assert np.isfinite(updates["w"]).all() and updates["w"].any(), name
        assert updates["w"].shape == (8, 8), name
        sent = gdsec_jax.last_round(state)
        assert sent.bits[sent.participants].all(), name


def addresses(page: Path) -> tuple[set[str], set[str]]:
    """What a page of the site links to, and the places it has itself."""
    links, places = set(), set()

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            given = dict(attrs)
            places.update(filter(None, (given.get("id"),)))
            links.update(filter(None, (given.get("href"), given.get("src"))))

    Reader().feed(page.read_text("utf-8"))
    return links, places


needs_site = pytest.mark.skipif(not SITE.is_dir(), reason="no site: make docs")


@needs_site
@pytest.mark.slow
def test_the_links_of_the_site_lead_somewhere():
    """To a file of the site and a place on it; what is elsewhere is not asked."""
    pages = {page: addresses(page) for page in SITE.rglob("*.html")}
    assert len(pages) > 30
    for page, (links, _) in pages.items():
        if "_modules" in page.parts:  # back to names that another page may have
            continue
        for link in links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = page
            if parts.path:
                target = (page.parent / urllib.parse.unquote(parts.path)).resolve()
            assert target.exists(), f"{page}: {link}"
            if parts.fragment and target in pages:
                place = urllib.parse.unquote(parts.fragment)
                assert place in pages[target][1], f"{page}: {link}"


@needs_site
@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason="no Chromium: make browser")
def test_the_site_can_be_read_at_a_desk_and_on_a_phone():
    """No error, nothing too wide, formulas drawn, and nothing loaded from elsewhere."""
    pages = [path.relative_to(SITE) for path in SITE.rglob("*.html")]
    pages = [str(page) for page in pages if page.parts[0] != "_modules"]
    visits = [(page, width) for page in sorted(pages) for width in (1280, 390)]
    found = browser.tour(SITE, visits, patience=800)
    for visit, verdict in zip(visits, found, strict=True):
        assert not verdict.errors, visit
        assert not verdict.broken, visit
        assert verdict.needed <= verdict.width, visit
        assert verdict.formulas[0] == verdict.formulas[1], visit
    assert sum(verdict.formulas[1] for verdict in found) > 50


@needs_site
@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason="no Chromium: make browser")
def test_the_search_finds_error_feedback():
    words = "search.html?q=error+feedback"
    (verdict,) = browser.tour(SITE, [(words, 1280)], patience=4000)
    assert "gdsec_jax.worker.error_feedback" in verdict.text

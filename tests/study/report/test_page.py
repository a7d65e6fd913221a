"""A page of results: what stands in it, and that a phone's browser can show it."""

import base64
import html.parser
import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import made_history, slow_but
from study.report import browser

from gdsec_jax.algorithms import METHODS
from gdsec_jax.study import report

NASTY = "<script>alert(1)</script> & \"quotes\" 'single'"
needs_browser = pytest.mark.skipif(
    browser.find() is None, reason="no Chromium: apt-get install chromium"
)


def course(rate=0.01, rounds=50, outcome="completed", **attributes):
    errors = 10 * np.exp(-rate * np.arange(1, rounds + 1))
    return made_history([320] * rounds, errors, outcome, **attributes)


def curves(number=3):
    methods = {f"label of {name}": name for name in list(METHODS)[:number]}
    courses = {label: course(0.01 * len(label)) for label in methods}
    return report.convergence_panels(courses, methods, wire="rle", target=0.5)


def line(axes):
    axes.plot([1, 2], label="up")


def heat(axes):
    axes.pcolormesh(np.random.default_rng(0).random((60, 60)))
    axes.set_xlabel("coordinate")


def section(name="first", **changes) -> report.Section:
    costs = {"method": ["GD", "GD-SEC"], "Mbit": ["1.5", None], "vs GD": ["100 %", "-"]}
    values = {
        "name": name,
        "title": f"The title of {name}",
        "text": "What is shown.",
        "panels": (line,),
        "table": pd.DataFrame(costs),
        "data": pd.DataFrame({"x": [1, 2], "y": [0.5, 1 / 3]}),
        "claims": (
            report.Claim("Fewer bits.", True, "12 %"),
            report.Claim("Fewer rounds.", False, "17 % more"),
            report.Claim("For a million workers.", None, "not run"),
        ),
        "chosen": pd.DataFrame({"parameter": ["xi"], "how": ["by the paper"]}),
        "command": "gdsec run one.toml",
        "config": {"seed": 3, "steps": np.array([0.5])},
        "seconds": 61.25,
    }
    return report.Section(**values | changes)


def written(tmp_path, *sections, **changes) -> str:
    options = {"title": "All results", "command": "make report"}
    options |= {"environment": {"jax": "0.10.2"}}
    path = tmp_path / "index.html"
    report.page(sections or [section()], path, **options | changes)
    return path.read_text("utf-8")


class Reader(html.parser.HTMLParser):
    """Elements and text of a page; fails where elements are not nested."""

    EMPTY = ("meta", "link", "img", "source", "br")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def svg(uri: str) -> ET.Element:
    kind, _, code = uri.partition(";base64,")
    assert kind == "data:image/svg+xml"
    return ET.fromstring(base64.b64decode(code))


# Figures


def test_panels_stand_side_by_side_or_one_below_the_other():
    for number, rows, columns in ((1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 2)):
        panels = (curves() + curves())[:number]
        wide = report.compose(section(panels=panels))
        narrow = report.compose(section(panels=panels), narrow=True)
        assert wide.get_figwidth() == pytest.approx(4.6 * columns)
        assert narrow.get_figwidth() == pytest.approx(4.1)
        assert len(wide.axes) == len(narrow.axes) == number
        assert wide.get_figheight() >= 3.7 * rows
        assert narrow.get_figheight() >= 3.4 * number


@pytest.mark.parametrize("narrow", [False, True])
def test_all_text_can_be_read_on_a_phone(narrow):
    figure = report.compose(section(panels=(*curves(12), heat)), narrow=narrow)
    figure.draw_without_rendering()
    texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
    sizes = [text.get_fontsize() for text in texts if text.get_text()]
    assert len(sizes) > 20 and min(sizes) >= 9.5


@pytest.mark.parametrize("narrow", [False, True])
def test_nothing_sticks_out_of_the_figure(narrow):
    """Nor does a legend of all methods or a long label."""

    def long(axes):
        axes.plot([1, 2], label="a label " * 20)
        axes.set_xlabel("an axis " * 10)
        axes.set_title("a title " * 10)

    chosen = section(panels=(*curves(len(METHODS)), long), title="words " * 50)
    figure = report.compose(chosen, narrow=narrow, titled=True)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert box.x0 >= -0.05 and box.y0 >= -0.05
    assert box.x1 <= width + 0.05 and box.y1 <= height + 0.05
    for axes in figure.axes:  # the legend takes no room from the panels
        assert axes.get_window_extent().height / figure.dpi > 2


def test_one_legend_has_every_label_once():
    def own(axes):
        axes.plot([1, 2], label="label of gd")
        axes.plot([2, 1], label="mine")
        axes.legend()

    figure = report.compose(section(panels=(*curves(2), own)))
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["label of gd", "label of gdsec", "mine"]
    assert all(axes.get_legend() is None for axes in figure.axes)


def test_a_caption_stands_below_all_else_and_takes_no_room_from_panels():
    words = "Ridge on digits, 5 workers, shuffled split. Bits: run lengths. " * 3
    figures = [
        report.compose(section(panels=curves(), caption=caption), titled=True)
        for caption in (words, "")
    ]
    for figure in figures:
        figure.draw_without_rendering()
    captioned, bare = figures
    (caption,) = [x for x in captioned.texts if x.get_text().startswith("Ridge")]
    assert caption.get_text().count("\n") >= 1
    box = caption.get_window_extent()
    (legend,) = captioned.legends
    assert box.y0 >= 0 and box.y1 <= legend.get_window_extent().y0 + 2
    assert box.x0 >= 0 and box.x1 <= captioned.bbox.width
    for with_it, without in zip(captioned.axes, bare.axes, strict=True):
        heights = [x.get_window_extent().height for x in (with_it, without)]
        assert heights[0] == pytest.approx(heights[1], abs=4)
    untitled = report.compose(section(caption=words))
    assert not any(text.get_text().startswith("Ridge") for text in untitled.texts)


def test_every_name_on_an_axis_has_a_line_of_its_own():
    def names(axes):
        axes.plot(range(30))
        axes.set_yticks(range(30), [f"name {number}" for number in range(30)])

    figure = report.compose(section(panels=(names, line)))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    for lower, upper in itertools.pairwise(boxes):
        assert lower.y1 <= upper.y0


def test_only_files_have_a_title_and_only_labels_a_legend():
    assert report.compose(section(panels=(heat,))).legends == []
    assert report.compose(section()).get_suptitle() == ""
    titled = report.compose(section(), titled=True)
    assert titled.get_suptitle() == "The title of first"


def test_a_method_looks_the_same_everywhere():
    own = ("mine:one", "mine:other")
    methods = {name: name for name in (*METHODS, *own)}
    looks = report.line_styles(methods | {"again": "gdsec", "thrice": own[0]})
    kinds = {(x["color"], x["linestyle"], x.get("marker")) for x in looks.values()}
    assert len(kinds) == len(looks)
    for name in METHODS:
        assert looks[name] == report.line_style(name) | {"label": name}
    assert looks["again"]["color"] == looks["gdsec"]["color"]
    assert looks["again"]["linestyle"] != looks["gdsec"]["linestyle"]
    assert looks["again"]["marker"] == "o"
    blue = report.line_style("gdsec")["color"]
    others = [looks[name]["color"] for name in looks if name not in ("gdsec", "again")]
    assert blue == "#0072B2" and blue not in others
    figure = report.compose(section(panels=curves(4)))
    name = list(METHODS)[3]
    assert figure.axes[1].lines[3].get_color() == looks[name]["color"]


def test_an_unknown_method_and_no_history_are_errors():
    with pytest.raises(ValueError, match="method is 'sdm', expected one of gd, gdsec"):
        report.line_style("sdm")
    with pytest.raises(ValueError, match=r"histories is \{\}, expected at least one"):
        report.convergence_panels({}, {}, wire="rle")


def test_long_and_dense_drawings_stay_small(tmp_path):
    def noise(axes):
        axes.plot(np.random.default_rng(0).random(8000))

    report.save(section(panels=(noise, heat)), tmp_path)
    assert (tmp_path / "first.svg").stat().st_size < 200_000
    assert b"<image" in (tmp_path / "first.svg").read_bytes()


# Files


def test_the_files_of_a_section(tmp_path):
    paths = report.save(section(), tmp_path / "new")
    ends = (".png", ".pdf", ".svg", "-narrow.svg", ".csv")
    assert [path.name for path in paths] == [f"first{end}" for end in ends]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    png, pdf, drawing, narrow, csv = paths
    assert png.read_bytes().startswith(b"\x89PNG\r\n")
    assert pdf.read_bytes().startswith(b"%PDF")
    for picture in (drawing, narrow):
        assert ET.parse(picture).getroot().tag.endswith("svg")
    pd.testing.assert_frame_equal(pd.read_csv(csv), section().data, check_exact=True)
    before = [path.read_bytes() for path in paths]
    report.save(section(), tmp_path / "new")
    assert [path.read_bytes() for path in paths] == before


def test_a_panel_that_fails_leaves_what_stood_there(tmp_path):
    def fails(axes):
        raise RuntimeError("no panel")

    written(tmp_path)
    before = (tmp_path / "index.html").read_bytes()
    with pytest.raises(RuntimeError, match="no panel"):
        report.save(section(panels=(fails,)), tmp_path)
    with pytest.raises(RuntimeError, match="no panel"):
        written(tmp_path, section(panels=(fails,)))
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_bytes() == before


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", 'a"b', "ü"])
def test_a_name_is_one_for_files(name, tmp_path):
    match = "section.name is .*, expected letters, digits"
    with pytest.raises(ValueError, match=match):
        report.save(section(name), tmp_path)
    with pytest.raises(ValueError, match=match):
        written(tmp_path, section(name))
    assert list(tmp_path.iterdir()) == []


def test_bad_sections_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"section.panels of first is \(\), expected"):
        written(tmp_path, section(panels=()))
    with pytest.raises(ValueError, match=r"\['a', 'a'\], expected different ones"):
        written(tmp_path, section("a"), section("a"))
    with pytest.raises(ValueError, match="section.config of first is .* JSON can hold"):
        written(tmp_path, section(config={"a": object()}))
    with pytest.raises(ValueError, match=r"sections is \[\], expected at least one"):
        report.page([], tmp_path / "a.html", title="", environment={}, command="")
    assert list(tmp_path.iterdir()) == []


# The page


def test_a_page_holds_everything(tmp_path):
    bare = {"table": None, "chosen": None, "claims": (), "seconds": 7200}
    second = section("second", panels=(heat,), **bare)
    text = written(tmp_path, section(), second, notes=["Embedded data instead."])
    assert text.startswith("<!DOCTYPE html>")
    read = Reader(text)
    assert read.all("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in read.all("meta"))
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [link["href"] for link in read.all("a")]
    within = [link for link in links if link.startswith("#")]
    assert within == ["#section-first", "#section-second", "#environment"]
    assert {link[1:] for link in within} <= set(ids)
    files = [f"{x}.{end}" for x in ("first", "second") for end in ("pdf", "png", "csv")]
    assert [link for link in links if link not in within] == files
    for expected in (
        "Please note Embedded data instead.",
        "The title of first What is shown.",
        "1 of 3 claims hold; ✗ 1 our data do not show",
        "✓ Holds: Fewer bits. Measured: 12 %",
        "✗ Does not hold, our data do not show this: Fewer rounds. Measured: 17 % more",
        "? Our data cannot tell: For a million workers. Measured: not run",
        "method Mbit vs GD GD 1.5 100 % GD-SEC - -",
        "How the parameters were chosen parameter how xi by the paper",
        "gdsec run one.toml",
        '"seed": 3, "steps": [ 0.5 ]',
        "It took 61.2 s.",
        "It took 2 h 0 min.",
        "All sections together took 2 h 1 min.",
        "make report",
        "jax 0.10.2",
    ):
        assert expected in read.text, expected
    assert len(read.all("details")) == 2
    assert read.text.count("How the parameters were chosen") == 1


def test_every_figure_is_there_wide_and_narrow(tmp_path):
    three = section("second", panels=(*curves(), heat))
    read = Reader(written(tmp_path, section(panels=curves()), three))
    wide, narrow = read.all("img"), read.all("source")
    words = [f"The title of {x}: What is shown." for x in ("first", "second")]
    assert [image["alt"] for image in wide] == words
    assert narrow[0]["media"] == "(max-width: 720px)"
    sizes = []
    for image, source in zip(wide, narrow, strict=True):
        for uri, attributes in ((image["src"], image), (source["srcset"], source)):
            drawing = svg(uri)
            assert drawing.tag.endswith("svg")
            points = float(drawing.attrib["width"].removesuffix("pt"))
            assert int(attributes["width"]) == pytest.approx(points * 96 / 72, abs=1)
            sizes.append(int(attributes["width"]))
    assert sizes == [883, 394, 1325, 394]


def test_who_has_not_read_the_papers_is_told_what_they_need(tmp_path):
    paper = {"GD-SEC, SGD-SEC": "https://example.org/a?b=1&c"}
    shown = section(caption="Ridge on digits, 5 workers. Bits: run lengths.")
    text = written(tmp_path, shown, introduction=["It is so."], papers=paper)
    read = Reader(text)
    assert read.text.index("It is so.") < read.text.index("Contents")
    links = [link["href"] for link in read.all("a")]
    assert links[0] == paper["GD-SEC, SGD-SEC"]
    assert "Papers: GD-SEC, SGD-SEC ." in read.text
    assert len(read.all("figcaption")) == 1
    assert "Ridge on digits, 5 workers. Bits: run lengths." in read.text
    assert "Papers:" not in Reader(written(tmp_path)).text


def test_everything_is_escaped(tmp_path):
    frame = pd.DataFrame({NASTY: [NASTY]})
    words = {"title": NASTY, "command": NASTY}
    fields = {"text": NASTY, "table": frame, "chosen": frame, "config": {NASTY: NASTY}}
    nasty = section(claims=(report.Claim(NASTY, True, NASTY),), **fields, **words)
    around = {"environment": {NASTY: NASTY}, "notes": [NASTY], **words}
    text = written(tmp_path, nasty, section("second"), **around)
    assert "<script" not in text
    read = Reader(text)
    assert read.all("script") == []
    # In the title twice, note, contents, heading, text, two tables' head and cell,
    # claim, measured, two commands, environment's both; the config's quotes are JSON's.
    assert read.text.count(NASTY) == 16
    assert read.all("img")[0]["alt"] == f"{NASTY}: {NASTY}"


def test_nothing_comes_from_elsewhere(tmp_path):
    text = written(tmp_path, section(text="See https://example.org."))
    for tag, attributes in Reader(text).elements:
        for name in ("src", "srcset", "href", "data", "poster", "action"):
            value = attributes.get(name, "data:")
            own = value.startswith("data:") or ":" not in value
            assert own and not value.startswith("//"), (tag, value)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    policy = [meta.get("content") for meta in Reader(text).all("meta")]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy


def test_columns_of_numbers_are_aligned_as_such(tmp_path):
    shown = {
        "method": ["2-bit", "a", "b"],
        "rounds": ["1,409", "never", "> 12"],
        "share": ["45.2 %", "-1e-09", "-"],
        "how": ["1/L, of the largest eigenvalue", "b", "c"],
        "number": [1.5, np.nan, 3],
    }
    frame = pd.DataFrame(shown)
    twice = pd.DataFrame([], columns=["vs GD", "vs GD"])
    text = written(tmp_path, section(table=frame, chosen=twice))
    columns = [c for c in Reader(text).all("th") if c.get("scope") == "col"]
    kinds = [column["class"] for column in columns]
    assert kinds[:5] == ["short", "number", "number", "long", "number"]
    assert Reader(text).text.count("vs GD vs GD") == 1  # no rows, and one name twice


# The browser


@needs_browser
@pytest.mark.parametrize("width", slow_but([390], [390, 1200]))
def test_a_browser_finds_nothing_wrong(width, tmp_path):
    names = [f"column {number}" for number in range(30)]
    wide = pd.DataFrame([["a long cell"] * 30], columns=names)
    words = {"title": "Word" * 60, "command": "gdsec " + "x" * 300}
    panels = (*curves(len(METHODS)), heat)
    fields = {"table": wide, "panels": panels, "config": {"key" * 90: 1}}
    long = section("second", **words, **fields)
    written(tmp_path, section(panels=curves()), long)
    verdict = browser.probe(tmp_path / "index.html", width)
    assert verdict.errors == verdict.broken == verdict.asked == []
    assert verdict.width == width
    assert verdict.needed <= verdict.width
    assert verdict.images == ([394, 394] if width == 390 else [883, 1325])


@needs_browser
def test_a_table_that_goes_on_has_a_shade_at_its_side(tmp_path):
    """Of a phone: darker where a table is wider than the page, and nowhere else."""
    shaded = []
    for columns in (2, 12):
        names = [f"column {number}" for number in range(columns)]
        rows = pd.DataFrame([["a cell"] * columns] * 12, columns=names)
        written(tmp_path, section(table=rows, chosen=None, claims=()))
        picture = browser.picture(tmp_path / "index.html", 390, 1600)
        edge = picture[:, 390 - 16, :3].max(axis=1)  # inside of the page's margin
        dark = edge < 240
        runs = [sum(run) for value, run in itertools.groupby(dark, bool) if value]
        shaded.append(max(runs, default=0))
    assert shaded[0] < 100 < 250 < shaded[1]  # rows of pixels; code blocks are grey


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_finds_nothing_wrong_with_the_page_of_figures(width):
    page = Path(__file__).parents[3] / "results" / "index.html"
    if not page.is_file():
        pytest.skip("results/index.html is missing: make figures")
    verdict = browser.probe(page, width)
    assert verdict.errors == verdict.broken == verdict.asked == []
    assert verdict.needed <= verdict.width == width
    assert min(verdict.images) > 300


@needs_browser
def test_the_probe_hears_of_what_is_wrong(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><html><head></head><body>"
        '<img src="missing.png" alt="no such file">'
        '<img src="data:image/png;base64,AAAA" alt="no image">'
        '<div style="width: 2000px">wide</div>'
        '<script>throw new Error("on purpose")</script>'
        '<script>Promise.reject("not kept")</script>'
        "</body></html>",
        "utf-8",
    )
    verdict = browser.probe(page, 390)
    assert verdict.broken == ["no such file", "no image"]
    assert verdict.needed >= 2000 > verdict.width == 390
    assert verdict.asked == ["/missing.png"]
    for expected in ("on purpose", "not kept", "IMG did not load"):
        assert any(expected in error for error in verdict.errors)


@needs_browser
def test_the_page_lets_no_script_run(tmp_path):
    text = written(tmp_path).replace("</body>", "<script>ran()</script></body>")
    page = tmp_path / "index.html"
    page.write_text(text, "utf-8")
    assert any("script-src" in error for error in browser.probe(page, 390).errors)


def test_saved_pictures_are_those_of_the_page(tmp_path):
    options = {"title": "A page", "environment": {}, "command": "make figures"}
    report.page([section()], tmp_path / "drawn.html", **options)
    with pytest.raises(FileNotFoundError):
        report.page([section()], tmp_path / "early.html", **options, saved=True)
    report.save(section(), tmp_path)
    report.page([section()], tmp_path / "saved.html", **options, saved=True)
    drawn, saved = (tmp_path / f"{x}.html" for x in ("drawn", "saved"))
    assert saved.read_bytes() == drawn.read_bytes()
    assert not (tmp_path / "early.html").exists()

"""How the site is built: `make docs`, where every warning is an error."""

import importlib.metadata
import inspect
import re

_MATHJAX = importlib.metadata.distribution("sphinx-mathjax-offline")

project = "gdsec_jax"
author = "The gdsec_jax authors"
copyright = "2026, the gdsec_jax authors"
release = version = importlib.metadata.version("gdsec-jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build", "figures"]
html_theme = "furo"
html_title = "gdsec_jax"
# Formulas are drawn by a copy that the site has, so that nothing is loaded from
# elsewhere. Of that package the files alone: as an extension it forbids `-j`.
html_static_path = [
    "_static",
    str(_MATHJAX.locate_file("sphinx-mathjax-offline/static")),
]
html_css_files = ["site.css"]
mathjax_path = "mathjax/tex-chtml.js"

# Tutorials run while the site is built; a cell that fails ends the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_execution_in_temp = True  # what they write is not kept
nb_render_markdown_format = "myst"
nb_merge_streams = True

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # docstrings say names in single backquotes
autodoc_typehints = "none"  # they are in the source, which [source] shows
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def _fields(kind) -> list[str]:
    """What the comments beside a NamedTuple's fields say of them."""
    source = inspect.getsource(kind)
    found = re.findall(r"^    (\w+): [^#\n]+  # (.+)$", source, re.MULTILINE)
    return ["", *(f":ivar {name}: {text}" for name, text in found), ""]


def _docstring(app, what, name, obj, options, lines) -> None:
    """Shapes are no emphasis; fields are shown with their comments."""
    fields = what == "class" and hasattr(obj, "_fields")
    if fields and not any(":ivar" in line for line in lines):
        lines.extend(_fields(obj))
    lines[:] = [re.sub(r"(?<!`)\[[^\[\]`]*\*param\]", r"``\g<0>``", x) for x in lines]


def _skip(app, what, name, obj, skip, options):
    """The class lists a NamedTuple's fields."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-skip-member", _skip)

"""How Sphinx builds these pages: `nox -s docs`, into build/docs. `_site` has what it does beside Sphinx's own."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for docs._site, and for a rabbitry that is not installed
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

project = "rabbitry"
release = version = PYPROJECT["project"]["version"]
copyright = "the authors of rabbitry"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "docs._site.extension",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["conf.py", "_site"]
nitpicky = True  # what is named must be there; see the names of other projects in _site/inventories
nitpick_ignore_regex = [
    ("py:.*", r"(opentelemetry|prometheus_client|taskiq)\..*"),
    ("py:class", r"rabbitry\..*\.T"),  # a type variable
    ("py:.*", r"rabbitry\.protocol\..*"),  # provisional, and not in the reference
]
myst_heading_anchors = 3  # so that a page can link to a heading of another

# the names of these projects that are referred to, as their sites need not be reached to build this one
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "_site/inventories/python.txt"),
    "anyio": ("https://anyio.readthedocs.io/en/stable/", "_site/inventories/anyio.txt"),
    "trio": ("https://trio.readthedocs.io/en/stable/", "_site/inventories/trio.txt"),
}

autodoc_typehints_format = "short"
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

smartquotes = False  # "wait" is a value

html_theme = "furo"
html_title = f"rabbitry {release}"
html_static_path = ["_site/static"]
html_css_files = ["pages.css"]
html_copy_source = True  # llms.txt leads to the sources
copybutton_exclude = ".linenos, .gp"

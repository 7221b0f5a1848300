"""How Sphinx builds these pages: `python -m sphinx docs build/docs`, with furo and myst-parser installed."""

import tomllib
from pathlib import Path

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))

project = "rabbitry"
release = version = PYPROJECT["project"]["version"]

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["recipes/others"]
myst_heading_anchors = 3  # so that a page can link to a heading of another

html_theme = "furo"
html_title = "rabbitry"

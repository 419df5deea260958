"""Settings of the documentation: `sphinx-build -W docs build/docs` builds it."""

from importlib.metadata import version as installed
from typing import Any

project = "llm-analysis"
release = version = installed("llm-analysis")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["conf.py"]

html_theme = "furo"
html_title = f"llm-analysis {release}"
html_show_copyright = False

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
autodoc_typehints = "none"
# Docstrings put code into single backquotes.
default_role = "code"


def skip_member(app: Any, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Return True for the fields of named tuples: Python documents them only by number."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def setup(app: Any) -> None:
    """Register the filter with Sphinx."""
    app.connect("autodoc-skip-member", skip_member)

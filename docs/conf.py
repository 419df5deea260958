"""Settings of the documentation: `sphinx-build -W docs build/docs` builds it."""

from importlib.metadata import version as installed

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

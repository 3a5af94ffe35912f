"""Sphinx settings: Markdown by MyST, the Python API from docstrings, no assets from the network."""

import songcast

project = "songcast"
author = "the songcast authors"
copyright = "the songcast authors, MIT licence"
release = version = songcast.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page may start a section at any level

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
add_module_names = False
# Type aliases would be shown as the long unions that NumPy makes of them.
autodoc_type_aliases = {"Samples": "Samples", "Floats": "Floats"}

html_theme = "furo"
html_title = f"songcast {release}"
html_show_sphinx = False
html_copy_source = False

"""The configuration of Sphinx; `make docs` builds the pages and `make docs-check` checks their links and spelling."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import metadata
from pathlib import Path

EXTENSIONS = str(Path(__file__).parent / "_ext")
sys.path.insert(0, EXTENSIONS)
os.environ["PYTHONPATH"] = os.pathsep.join([EXTENSIONS, os.environ.get("PYTHONPATH", "")])  # of the cells of pages
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # with the command skxlmr
os.environ["TQDM_DISABLE"] = "1"

project = "skxlmr"
copyright = "the skxlmr developers"
about = metadata("skxlmr")
release = about["Version"]
urls = dict(line.split(", ", 1) for line in about.get_all("Project-URL") or [])  # of pyproject.toml
version = ".".join(release.split(".")[:2])

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "inventories",
]
exclude_patterns = [
    "_build",
    "_templates",
    "gallery",
    "**/README.md",
    "examples/*.ipynb",
    "**/sg_execution_times.rst",
    "sg_execution_times.rst",
]
default_role = "code"
smartquotes = False

# Pages are Markdown. Their code cells run while the pages are built, and an error in one of them ends the build.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb"}  # the first is that of generated pages
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parent / "_build" / "executed")
nb_execution_in_temp = True  # what cells write is removed
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
suppress_warnings = ["mystnb.unknown_mime_type"]

intersphinx_mapping: dict = {}  # _ext/inventories.py fills it
autosummary_generate = True
autodoc_typehints = "none"  # the sections of numpydoc have the types
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": ["gallery"],
    "gallery_dirs": ["examples"],
    "filename_pattern": r"plot_",
    "abort_on_example_error": True,
    "backreferences_dir": "reference/backreferences",
    "doc_module": ("skxlmr",),
    "download_all_examples": False,
    "remove_config_comments": True,
    "plot_gallery": True,
    "matplotlib_animations": False,
    "show_memory": False,
}
warnings.filterwarnings("ignore", message="Matplotlib is currently using agg")

templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "skxlmr"
html_static_path = ["_static"]
html_css_files = ["skxlmr.css"]
html_baseurl = urls.get("Documentation", "")
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "icon_links": [
        {"name": name, "url": urls[name], "icon": icon}
        for name, icon in (("Repository", "fa-solid fa-code"), ("Issues", "fa-solid fa-bug"))
        if name in urls
    ],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

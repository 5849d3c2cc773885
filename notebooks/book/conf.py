"""How Sphinx makes the book; `make.py` collects the pages and calls it."""

import os
import re

from latex2mathml.converter import convert
from myst_nb.core.render import NbElementRenderer

import hmq_lab

project = "hmq_lab"
author = "The hmq_lab authors"
copyright = "the hmq_lab authors, MIT licence"
version = release = hmq_lab.__version__
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["**/.ipynb_checkpoints", "docs/figures/**"]
templates_path: list[str] = []
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_use_index = False
html_domain_indices = False
html_copy_source = False
html_show_sourcelink = False

# The lessons are shown as they were run.
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = True
suppress_warnings = ["myst.xref_missing", "ref.python", "mystnb.unknown_mime_type", "myst.header"]

# The reference: what a docstring says, in the order of the file.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
add_module_names = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
toc_object_entries = False
python_use_unqualified_type_names = True

html_theme = "sphinx_book_theme"
html_title = "hmq_lab"
html_theme_options = {
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "search_as_you_type": True,
}

# The addresses of the repository are known only where the book is published.
REPOSITORY = os.environ.get("HMQ_LAB_REPOSITORY")
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": "main",
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        },
    }


def with_alternative_text(render):
    """Keep the sentence that a figure of a lesson carries: MyST-NB drops it."""

    def render_image(self, data):
        elements = render(self, data)
        sentence = data.output_metadata.get(data.mime_type, {}).get("alt")
        for element in elements:
            if sentence and element.tagname == "image":
                element["alt"] = sentence
        return elements

    return render_image


def as_plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with code in backticks: a star, a bar or a last underscore in them
    is no markup.
    """
    in_example = in_code = False
    for number, line in enumerate(lines):
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        if in_example:
            continue
        if not line.strip():
            in_code = False
        parts = line.split("`")
        for at, part in enumerate(parts):
            if not in_code:
                parts[at] = re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part)
            # A backtick ends this part, unless it is the last one of its line.
            in_code = in_code != (at < len(parts) - 1)
        lines[number] = "`".join(parts)


def not_ours(app, what, name, obj, skip, options):
    """Leave out of the reference what a class has from matplotlib or torch."""
    module = getattr(obj, "__module__", None) or ""
    foreign = callable(obj) and not module.startswith("hmq_lab")
    return True if skip or foreign else None


def inline_formula(translator, node):
    """Write a formula as MathML, which browsers draw without a script or a network."""
    from docutils.nodes import SkipNode

    translator.body.append(convert(node.astext().strip()))
    raise SkipNode


def block_formula(translator, node):
    from docutils.nodes import SkipNode

    formula = convert(node.astext().strip(), display="block")
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise SkipNode


def setup(app):
    NbElementRenderer.render_image = with_alternative_text(NbElementRenderer.render_image)
    app.connect("autodoc-process-docstring", as_plain_text, priority=100)
    app.connect("autodoc-skip-member", not_ours)
    app.add_html_math_renderer("mathml", (inline_formula, None), (block_formula, None))


html_math_renderer = "mathml"

"""How do the notebook and the Markdown files look on GitHub, as nearly as can be told here?

    page = read_page(path)              # .markdown, .html; also of a notebook
    github_page(page.html, folder)      # the same as a whole page in GitHub's style, for a person
    to look at check_outputs(notebook)             # an executed notebook that GitHub will show

Notebooks go through nbconvert's basic template, which needs no script, as on GitHub. Markdown goes
through CommonMark with GitHub's tables and struck words.
"""

import base64
import io
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin
from nbconvert import HTMLExporter
from PIL import Image

SCREEN = 1000  # pixels, about the height of one
SHOWN = {
    "text/plain",
    "text/markdown",
    "text/html",
    "text/latex",
    "image/png",
    "image/jpeg",
    "image/svg+xml",
}
LOCAL = re.compile(
    r"(?<![\w.])/(root|home|work|tmp|Users|private)/|[A-Z]:\\\\|file://|localhost|127\.0\.0\.1"
)
STYLE = """
body { margin: 0; background: white; color: #1f2328; font: 16px/1.5 "Liberation Sans", Helvetica, Arial, sans-serif }
main { box-sizing: border-box; max-width: 1012px; margin: auto; padding: 32px }
pre, code { font: 13.6px/1.45 "Liberation Mono", monospace; background: #f6f8fa; border-radius: 6px }
pre { padding: 16px; overflow: auto } code { padding: .2em .4em } pre code { padding: 0 }
.output pre { background: white; padding: 0 } .prompt, .anchor-link { display: none }
h1, h2 { padding-bottom: .3em; border-bottom: 1px solid #d1d9e0 } a { color: #0969da; text-decoration: none }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse }
th, td { padding: 6px 13px; border: 1px solid #d1d9e0 } tr:nth-child(2n) { background: #f6f8fa }
img { max-width: 100% }
"""


@dataclass
class Page:
    """A file as GitHub has it (its Markdown alone) and as it shows it."""

    path: Path
    markdown: str
    html: str

    @cached_property
    def soup(self):
        return BeautifulSoup(self.html, "html.parser")


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def markdown_html(text):
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return parser.use(anchors_plugin, max_level=6, slug_func=slug).render(text)


def read_page(path):
    """A notebook or a Markdown file, rendered."""
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
        return Page(path, text, markdown_html(text))
    notebook = nbformat.read(path, as_version=4)
    texts = []
    for cell in notebook.cells:
        texts += [cell.source] if cell.cell_type == "markdown" else []
        texts += [
            o.data["text/markdown"]
            for o in cell.get("outputs", [])
            if "text/markdown" in o.get("data", {})
        ]
    html, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    return Page(path, "\n\n".join(texts), html)


def github_page(html, folder):
    """`html` as a whole page in GitHub's style, its images found in `folder`."""
    head = f'<meta charset="utf-8"><base href="{folder.as_uri()}/"><style>{STYLE}</style>'
    return f"<!DOCTYPE html><html><head>{head}</head><body><main>{html}</main></body></html>"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook):
    """Every text in the outputs."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (
                data for kind, data in output.get("data", {}).items() if kind.startswith("text/")
            )


def images(notebook):
    """Every figure in the outputs: (PNG file as base64, its metadata with width and alt text)."""
    outputs = [
        output
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    return [(output.data["image/png"], output.metadata.get("image/png", {})) for output in outputs]


def check_outputs(notebook):
    """What must hold for every executed notebook: no error, no warning, and nothing that GitHub
    cannot show.
    """
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {
        "stream",
        "execute_result",
        "display_data",
    }  # no error
    assert not [output for output in outputs if output.get("name") == "stderr"]  # no warning either
    assert "widgets" not in notebook.metadata
    assert {kind for output in outputs for kind in output.get("data", {})} <= SHOWN
    for text in texts(notebook):
        assert not re.search(r"[\r\x08\x1b]", text), (
            text
        )  # no progress bar printed a hundred times, no colour codes
        assert not LOCAL.search(text), LOCAL.search(text)  # no paths of somebody's machine
        assert len(text.splitlines()) <= 70, text
    for image, metadata in images(notebook):
        width, height = Image.open(io.BytesIO(base64.b64decode(image))).size
        assert metadata["width"] == 830 and height * 830 / width <= 2 * SCREEN, (
            width,
            height,
            metadata,
        )
        assert len(metadata["alt"]) >= 20, metadata

"""What must hold for an executed notebook, so that GitHub shows all of it and people can read it.

check_outputs(notebook)     # an AssertionError says what is wrong
"""

import base64
import io
import re

import nbformat
from PIL import Image

WIDTH = 830  # pixels of a figure on a page
TALL = 2000  # pixels, about two screens
LONG = 70  # lines of one output
SHOWN = {"text/plain", "text/markdown", "text/html", "text/latex"}
SHOWN |= {"image/png", "image/jpeg", "image/svg+xml"}
LOCAL = re.compile(
    r"(?<![\w.])/(root|home|work|tmp|Users|private)/|[A-Z]:\\\\|file://|localhost|127\.0\.0\.1"
)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def texts(notebook):
    """Every text in the outputs."""
    for output in outputs(notebook):
        yield output.get("text", "")
        yield from (
            data for kind, data in output.get("data", {}).items() if kind.startswith("text/")
        )


def images(notebook):
    """Every figure in the outputs: (PNG file as base64, its metadata with width and alt text)."""
    return [
        (output.data["image/png"], output.metadata.get("image/png", {}))
        for output in outputs(notebook)
        if "image/png" in output.get("data", {})
    ]


def check_outputs(notebook):
    """No error, no warning, no path of somebody's machine, and nothing that GitHub cannot show."""
    nbformat.validate(notebook)
    # "Invalid Notebook: the 'state' key is missing from 'metadata.widgets'"
    assert "widgets" not in notebook.metadata
    for output in outputs(notebook):
        assert output.output_type in ("stream", "execute_result", "display_data"), output
        assert output.get("name") != "stderr", output
        assert set(output.get("data", {})) <= SHOWN, output.data.keys()
    for text in texts(notebook):
        assert not re.search(r"[\r\x08\x1b]", text), text  # a bar drawn a hundred times, colours
        assert not LOCAL.search(text), LOCAL.search(text)
        assert len(text.splitlines()) <= LONG, text
    for image, metadata in images(notebook):
        width, height = Image.open(io.BytesIO(base64.b64decode(image))).size
        assert metadata["width"] == WIDTH and height * WIDTH / width <= TALL, (width, height)
        assert len(metadata["alt"]) >= 20, metadata

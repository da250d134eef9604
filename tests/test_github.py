"""Notebook and Markdown files on GitHub: they are shown, and no link leads nowhere."""

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from markdown_it import MarkdownIt
from rendered import LOCAL, check_outputs

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "S10_model.ipynb"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/README.md")), ROOT / "examples/solutions.md"]
FILES = [NOTEBOOK, *PAGES]


def markdown(path):
    """The Markdown in a file; of a notebook, that of its cells and outputs."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    written = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return "\n\n".join(written + [data.get("text/markdown", "") for data in outputs])


def tokens(path):
    parser = MarkdownIt("commonmark").enable("table")
    return [
        part for token in parser.parse(markdown(path)) for part in [token, *(token.children or [])]
    ]


def anchors(path):
    """What "#…" can point to: GitHub's names of the headings."""
    headings = re.findall(r"^#+ (.*)$", markdown(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_address(path, address):
    """Leads to https, or to a file that git does not leave out, and to a heading in it."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        assert parts.scheme == "https" and "." in parts.netloc, address
        return
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    assert target.is_relative_to(ROOT) and target.exists(), f"{address}: no such file"
    ignored = subprocess.run(["git", "check-ignore", "-q", target], cwd=ROOT, capture_output=True)
    assert ignored.returncode != 0, f"{address}: git leaves it out"
    assert not parts.fragment or unquote(parts.fragment) in anchors(target), (
        f"{address}: no heading"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere_and_images_have_alt_texts(path):
    for token in tokens(path):
        if token.type == "link_open":
            check_address(path, token.attrs["href"])
        if token.type == "image":
            check_address(path, token.attrs["src"])
            assert len(token.content) >= 10, f"{token.attrs['src']}: what does it show?"
        assert not (found := LOCAL.search(token.content)), found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rows_of_a_table_are_of_one_length(path):
    """Otherwise GitHub shows bars and dashes, or leaves cells out."""
    text = re.sub(r"^```.*?^```", "", markdown(path), flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    for block in blocks:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
        assert len(cells) == 1, block[:200]
    assert len(blocks) == sum(token.type == "table_open" for token in tokens(path))


def test_github_shows_the_committed_notebook():
    assert NOTEBOOK.stat().st_size < 4e6
    check_outputs(nbformat.read(NOTEBOOK, as_version=4))

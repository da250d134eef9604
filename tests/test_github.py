"""The committed notebook and the Markdown files as GitHub shows them: nothing broken, lost or too
long.
"""

import html
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from rendered import LOCAL, read_page

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "S10_model.ipynb"
FOLDERS = ("benchmarks", "experiments", "examples", "tests")
FILES = [NOTEBOOK, ROOT / "README.md", *(ROOT / folder / "README.md" for folder in FOLDERS)]


def tokens(page, *extensions):
    """What Markdown reads in a page, one token after the other, those within a line included."""
    parser = MarkdownIt("commonmark").enable("table")
    for extension in extensions:
        parser.use(extension)
    return [
        part for token in parser.parse(page.markdown) for part in [token, *(token.children or [])]
    ]


def anchors(path):
    """What `#…` can point to in a file."""
    return {tag["id"] for tag in read_page(path).soup.find_all(id=True)}


def check_address(page, address):
    """Leads to https, or to a file of the repository that git does not leave out, and to a heading
    in it.
    """
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        assert parts.scheme == "https" and "." in parts.netloc, address
        return
    target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
    assert target.is_relative_to(ROOT) and target.exists(), f"{address}: no such file"
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", target], cwd=ROOT, capture_output=True
    )
    assert ignored.returncode != 0, f"{address}: git leaves it out"
    assert not parts.fragment or unquote(parts.fragment) in anchors(target), (
        f"{address}: no such heading"
    )


def check_links_and_images(page):
    for token in tokens(page):
        if token.type == "link_open":
            check_address(page, token.attrs["href"])
        if token.type == "image":
            check_address(page, token.attrs["src"])
            assert len(token.content) >= 10, (
                f"{token.attrs['src']} has no alt text that says what it shows"
            )


def check_headings(page):
    """One title, at the top; below it no level is left out."""
    levels = [int(token.tag[1]) for token in tokens(page) if token.type == "heading_open"]
    assert levels[:1] == [1] and levels.count(1) == 1, levels
    assert all(level <= before + 1 for before, level in zip(levels, levels[1:], strict=False)), (
        levels
    )


def check_tables(page):
    """Every block of lines that begin with a bar is shown as a table, all of its rows of one
    length.
    """
    text = re.sub(r"^```.*?^```", "", page.markdown, flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    for block in blocks:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
        assert len(cells) == 1, f"rows of different lengths: {block[:200]}"
    shown = [
        table
        for table in page.soup.find_all("table")
        if not table.find_parent(class_="output_html")
    ]
    assert len(shown) == len(blocks), f"{len(blocks)} tables are written, {len(shown)} are shown"


def check_text(page):
    """Nothing is left of the marks, nothing is struck by two lone tildes, and formulas arrive as
    they were written.
    """
    shown = "".join(
        text for text in page.soup.find_all(string=True) if not text.find_parent(["pre", "code"])
    )
    assert not (left := re.search(r"\*\*|\]\(|\|\s*:?---|^#+ ", shown, flags=re.MULTILINE)), left
    for token in tokens(page, dollarmath_plugin):
        if token.type.startswith("math"):
            assert html.escape(token.content, quote=False) in page.html, (
                f"mangled formula: {token.content}"
            )
        if token.type == "text":
            assert "$" not in token.content, f"a lone $ may swallow what follows: {token.content}"
            assert "~" not in token.content, f"two lone ~ strike what is between: {token.content}"


def check_private(page):
    """No script is needed, no colour codes, no paths of somebody's machine."""
    assert not page.soup.find(["script", "iframe", "object", "embed"])
    assert "\x1b" not in page.html
    assert not (found := LOCAL.search(page.soup.get_text())), found


CHECKS = [check_links_and_images, check_headings, check_tables, check_text, check_private]


@pytest.fixture(scope="module", params=FILES, ids=lambda path: str(path.relative_to(ROOT)))
def page(request):
    return read_page(request.param)


@pytest.mark.parametrize("check", CHECKS)
def test_is_shown_as_it_was_meant(page, check):
    check(page)

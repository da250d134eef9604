"""The README: what it quotes, links to and promises."""

import re
from pathlib import Path

import nbformat

from report import update_readme

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_quotes_the_committed_results():
    assert update_readme(ROOT / "README.md", ROOT / "misc/results.json") == README, "run `python report.py`"


def test_shows_the_figures_of_the_run():
    assert len(re.findall(r"!\[[^\]]+\]\(misc/\w+\.png\)", README)) >= 7


def test_names_every_file_of_the_top_level():
    tree = README.partition("```text")[2].partition("```")[0]
    for file in ROOT.glob("*.py"):
        assert re.search(rf"[─] {re.escape(file.name)} ", tree), file.name


def test_names_only_tests_that_exist():
    for name in set(re.findall(r"`(tests/\w+\.py)`", README)):
        assert (ROOT / name).is_file(), name


def test_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_badge_and_notebook_give_one_address():
    notebook = nbformat.read(ROOT / "S10_model.ipynb", as_version=4)
    text = README + "\n".join(cell.source for cell in notebook.cells)
    badges = set(re.findall(r"colab.research.google.com/github/([\w.-]+/[\w.-]+)/blob/([\w.-]+)/", text))
    clones = set(re.findall(r'"https://github.com/([\w.-]+/[\w.-]+)", "([\w.-]+)"', text))
    assert len(badges) == 1 and badges == clones

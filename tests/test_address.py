"""Badge and set-up cell: who writes the repository's address into them, and what the cell does."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ("README.md", "S10_model.ipynb")


@pytest.fixture
def copy(tmp_path):
    """A folder with what `make address` reads and writes."""
    (tmp_path / ".github").mkdir()
    for name in (*FILES, "Makefile", ".github/address.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def read(folder):
    return [(folder / name).read_text(encoding="utf-8") for name in FILES]


def setup_cell(folder):
    notebook = nbformat.read(folder / "S10_model.ipynb", as_version=4)
    nbformat.validate(notebook)
    return next(cell for cell in notebook.cells if cell.id == "s10-setup").source


def make_address(folder, *words):
    command = ["make", "address", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_an_address_is_written_once_and_a_fork_s_replaces_it(copy):
    for repository, branch in (("first/course", "main"), ("a.fork/its-name_2", "feature/x")):
        words = (f"REPO={repository}", f"BRANCH={branch}")
        assert make_address(copy, *words).returncode == 0
        before = read(copy)
        links = re.findall(r"colab\.research\.google\.com/github/([^)\s\"\\]*)", "".join(before))
        assert set(links) == {f"{repository}/blob/{branch}/S10_model.ipynb"}
        line = f'REPOSITORY, BRANCH = "https://github.com/{repository}", "{branch}"\n'
        assert line in setup_cell(copy)
        assert make_address(copy, *words).returncode == 0 and read(copy) == before


@pytest.mark.parametrize("words", [[], ["REPO=nobody"], ["REPO=a/b c"], ["REPO=a/b", "BRANCH=a b"]])
def test_what_is_no_address_changes_nothing(copy, words):
    before = read(copy)
    assert make_address(copy, *words).returncode and read(copy) == before


def test_the_set_up_cell_clones_from_its_address_and_without_one_says_so(copy, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    cell = re.sub(r'(REPOSITORY, BRANCH = )"[^"]*"', r'\1""', setup_cell(copy))
    done = subprocess.run([sys.executable, "-c", cell], cwd=here, capture_output=True, text=True)
    assert done.returncode and "REPOSITORY" in done.stderr.splitlines()[-1]

    clone = ["git", "clone", "--quiet", "--bare", str(ROOT), str(tmp_path / "bare.git")]
    subprocess.run(clone, check=True)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    branch = ["git", "-C", str(tmp_path / "bare.git"), "branch", "--force", "tried", head]
    subprocess.run(branch, check=True)
    address = f'REPOSITORY, BRANCH = "{tmp_path / "bare.git"}", "tried"'
    cell = re.sub(r"(?m)^REPOSITORY, BRANCH = .*$", address, cell)
    for _ in range(2):  # the second time it is there
        code = f"{cell}\nimport extras; print(extras.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=here, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1:] == [str(here / "s10/extras/__init__.py")], done.stderr

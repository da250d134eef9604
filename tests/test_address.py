"""Badge and set-up cell: who writes the repository's address into them, and what the cell does with
it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = ("README.md", "S10_model.ipynb")
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/address.yml").read_text())["jobs"]["address"][
    "steps"
][-1]["run"]
GIT = dict(GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_SYSTEM=os.devnull, GIT_CONFIG_COUNT="1")
GIT |= dict(GIT_CONFIG_KEY_0="init.defaultBranch", GIT_CONFIG_VALUE_0="main")
GIT |= {
    f"GIT_{who}_{what}": "test@localhost"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
PUBLISH = "git init -q; git add -A; git commit -qm one; git clone -q --bare . ../bare.git"


def shell(command, folder, **environment):
    environment = os.environ | GIT | environment
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def setup_cell(text):
    return next(
        cell for cell in nbformat.reads(text, as_version=4).cells if cell.id == "s10-setup"
    ).source


def read(folder):
    return [(folder / name).read_text(encoding="utf-8") for name in FILES]


def check_address(folder, repository, branch):
    """Badges and set-up cell name this repository and branch, and no other."""
    readme, notebook = read(folder)
    badge = f"(https://colab.research.google.com/github/{repository}/blob/{branch}/S10_model.ipynb)"
    found = re.findall(r"\(https://colab\.research\.google\.com/github/[^)]*\)", readme + notebook)
    assert found and set(found) == {badge}
    assert f'REPOSITORY, BRANCH = "https://github.com/{repository}", "{branch}"\n' in setup_cell(
        notebook
    )


@pytest.fixture
def copy(tmp_path):
    """A folder with what `make address` reads and writes, without an address."""
    (tmp_path / "copy/.github").mkdir(parents=True)
    for name in (*FILES, "Makefile", ".github/address.py"):
        text = (ROOT / name).read_text(encoding="utf-8")
        text = re.sub(r"(colab\.research\.google\.com/github/)[^)\s]*(?=\))", r"\1", text)
        text = re.sub(
            r'REPOSITORY, BRANCH = \\"[^"]*", \\"[^"]*"',
            r'REPOSITORY, BRANCH = \\"\\", \\"main\\"',
            text,
        )
        (tmp_path / "copy" / name).write_text(text, encoding="utf-8")
    return tmp_path / "copy"


def test_make_address_writes_badge_and_cell_and_a_fork_s_address_replaces_it(copy):
    for repository, branch in (("first/course", "main"), ("a.fork/its-name_2", "feature/x")):
        done = shell(["make", "address", f"REPO={repository}", f"BRANCH={branch}"], copy)
        assert done.returncode == 0 and "changed: README.md, S10_model.ipynb" in done.stdout, (
            done.stderr
        )
        check_address(copy, repository, branch)
        before = read(copy)
        assert (
            "changed: nothing"
            in shell(["make", "address", f"REPO={repository}", f"BRANCH={branch}"], copy).stdout
        )
        assert read(copy) == before
    nbformat.validate(nbformat.reads(before[1], as_version=4))


@pytest.mark.parametrize(
    "words", [[], ["REPO="], ["REPO=nobody"], ["REPO=a/b c"], ["REPO=a/b", "BRANCH=a b"]]
)
def test_what_is_no_address_changes_nothing(copy, words):
    before = read(copy)
    done = shell(["make", "address", *words], copy)
    assert (
        done.returncode
        and re.search("give (the address|owner/name)", done.stderr)
        and read(copy) == before
    )


@pytest.mark.parametrize("protected", [False, True])
def test_the_workflow_commits_and_pushes_or_says_what_to_do_on_a_protected_branch(
    copy, tmp_path, protected
):
    publish = f"{PUBLISH}; git remote add origin ../bare.git; git push -qu origin main"
    assert shell(["bash", "-ec", publish], copy).returncode == 0
    if protected:
        hook = tmp_path / "bare.git/hooks/pre-receive"
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    names = dict(
        GITHUB_REPOSITORY="fork/course",
        GITHUB_REF_NAME="main",
        GITHUB_STEP_SUMMARY=str(tmp_path / "summary"),
    )
    done = shell(["bash", "-e", "-c", WORKFLOW], copy, **names)  # as GitHub starts it
    assert done.returncode == 0, done.stderr
    pushed = shell(["git", "show", "main:README.md"], tmp_path / "bare.git").stdout
    assert ("fork/course" in pushed) == (not protected)
    if protected:
        assert "make address REPO=fork/course BRANCH=main" in (tmp_path / "summary").read_text()
        return
    check_address(copy, "fork/course", "main")
    again = shell(["bash", "-e", "-c", WORKFLOW], copy, **names)
    assert again.returncode == 0 and not (tmp_path / "summary").exists()
    assert shell(["git", "rev-list", "--count", "main"], tmp_path / "bare.git").stdout == "2\n"


def test_the_set_up_cell_clones_from_its_address_and_without_one_says_what_to_put_where(
    copy, tmp_path
):
    cell, empty = setup_cell(read(copy)[1]), tmp_path / "empty"
    empty.mkdir()
    done = shell([sys.executable, "-c", cell], empty)
    assert (
        "RuntimeError: put the address of this repository into REPOSITORY"
        in done.stderr.splitlines()[-1]
    )
    (copy / "extras").mkdir()
    for name in ("models.py", "extras/__init__.py", "extras/notebook.py"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    assert shell(["bash", "-ec", PUBLISH], copy).returncode == 0
    cell = cell.replace(
        'REPOSITORY, BRANCH = ""', f'REPOSITORY, BRANCH = "{tmp_path / "bare.git"}"'
    )
    for _ in range(2):  # the second time it is there
        done = shell([sys.executable, "-c", f"{cell}\nprint(notebook.__file__)"], empty)
        assert done.stdout == f"{empty / 's10/extras/notebook.py'}\n", done.stderr

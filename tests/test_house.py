"""The layout: which files there are, what each may import, how long they are, and that importing
one does nothing.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SIX = ["models", "transform", "dataset", "train", "test", "utils"]
EXTRAS = sorted(
    f"extras.{path.stem}" for path in ROOT.glob("extras/*.py") if path.stem != "__init__"
)
PRODUCT = [*SIX, "main", *EXTRAS]
TEXTS = {
    name: (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8") for name in PRODUCT
}
FIGURES = ["utils", "extras.figures", "extras.diagram"]  # what draws
NODE_24 = {
    "actions/checkout": 5,
    "actions/setup-python": 6,
    "actions/upload-artifact": 6,
}  # the first with Node 24


def imports(module):
    """The files of ours that a file imports at its top, as module names."""
    found = set()
    for node in ast.parse(TEXTS[module]).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name for name in names if name in PRODUCT}
    return found


def test_the_top_level_holds_the_six_main_and_few_entries():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    entries = {
        name.partition("/")[0] for name in listed if name[0] != "." and (ROOT / name).exists()
    }
    assert {name for name in entries if name.endswith(".py")} == {
        f"{name}.py" for name in [*SIX, "main"]
    }
    assert len(entries) <= 26, sorted(entries)


def test_imports_go_one_way():
    arrows = {module: imports(module) for module in PRODUCT}
    for module in ("models", "transform", "train", "test", "utils"):
        assert not arrows[module], (
            f"{module}.py cannot be copied alone: it imports {arrows[module]}"
        )
    assert arrows["dataset"] <= {"transform"}
    for module in EXTRAS:
        assert arrows[module] - set(EXTRAS) <= ({"utils"} if module in FIGURES else set()), module

    while leaves := [module for module in arrows if not arrows[module] & arrows.keys()]:
        arrows = {module: arrows[module] for module in arrows if module not in leaves}
    assert not arrows, f"a circle goes through some of these: {arrows}"


def test_files_are_short_and_call_an_image_an_image():
    lines = {module: len(text.splitlines()) for module, text in TEXTS.items()}
    assert not {module: n for module, n in lines.items() if n > 400}
    assert sum(lines.values()) <= 3600
    text = "\n".join([*TEXTS.values(), (ROOT / "README.md").read_text(encoding="utf-8")])
    assert len(re.findall(r"\bpictures?\b", text, flags=re.IGNORECASE)) <= 10


IMPORT = """
import importlib, random, sys
sys.path[0] = sys.argv[1]
import numpy, torch
state = lambda: (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
before, modules = state(), sys.argv[2:]
for module in modules:  # those that draw come last
    if module == "utils":
        slow = {"torchvision", "albumentations", "scipy", "torch_lr_finder", "matplotlib.pyplot", "IPython"}
        assert not slow & sys.modules.keys(), f"imported before it is needed: {slow & sys.modules.keys()}"
    importlib.import_module(module)
assert state() == before, "the random state has changed"
assert not sys.modules["matplotlib.pyplot"].get_fignums(), "a figure is open"
"""


def test_importing_a_file_does_nothing_and_needs_no_library_before_its_time(tmp_path):
    modules = [*(module for module in PRODUCT if module not in FIGURES), *FIGURES]
    command = [sys.executable, "-W", "error::UserWarning", "-c", IMPORT, str(ROOT), *modules]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


PYTHON = """#!/bin/sh
echo "$@" >> log
case "$*" in
  *"venv --clear"*) [ -z "$BROKEN" ] || exit 1; mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
esac
"""


@pytest.mark.parametrize("broken", ["", "yes"], ids=["mended", "cannot be made"])
def test_a_half_made_environment_is_made_anew(tmp_path, broken):
    files = {
        "Makefile": (ROOT / "Makefile").read_text(),
        "requirements.lock": "",
        "python3": PYTHON,
    }
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for path, text in (
        files | {".venv/bin/python": "#!/bin/sh\nexit 1\n"}
    ).items():  # this one has no pip
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    command = ["make", "--silent", "BASE_PYTHON=./python3", f"BROKEN={broken}", ".venv/.installed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode != 0) == ("apt install python3-venv" in done.stdout) == bool(broken), (
        done
    )
    assert (
        ("pip install" in (tmp_path / "log").read_text())
        == (tmp_path / ".venv/.installed").exists()
        == (not broken)
    )


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda path: path.name
)
def test_workflows_say_their_rights_and_use_no_action_on_node_20(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "write" if path.stem == "address" else "read"}
    used = [
        step["uses"].split("@v")
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if "uses" in step
    ]
    assert used and all(int(version) >= NODE_24[action] for action, version in used), used

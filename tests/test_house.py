"""The layout: which files there are, what each may import and how it is written; and the set-up."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SIX = ["models", "transform", "dataset", "train", "test", "utils"]
LISTED = subprocess.check_output(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
).splitlines()
FILES = sorted(name for name in LISTED if (ROOT / name).exists())
PYTHON = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in FILES
    if name.endswith(".py") and not name.startswith(".")
}
TREES = {name: ast.parse(text) for name, text in PYTHON.items()}
# The product: what a run is made of. Modules by name, "extras.files"
PRODUCT = [name for name in PYTHON if "/" not in name or name.startswith("extras/")]
MODULES = [name[:-3].replace("/", ".") for name in PRODUCT if name != "extras/__init__.py"]
DRAWING = ["extras.diagram", "extras.gradcam", "extras.receptive_field"]
# the first version of each action that runs on Node 24
NODE_24 = {"actions/checkout": 5, "actions/setup-python": 6, "actions/upload-artifact": 6}


def nodes(name, *kinds):
    return [node for node in ast.walk(TREES[name]) if isinstance(node, kinds)]


def imports(module):
    """The files of ours that a file imports at its top, as module names."""
    found = set()
    for node in TREES[f"{module.replace('.', '/')}.py"].body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(MODULES)


def test_the_top_level_holds_the_six_main_and_few_entries():
    entries = {name.partition("/")[0] for name in FILES if not name.startswith(".")}
    modules = {name for name in entries if name.endswith(".py")}
    assert modules == {f"{name}.py" for name in [*SIX, "main"]}
    assert len(entries) <= 26, sorted(entries)


def test_imports_go_one_way():
    arrows = {module: imports(module) for module in MODULES}
    for module in ("models", "transform", "train", "test", "utils"):
        assert not arrows[module], f"{module}.py cannot be copied alone: {arrows[module]}"
    assert arrows["dataset"] <= {"transform"}
    for module in MODULES:
        if module.startswith("extras."):
            beyond = {name for name in arrows[module] if not name.startswith("extras.")}
            assert beyond <= ({"utils"} if module in DRAWING else set()), module

    while leaves := [module for module in arrows if not arrows[module] & arrows.keys()]:
        arrows = {module: arrows[module] for module in arrows if module not in leaves}
    assert not arrows, f"a circle goes through some of these: {arrows}"


def test_nothing_is_packed():
    """A statement says one thing; an argument list can be read; own modules have their names."""
    width = re.search(r"line-length = (\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert int(width[1]) <= 100
    no_statement = (ast.Tuple, ast.IfExp, ast.ListComp, ast.BoolOp, ast.Compare)
    ours = {*SIX, "extras", "experiments", "benchmarks"}
    for name, text in PYTHON.items():
        assert not re.search(r"#\s*fmt:\s*(skip|off)", text), name
        packed = [n.lineno for n in nodes(name, ast.Expr) if isinstance(n.value, no_statement)]
        assert not packed, f"{name}: an expression stands as a statement in lines {packed}"
        for node in nodes(name, ast.Import, ast.ImportFrom):
            for alias in node.names:
                source = getattr(node, "module", None) or alias.name
                short = alias.asname and len(alias.asname) < 4
                assert not (short and source.split(".")[0] in ours), f"{name}: {alias.asname}"
    for name in PRODUCT:
        assert len(PYTHON[name].splitlines()) <= 450, name
        for node in nodes(name, ast.FunctionDef):
            given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            given = [argument for argument in given if argument.arg not in ("self", "cls")]
            assert len(given) <= (13 if node.name == "fit" else 10), f"{name}: {node.name}"


def opens_text(call):
    """Does a call open a text file, or read or write one?"""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name in ("read_text", "write_text"):
        return True
    if name not in ("open", "fdopen") or getattr(call.func, "attr", name) != name:
        return False
    if isinstance(call.func, ast.Attribute) and name == "open":
        return False  # PIL.Image.open, tarfile.open, urlopen: no text
    constants = [arg.value for arg in call.args[1:] if isinstance(arg, ast.Constant)]
    constants += [k.value.value for k in call.keywords if k.arg == "mode"]
    return not any("b" in mode for mode in constants if isinstance(mode, str))


@pytest.mark.parametrize("name", [n for n in PYTHON if not n.startswith("tests/")])
def test_text_files_are_read_and_written_in_utf_8(name):
    """Windows has another encoding by default, in which "×" cannot be read."""
    without = [
        call.lineno
        for call in nodes(name, ast.Call)
        if opens_text(call) and not any(k.arg == "encoding" for k in call.keywords)
    ]
    assert not without, f"{name}: no encoding in lines {without}"


IMPORT = """
import importlib, random, sys
sys.path[0] = sys.argv[1]
import numpy, torch
slow = {"torchvision", "albumentations", "scipy", "torch_lr_finder", "matplotlib.pyplot", "IPython"}

def state():
    numbers = numpy.random.get_state()[1].tolist()
    return random.getstate(), numbers, torch.get_rng_state().tolist()

before, modules = state(), sys.argv[2:]
for module in modules:  # those that draw come last
    if module == "utils":
        early = slow & sys.modules.keys()
        assert not early, f"imported before they are needed: {early}"
    importlib.import_module(module)
assert state() == before, "the random state has changed"
assert not sys.modules["matplotlib.pyplot"].get_fignums(), "a figure is open"
"""


def test_importing_a_file_does_nothing_and_needs_no_library_before_its_time(tmp_path):
    drawing = ["utils", *DRAWING]
    modules = [*(module for module in MODULES if module not in drawing), *drawing]
    command = [sys.executable, "-W", "error::UserWarning", "-c", IMPORT, str(ROOT), *modules]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


# make's set-up, with an interpreter that writes down what it is asked and says how that went
FAKE_PYTHON = f"""#!/bin/sh
echo "$@" >> log
case "$*" in
  -c*) change="import sys; sys.version_info = ($VERSION, 0); exec(sys.argv[1])"
    exec {sys.executable} -c "$change" "$2";;
  *"venv --clear"*) [ -z "$NO_VENV" ] || exit 1; mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
  *"pip install"*" uv") [ -z "$NO_UV" ];;
  *torch-backend*) [ -z "$NO_INDEX" ] || {{ echo "a page of errors" >&2; exit 1; }};;
  *"uv pip install"*) [ -z "$UV_FAILS" ];;
esac
"""
TRIED = {  # environment: (exit code, the last installation, a word of what is said)
    "": (0, "uv pip install --torch-backend auto", ""),
    "NO_INDEX=1": (0, "uv pip install -r", "PyPI"),
    "NO_INDEX=1 UV_FAILS=1": (0, "pip install -r", "pip"),
    "NO_UV=1": (0, "pip install -r", "pip"),
    "NO_VENV=1": (2, None, "python3-venv"),
    "VERSION=3,14": (0, "uv pip install --torch-backend auto", ""),
    "VERSION=3,15": (2, None, "3.15"),
    "VERSION=3,10": (2, None, "3.10"),
}


@pytest.mark.parametrize("given", TRIED)
def test_make_sets_up_an_environment_or_says_why_not(tmp_path, given):
    code, installed, word = TRIED[given]
    (tmp_path / ".venv/bin").mkdir(parents=True)  # half-made: it has no pip
    contents = {
        "Makefile": (ROOT / "Makefile").read_text(encoding="utf-8"),
        "requirements.lock": "",
        "python3": FAKE_PYTHON,
        ".venv/bin/python": "#!/bin/sh\nexit 1\n",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"VERSION": "3,11"}
    environment |= dict(part.split("=") for part in given.split())
    done = subprocess.run(
        ["make", "--silent", "BASE_PYTHON=./python3", ".venv/.installed"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done
    assert word in done.stdout + done.stderr and "a page of errors" not in done.stderr
    assert len(done.stdout.splitlines()) <= 2
    log = (tmp_path / "log").read_text(encoding="utf-8").replace(" --quiet", "")
    log = log.replace(" --python .venv/bin/python", "").replace(" --disable-pip-version-check", "")
    asked = [line for line in log.splitlines() if "install" in line and not line.endswith(" uv")]
    assert asked[-1].startswith(f"-m {installed}") if installed else not asked, log
    assert (tmp_path / ".venv/.installed").exists() == (code == 0)


def test_make_clean_leaves_weights_and_data(tmp_path):
    kept = [
        "runs/s10/checkpoint.pt",
        "data/cifar-10-batches-py/test_batch",
        ".venv/a/__pycache__/b",
    ]
    gone = [".ruff_cache/a", ".pytest_cache/a", "extras/__pycache__/a.pyc", "__pycache__/a.pyc"]
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    command = ["make", "-f", str(ROOT / "Makefile"), "clean"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    left = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()]
    assert sorted(left) == sorted(kept)


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda p: p.name)
def test_workflows_say_their_rights_and_use_no_action_on_node_20(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "write" if path.stem == "address" else "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = [step["uses"].split("@v") for step in steps if "uses" in step]
    assert used and all(int(version) >= NODE_24[action] for action, version in used), used


def test_the_matrix_has_the_pythons_that_the_makefile_takes():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == [
        f"3.{n}" for n in range(11, 15)
    ]

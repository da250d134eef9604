"""Rehearse the notebook in Colab on this computer, with Colab's versions (`make test-colab`).

The first time, some 5 GB of packages are fetched into .venv-colab/. The repository is cloned from a
copy on this disk, with all that is not committed yet. One story: an empty folder with nothing but
the notebook's cells, and Google Drive asked for; then all cells again; then Drive is full.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from packaging.version import Version
from run_notebook import set_parameters

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "tests" / "requirements-colab.txt"
VENV = ROOT / ".venv-colab"
PYTHON = VENV / "bin" / "python"
PYTHONS = ("python3.13", "python3.12")  # Colab's in August 2026, and the one before
TINY = dict(data="sample", profile="quick", epochs="1", batch_size="4", limit="20", workers="2")
SETUP = "s10-setup"
LEFT_OUT = ("PYTHONPATH", "MPLBACKEND", "NO_ALBUMENTATIONS_UPDATE")  # of this shell's environment
# google.colab as far as the notebook meets it; the kernel imports it at its start, as Colab's does
STAND_IN = {
    "sitecustomize.py": "import google.colab\n",
    "google/colab/__init__.py": "",
    "google/colab/drive.py": """
import os

def mount(mountpoint):
    os.makedirs(mountpoint + "/MyDrive", exist_ok=True)
    print("Mounted at", mountpoint)
""",
}


def pip(*arguments, **options):
    return subprocess.run([PYTHON, "-m", "pip", *arguments], text=True, check=True, **options)


def freeze():
    return set(pip("freeze", stdout=subprocess.PIPE).stdout.splitlines())


def make_environment():
    """Colab's packages in .venv-colab, made anew when the requirements change."""
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    stamp = VENV / REQUIREMENTS.name
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        base = next(filter(works, PYTHONS), sys.executable)
        print(f"making {VENV.name} with {base}: some 5 GB are fetched, which takes minutes")
        subprocess.run([base, "-m", "venv", "--clear", VENV], check=True)
        pins = re.findall(r"^([\w-]+)==(\S+)$", wanted, flags=re.MULTILINE)
        pip("install", "--quiet", "--only-binary=:all:", *(nearest(*pin) for pin in pins))
        stamp.write_text(wanted, encoding="utf-8")
    pip("uninstall", "--quiet", "--yes", "torch-lr-finder", stderr=subprocess.DEVNULL)


def works(python):
    """Is there such an interpreter? pyenv's shims may be there without one behind them."""
    probe = [python, "-c", "import ensurepip, ssl"]
    return shutil.which(python) and subprocess.run(probe, capture_output=True).returncode == 0


def nearest(name, version):
    """A pin; where there is no such version for this Python, the next one, or else the last."""
    found = pip("index", "versions", name, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    listed = re.search(r"Available versions: (.*)", found.stdout)[1].split(", ")
    versions = sorted(one for one in map(Version, listed) if not one.is_prerelease)
    taken = next((one for one in versions if one >= Version(version)), versions[-1])
    if taken != Version(version):
        print(f"{name} {version} does not exist for this Python: {taken} stands in")
    return f"{name}=={taken}"


def make_repository(folder):
    """A repository of the working tree as it is; returns its address."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git = ["git", "-C", folder, "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message=The working tree"], check=True)
    return folder.as_uri()


def make_kernel(folder):
    """A kernel named "colab" with Colab's packages, where Jupyter finds it."""
    place = folder / "jupyter" / "kernels" / "colab"
    place.mkdir(parents=True)
    start = [str(PYTHON), "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f"]
    about = dict(argv=[*start, "{connection_file}"], display_name="Colab", language="python")
    (place / "kernel.json").write_text(json.dumps(about), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")


def make_notebook(address):
    """The notebook, with the address where `make address` writes it, and few images."""
    notebook = nbformat.read(ROOT / "S10_model.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if cell.id == SETUP)
    line = f'REPOSITORY, BRANCH = "{address}", "main"'
    cell.source, found = re.subn(r"(?m)^REPOSITORY, BRANCH = .*$", line, cell.source)
    assert found == 1, "the set-up cell has no line for the address"
    set_parameters(notebook, {**TINY, "out": "run", "drive": "True"})
    return notebook


class Session:
    """A kernel with Colab's packages in a working folder, as Colab starts one."""

    def __init__(self, notebook, folder, stand_in):
        folder.mkdir()
        where = {"metadata": {"path": str(folder)}}
        self.client = NotebookClient(notebook, timeout=900, kernel_name="colab", resources=where)
        kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
        self.environment = kept | {"PYTHONPATH": str(stand_in)}

    @contextmanager
    def running(self):
        with self.client.setup_kernel(env=self.environment):
            yield self

    def run(self, *ids):
        """Run all code cells, or those with these ids; returns what they print.

        An error ends it, and so does a warning, but for those of pip in the set-up cell.
        """
        cells = self.client.nb.cells
        chosen = [c for c in cells if c.cell_type == "code" and (not ids or c.id in ids)]
        for cell in chosen:
            self.client.execute_cell(cell, cells.index(cell))
            for output in cell.outputs:
                assert output.get("name") != "stderr" or cell.id == SETUP, output.text
        return "".join(output.get("text", "") for cell in chosen for output in cell.outputs)

    def do(self, code):
        """Run code that is not in the notebook; returns what it prints."""
        cell = nbformat.v4.new_code_cell(code)
        self.client.nb.cells.append(cell)
        try:
            return self.run(cell.id).strip()
        finally:
            self.client.nb.cells.remove(cell)


def rehearse(place):
    drive, content = place / "drive", place / "content"
    for name, text in STAND_IN.items():
        (place / "stand-in" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "stand-in" / name).write_text(text, encoding="utf-8")
    make_kernel(place)
    before = freeze()
    notebook = make_notebook(make_repository(place / "repository"))
    session = Session(notebook, content, place / "stand-in")
    with session.running():
        session.run(SETUP)
        assert session.do("import models; print(models.__file__)") == str(content / "s10/models.py")
        # /content, where Colab has Drive, needs root
        session.do(f"import pathlib; colab.DRIVE = pathlib.Path({str(drive)!r})")
        shown = session.run()
        changed = {line.partition("==")[0] for line in freeze() ^ before}
        assert changed == {"torch-lr-finder"}, f"installed or changed: {changed}"
        kept = drive / "MyDrive" / "s10"
        assert list(kept.rglob("checkpoint.pt")) and list(kept.rglob("s10_model.pt"))
        assert list(content.rglob("results.json")) and list(content.rglob("loss_curves.png"))
        print("the first time: passed")

        line = re.search(r"epoch 1/1 .* s$", shown, flags=re.MULTILINE)[0]  # with its seconds:
        assert line in session.run(), "the finished run was trained again"
        print("again: passed")

        session.do("colab.ROOM = 10**15")  # as if Drive had become full meanwhile
        assert "Drive" in session.run("s10-data")
        print("a full Drive: passed")


if __name__ == "__main__":
    make_environment()
    with tempfile.TemporaryDirectory() as folder:
        rehearse(Path(folder).resolve())

"""Rehearse the notebook in Colab and in Kaggle on this computer, with Colab's versions.

    make test-colab       # the first time, some 5 GB of packages are fetched into .venv-colab/

The repository is cloned from a copy on this disk, with all that is not committed yet. The first
rehearsal begins in an empty folder with nothing but the notebook's cells. colab_image.py has what
stands in for Colab.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

import nbformat
from colab_image import ROOT, VENV, Place, environment, freeze, make_images, say
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from run_notebook import set_parameters

TINY = dict(
    data="sample", profile="quick", epochs="1", batch_size="4", limit="20", workers="2", out="run"
)
COLOURS = r"\x1b\[[\d;]*m"  # of IPython's tracebacks
LEFT_OUT = ("PYTHONPATH", "MPLBACKEND", "NO_ALBUMENTATIONS_UPDATE")  # of this shell's environment
SETUP = "s10-setup"


def state(folder):
    """Every file and folder in it, with what it holds."""
    paths = sorted(folder.rglob("*"))
    return [
        (path, hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else None)
        for path in paths
    ]


def make_notebook(address, **parameters):
    """The notebook, with the address where `make address` writes it, and parameters as `make run`
    sets them.
    """
    notebook = nbformat.read(ROOT / "S10_model.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if cell.id == SETUP)
    line = f'REPOSITORY, BRANCH = "{address}", "main"'
    cell.source, found = re.subn(
        r'^REPOSITORY, BRANCH = "[^"]*", "[^"]*"$', line, cell.source, flags=re.MULTILINE
    )
    assert found == 1, "the set-up cell has no line for the address"
    set_parameters(notebook, {**TINY, **parameters})
    return notebook


class Session:
    """A kernel with Colab's packages in a working folder, as Colab or Kaggle starts one."""

    def __init__(self, notebook, folder, stand_in=None, **environment):
        folder.mkdir(exist_ok=True)
        self.client = NotebookClient(
            notebook,
            timeout=900,
            kernel_name="colab",
            resources={"metadata": {"path": str(folder)}},
        )
        kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
        self.environment = kept | ({"PYTHONPATH": str(stand_in)} if stand_in else {}) | environment

    @contextmanager
    def running(self):
        with self.client.setup_kernel(env=self.environment):
            yield self

    def run(self, *ids):
        """Run all code cells, or those with these ids; returns what they showed. An error or a
        warning ends it.
        """
        cells = [
            cell
            for cell in self.client.nb.cells
            if cell.cell_type == "code" and (not ids or cell.id in ids)
        ]
        for cell in cells:
            self.client.execute_cell(cell, self.client.nb.cells.index(cell))
        outputs = [output for cell in cells for output in cell.outputs]
        shown = [
            output for cell in cells if cell.id != SETUP for output in cell.outputs
        ]  # pip may say something
        warnings = "".join(output.text for output in shown if output.get("name") == "stderr")
        assert not warnings, warnings
        return "".join(
            o.get("text", "") + o.get("data", {}).get("text/markdown", "") for o in outputs
        )

    def do(self, code):
        """Run code that is not in the notebook."""
        cell = nbformat.v4.new_code_cell(code)
        self.client.nb.cells.append(cell)
        try:
            return self.run(cell.id).strip()
        finally:
            self.client.nb.cells.remove(cell)


def first_time(place):
    """An empty folder, Drive asked for; then all cells again in the same kernel; then with a full
    Drive.
    """
    before, torch = freeze(), next(VENV.glob("lib/*/site-packages/torch/version.py"))
    written, drive, content = (
        torch.stat().st_mtime_ns,
        place.folder / "drive",
        place.folder / "content",
    )
    session = Session(make_notebook(place.address, drive="True"), content, place.stand_in)
    with session.running():
        assert session.do("import sys; print('google.colab' in sys.modules)") == "True"
        session.run(SETUP)
        assert session.do("import models; print(models.__file__)") == str(
            content / "s10" / "models.py"
        )
        # /content needs root
        session.do(
            f"import pathlib; from extras import settings; settings.DRIVE = pathlib.Path({str(drive)!r})"
        )
        shown = session.run()
        installed = {line.partition("==")[0] for line in freeze() ^ before}
        assert installed == {"torch-lr-finder"}, f"installed or changed: {installed}"
        assert torch.stat().st_mtime_ns == written, "torch was installed again"
        folder = drive / "MyDrive" / "s10" / "run"
        assert f"Google Drive keeps this run: {folder}" in shown and "epoch 1/1" in shown
        check_files(folder, "checkpoint.pt", "s10_model.pt")
        check_files(content / "run", "results.json", "loss_curves.png")
        again = session.run()
        assert "the run is finished" in again and epoch(again) == epoch(
            shown
        )  # with its seconds: not trained again
        session.do("settings.ROOM = 10**15")  # as if the Drive had become full meanwhile
        assert "Google Drive is not used: it is full" in session.run("s10-data")
    assert sorted(os.listdir(content)) == ["run", "s10"]


def epoch(shown):
    """The line of the only epoch."""
    return re.search(r"epoch 1/1 .* s$", shown, flags=re.MULTILINE)[0]


def check_files(folder, *names):
    missing = set(names) - set(os.listdir(folder))
    assert not missing, f"{folder} lacks {missing}"


def restarted(place):
    """*Restart and run all*: the helper files are there, Drive's dialog is closed, the run is made
    here.
    """
    before, content = freeze(), place.folder / "content"
    session = Session(
        make_notebook(place.address, drive="True"), content, place.stand_in, DIALOG_CLOSED="1"
    )
    with session.running():
        shown = session.run()
    reason = "Google Drive is not used: Error: credential propagation was unsuccessful."
    assert shown.count("Google Drive") == 1 and reason in shown
    check_files(content / "run", "checkpoint.pt", "s10_model.pt", "results.json", "loss_curves.png")
    assert freeze() == before and not (content / "s10" / "s10").exists()


def kaggle(place):
    """No google.colab, a working folder with a space, images in read-only class folders; Drive
    asked for in vain.
    """
    images, working = place.folder / "input" / "three-colours", place.folder / "working here"
    make_images(images)
    before = state(images)
    subprocess.run(["chmod", "-R", "a-w", images], check=True)
    session = Session(
        make_notebook(place.address, data=str(images), drive="True"),
        working,
        KAGGLE_KERNEL_RUN_TYPE="Interactive",
    )
    try:
        with session.running():
            shown = session.run()
    finally:
        subprocess.run(["chmod", "-R", "u+w", images], check=True)
    assert shown.count("Google Drive is not used: only Colab has it.") == 1
    assert "three-colours" in shown and "epoch 1/1" in shown
    check_files(working / "run", "checkpoint.pt", "s10_model.pt", "results.json", "loss_curves.png")
    assert list((working / "data" / "cache").glob("*.npz")) and state(images) == before


REHEARSALS = (first_time, restarted, kaggle)


def passes(rehearsal, place):
    """Rehearse, and say how that went."""
    begun, outcome = time.monotonic(), "passed"
    try:
        rehearsal(place)
    except (AssertionError, CellExecutionError) as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line
        outcome = f"FAILED: {re.sub(COLOURS, '', str(error)) or line}"
    say(f"{rehearsal.__name__} ({time.monotonic() - begun:.0f} s): {outcome}")
    return outcome == "passed"


def main():
    parser = argparse.ArgumentParser(description="Rehearse Colab and Kaggle on this computer.")
    parser.add_argument("only", nargs="*", help="names of rehearsals; without any, all of them")
    only = parser.parse_args().only
    environment()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder).resolve())
        passed = [
            passes(rehearsal, place)
            for rehearsal in REHEARSALS
            if not only or rehearsal.__name__ in only
        ]
    sys.exit(f"{passed.count(False)} of {len(passed)} rehearsals failed" if False in passed else 0)


if __name__ == "__main__":
    main()

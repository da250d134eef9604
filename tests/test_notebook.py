"""The notebook: what is committed, and a run of it from top to bottom on the sample."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from rendered import check_outputs, code_cells, pictures, texts

import comparison

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "S10_model.ipynb"
FIGURES = [
    "sample_images",
    "transforms",
    "model",
    "receptive_field",
    "lr_finder",
    "onecycle_lr",
    "loss_curves",
    "class_accuracy",
    "confusion_matrix",
    "misclassified_images",
    "gradcam",
    "own_pictures",
]
COMPARED = ["ablation_curves", "ablation"]  # of `make results`, drawn again from misc/ablation.json
# The real network, the fewest pictures: 80 * 4 in the range test, 20 in training
SETTINGS = dict(data="sample", profile="quick", limit="20", epochs="1", batch_size="4", workers="0")


def check_complete(notebook):
    """Run in one go from the first cell to the last, with every figure."""
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert len(pictures(notebook)) == len(FIGURES) + len(COMPARED)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook, run in a kernel of its own as `make run` does it; (notebook, its folder, what was printed)."""
    out = tmp_path_factory.mktemp("notebook")
    parameters = [word for name, value in SETTINGS.items() for word in ("-p", name, value)]
    command = [sys.executable, "tests/run_notebook.py", NOTEBOOK.name, str(out), *parameters]
    # as at home: the tests' own backend would keep the kernel from showing figures
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return nbformat.read(out / NOTEBOOK.name, as_version=4), out, done.stdout


def test_runs_from_top_to_bottom_without_error_or_warning(executed):
    notebook, _, printed = executed
    check_outputs(notebook)
    check_complete(notebook)
    assert "epoch  1/1" in printed  # the story unfolds while it runs


def test_leaves_figures_results_weights_and_a_page(executed):
    _, out, _ = executed
    for name in FIGURES:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
    numbers = json.loads((out / "results.json").read_text())
    assert numbers["data"] == "sample data, not CIFAR-10"
    assert (numbers["pictures"], numbers["test_pictures"], numbers["epochs"], numbers["batch_size"]) == (20, 4, 1, 4)
    assert (out / "s10_model.pt").stat().st_size > 26_000_000
    assert "<img" in (out / "S10_model.html").read_text()


def test_says_that_the_sample_is_not_cifar10_and_computes_its_words(executed):
    notebook, out, _ = executed
    shown = "\n".join(texts(notebook))
    numbers = json.loads((out / "results.json").read_text())
    assert "sample data, not CIFAR-10" in shown and "This is a shortened run" in shown
    assert f"{numbers['final_test_acc']:.2f} % test accuracy after epoch 1" in shown
    assert numbers["analysis"] in shown


def test_parameters_cell_is_tagged_and_replaced(executed):
    source = next(c.source for c in code_cells(executed[0]) if "parameters" in c.metadata.get("tags", []))
    assert 'data = "sample"' in source.replace("'", '"') and "limit = 20" in source


def test_committed_notebook_shows_an_executed_run_of_real_pictures():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    check_complete(notebook)
    assert "CIFAR-10, JPEG edition" in "\n".join(texts(notebook))


def test_committed_notebook_and_results_tell_one_story():
    shown = "\n".join(texts(nbformat.read(NOTEBOOK, as_version=4)))
    numbers = json.loads((ROOT / "misc/results.json").read_text())
    assert f"{numbers['final_test_acc']:.2f} % test accuracy after epoch {numbers['epochs']}" in shown
    for row in numbers["history"][-5:]:
        assert f"| {row['epoch']} | {row['train_loss']:.4f} | {row['train_acc']:.2f} % |" in shown
    assert comparison.block(comparison.read(ROOT / "misc/ablation.json")) in shown
    for name in FIGURES + COMPARED:
        assert (ROOT / f"misc/{name}.png").is_file(), name


def test_cells_are_short():
    for cell in code_cells(nbformat.read(NOTEBOOK, as_version=4)):
        lines = [line for line in cell.source.splitlines() if line and not re.match(r"import |from |#", line)]
        assert len(lines) <= 15, cell.source

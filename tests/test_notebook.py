"""The notebook: what is committed, a run of it on the sample, and what can stop one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html import escape
from pathlib import Path

import nbformat
import pytest
import torch
from rendered import check_outputs, code_cells, images, texts
from run_notebook import set_parameters

from extras import distributed, notebook, report
from extras.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "S10_model.ipynb"
FIGURES = [
    "sample_images",
    "transforms",
    "blocks",
    "model",
    "receptive_field",
    "lr_finder",
    "onecycle_lr",
    "loss_curves",
    "confusion_matrix",
    "misclassified_images",
    "gradcam",
    "predictions",
]
# The real network, the fewest images: 80 * 4 in the range test, 20 in training
SETTINGS = dict(data="sample", profile="quick", limit="20", epochs="1", batch_size="4", workers="0")
DEFAULTS = dict(
    data="auto",
    profile="auto",
    epochs=None,
    batch_size=None,
    limit=None,
    seed=0,
    lr_max=None,
    lr_min=None,
    loader="auto",
    precision="auto",
    device="auto",
    workers=None,
    out=None,
    resume=True,
    drive=False,
)
# Functions whose code the notebook shows, by a line of each
SHOWN = [
    "A.CoarseDropout(",
    "nn.Conv2d(",
    "x + r1",
    "torch.optim.AdamW(",
    "lr_scheduler.OneCycleLR(",
    "scaler.scale(",
]


def start(notebook, out, values):
    """Run a notebook as `make run` does."""
    words = [word for name, value in values.items() for word in ("-p", name, value)]
    environment = os.environ | dict(OMP_NUM_THREADS="1")
    # as at home: the tests' own backend would keep the kernel from showing figures
    del environment["MPLBACKEND"]
    command = [sys.executable, "tests/run_notebook.py", str(notebook), str(out), *words]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def check_complete(made):
    """Run from the first cell to the last, with every figure, and shown by GitHub as it is."""
    counts = [cell.execution_count for cell in code_cells(made)]
    assert counts == list(range(1, len(counts) + 1))
    asked = sum(cell.source.count("notebook.show(") for cell in made.cells)
    assert len(images(made)) == asked >= len(FIGURES)
    check_outputs(made)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """(the executed notebook, its folder, what was printed)"""
    out = tmp_path_factory.mktemp("note") / "my run"
    run = start(NOTEBOOK.name, out, SETTINGS | dict(out=str(out)))
    printed, errors = run.communicate(timeout=1800)
    assert run.returncode == 0, printed[-3000:] + errors[-3000:]
    return nbformat.read(out / NOTEBOOK.name, as_version=4), out, printed


def test_runs_from_top_to_bottom_without_error_or_warning(executed):
    made, out, printed = executed
    check_complete(made)
    assert "epoch 1/1" in printed and "LRMAX" in printed  # the story unfolds while it runs
    shown = "\n".join(texts(made))
    numbers = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert "sample data, not CIFAR-10" in shown
    assert "profile quick: 1 epochs of 20 training images" in shown
    assert report.result(numbers) in shown and report.epoch_table(numbers["history"]) in shown
    for line in SHOWN:
        assert line in shown, line


def test_a_smaller_run_says_below_its_result_that_it_is_one(executed):
    made, out, _ = executed
    (cell,) = (cell for cell in code_cells(made) if cell.id == "s10-results")
    (output,) = (o for o in cell.outputs if "text/markdown" in o.get("data", {}))
    numbers = json.loads((out / "results.json").read_text(encoding="utf-8"))
    _, found, below = output.data["text/markdown"].partition(report.result(numbers))
    assert found and "*sample*" in below


def test_leaves_figures_results_weights_and_a_page_with_alt_texts(executed):
    made, out, _ = executed
    for name in FIGURES:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
    numbers = json.loads((out / "results.json").read_text(encoding="utf-8"))
    expected = dict(images=20, test_images=4, epochs=1, batch_size=4, world_size=1)
    assert expected == {name: numbers[name] for name in expected}
    assert numbers["data"] == "sample data, not CIFAR-10" and len(numbers["classes"]) == 10
    assert len(torch.load(out / "s10_model.pt", weights_only=True)) == 49
    page = (out / "S10_model.html").read_text(encoding="utf-8")
    for _, metadata in images(made):
        assert f'alt="{escape(metadata["alt"])}"' in page
    assert "No description has been provided" not in page


def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_committed_notebook_is_valid_small_complete_and_one_story_with_the_results():
    made = committed()
    nbformat.validate(made)
    check_complete(made)
    assert NOTEBOOK.stat().st_size < 4_000_000
    assert not re.search(r"@[A-Z]+@", "\n".join(cell.source for cell in made.cells))
    shown = "\n".join(texts(made))
    numbers = json.loads((ROOT / "misc/results.json").read_text(encoding="utf-8"))
    assert report.result(numbers) in shown
    assert report.epoch_table(numbers["history"], last=5) in shown
    assert f"LRMIN {numbers['lr_min']:.2e}, LRMAX {numbers['lr_max']:.2e}" in shown
    for line in SHOWN:
        assert line in shown, line
    for name in FIGURES:
        assert (ROOT / f"misc/{name}.png").is_file(), name


def test_cells_are_short_and_parameters_are_those_of_a_first_run():
    cells = code_cells(committed())
    (parameters,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    others = [cell for cell in cells if cell is not parameters]
    lines = [len(re.findall(r"(?m)^.*\S", cell.source)) for cell in others]
    assert max(lines) <= 13 and sum(lines) / len(lines) < 7, lines
    values = {}
    exec(parameters.source, values)
    assert {name: values[name] for name in values if not name.startswith("__")} == DEFAULTS


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("data", "2024", "2024"),
        ("data", 'my "best" it\'s', 'my "best" it\'s'),
        ("data", "C:\\new\\猫😀", "C:\\new\\猫😀"),
        ("out", "None", "None"),
        ("limit", "20", 20),
        ("epochs", "None", None),
        ("resume", "False", False),
        ("seed", "one", "one"),
        ("lr_max", "2.5e-3", 2.5e-3),
        ("lr_min", "0.0001", 1e-4),
        ("lr_max", "None", None),
        ("device", "cpu", "cpu"),
    ],
)
def test_parameters_arrive_as_they_are_meant(name, given, meant):
    made = committed()
    for _ in range(2):  # also over an older value
        values, cell = {}, set_parameters(made, {name: given})
        exec(cell.source, values)
        assert values[name] == meant and "halve it if" in cell.source


def test_make_run_passes_its_words_on():
    words = ["DATA=2024", "OUT=my runs", "RESUME=no", "BATCH_SIZE=64"]
    make = ["make", "--no-print-directory", "-n", "run", "PY=python", *words]
    command = subprocess.check_output(make, cwd=ROOT, text=True).splitlines()[-1]
    for part in ('-p data "2024"', '-p out "my runs"', "-p resume False", '-p batch_size "64"'):
        assert part in command


STOPPED = {
    "interrupted": (
        "time.sleep(900)",
        "interrupted; the same command goes on after the last finished epoch",
    ),
    "dead": (
        "time.sleep(2), os.kill(os.getpid(), 9)",
        "its kernel died, most often for want of memory",
    ),
    "failed": ("raise ValueError('no such data')", "ValueError: no such data"),
}


@pytest.mark.parametrize("how", STOPPED)
def test_a_run_that_is_stopped_keeps_what_there_is_and_says_a_sentence(how, tmp_path):
    action, sentence = STOPPED[how]
    code = "import os, time\ntry:\n    print('epoch 1', flush=True)\n"
    code += f"    {action}\nfinally:\n    print('kept')"
    cells = [
        nbformat.v4.new_code_cell("seed = 0", metadata=dict(tags=["parameters"])),
        nbformat.v4.new_code_cell(code),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "made.ipynb")
    run = start(tmp_path / "made.ipynb", tmp_path / "out", {})
    if how == "interrupted":
        assert run.stdout.readline() == "epoch 1\n"
        time.sleep(0.5)  # while it sends its message, the kernel itself would log the interrupt
        run.send_signal(signal.SIGINT)
    printed, errors = run.communicate(timeout=600)
    assert run.returncode == 1 and "Traceback" not in printed + errors
    assert errors.splitlines()[-1].startswith(f"the notebook stopped: {sentence}"), errors
    shown = "".join(texts(nbformat.read(tmp_path / "out/made.ipynb", as_version=4)))
    assert "epoch 1" in shown and ("kept" in shown) == (how != "dead")
    assert (tmp_path / "out/made.html").is_file()


def test_all_gpus_train_and_the_next_cell_finds_what_is_on_the_disk(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, dict(epochs=2))

    def torchrun(processes, arguments):
        """What main.py does on two GPUs, in short."""
        values = ["--out", str(tmp_path), "--data", "2024", "--batch-size", "512"]
        assert (processes, arguments) == (2, values)
        theirs = Checkpoint(tmp_path, dict(epochs=2))
        theirs.choices = dict(world_size=2)
        theirs.save(history=[dict(seconds=1.0)] * 2, model={}, hyperparameters={})

    monkeypatch.setattr(distributed, "torchrun", torchrun)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    notebook.train_on_all_gpus(checkpoint, data="2024", batch_size=512, limit=None)
    assert len(checkpoint.restore()) == 2  # as `fit` asks
    assert checkpoint.state["choices"] == dict(world_size=2)  # what results.json will say
    checkpoint.release()

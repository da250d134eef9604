"""The notebook's exercises: each changes one line, ends without an error, and shows in the results.

`python tests/test_exercises.py FOLDER …` runs the notebook's cells in each folder, a copy of the
project with one line changed. The copies have a narrow network and a small sample: what is tried is
the change, not the accuracy.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from run_notebook import set_parameters

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "S10_model.ipynb"
PARAMETERS = dict(
    data="sample", profile="quick", limit="16", epochs="6", batch_size="8", workers="0", out="made"
)
# name: (the words in the notebook, the file, the line's text before, and after)
EXERCISES = {
    "plain": (
        "models.s10_plain",
        NOTEBOOK,
        "model = models.s10_model(",
        "model = models.s10_plain(",
    ),
    "late_peak": ("PEAK = 12 / 24", "train.py", "\nPEAK = 5 / 24", "\nPEAK = 12 / 24"),
    "annihilation": (
        "final_div_factor=1e4",
        "train.py",
        "final_div_factor=1,",
        "final_div_factor=1e4,",
    ),
    "steepest": (
        "found.lr_steepest",
        NOTEBOOK,
        "scheduler = train.one_cycle(",
        "found.lr_max = found.lr_steepest\nscheduler = train.one_cycle(",
    ),
    "no_cutout": ("`p=0`", "transform.py", "            p=1,\n", "            p=0,\n"),
    "batches": ("batch_size = 64", NOTEBOOK, "\nbatch_size = 8 ", "\nbatch_size = 64 "),
}
SAMPLE = """
import numpy as np
SAMPLE_CLASSES = tuple("abcdefghij")
def draw_sample(train=True):  # noise whose brightness depends on the class
    rng, labels = np.random.default_rng(int(train)), np.arange(100) % 10
    images = rng.integers(0, 100, (100, 32, 32, 3))
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * label : 3 * label + 5, label % 3] += 150
    return images.astype(np.uint8), labels
"""


def copy_project(folder):
    """All helper files and the notebook as a script, with a narrow network and few images."""
    for name in ("extras", "examples", "experiments", "misc"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.pt"),
        )
    for file in ROOT.glob("*.py"):
        shutil.copy(file, folder)
    write(folder / "extras/sample.py", SAMPLE)
    narrow = re.sub(
        r"\b(64|128|256|512)\b", lambda n: str(int(n[0]) // 16), read(folder / "models.py")
    )
    write(folder / "models.py", narrow)
    # PNG files in a hurry
    hasty = read(folder / "utils.py").replace('"optimize": True', '"optimize": False')
    write(folder / "utils.py", hasty)
    cells = nbformat.read(ROOT / NOTEBOOK, as_version=4).cells
    cells = [cell for cell in cells if cell.cell_type == "code"]
    set_parameters(SimpleNamespace(cells=cells), PARAMETERS)
    write(folder / NOTEBOOK, "\n# cell\n".join(cell.source for cell in cells))


def read(path):
    return path.read_text(encoding="utf-8")


def write(path, text):
    path.write_text(text, encoding="utf-8")


def change(folder, exercise):
    _, file, before, after = EXERCISES[exercise]
    text = read(folder / file)
    assert text.count(before) == 1, f"{exercise}: {file} has {before!r} {text.count(before)} times"
    write(folder / file, text.replace(before, after))


def test_each_exercise_is_in_the_notebook_and_changes_one_line(tmp_path):
    from experiments import depth, gradient_flow  # here, for the script below runs in a copy

    asked = nbformat.read(ROOT / NOTEBOOK, as_version=4).cells[-1].source
    numbers = re.findall(r"(?m)^(\d+)\. ", asked)
    assert len(numbers) == len(EXERCISES)
    for name, (words, *_) in EXERCISES.items():
        assert words in asked, name
        copy_project(tmp_path / name)
        change(tmp_path / name, name)
    cells = nbformat.read(ROOT / NOTEBOOK, as_version=4).cells
    (begins,) = re.findall(r"the cell that begins with `([^`]+)`", asked)
    assert [cell.source.startswith(begins) for cell in cells].count(True) == 1
    for experiment in (depth, gradient_flow):  # those without a change: their rows are there
        name = experiment.__name__.partition(".")[2]
        (keys,) = re.findall(rf'`{name}\.main\(\[.*?"--rows", "([^"]+)"', asked)
        assert set(keys.split(",")) <= {row.key for row in experiment.ROWS}
    solved = re.findall(r"(?m)^## (\d+)\. ", read(ROOT / "examples/solutions.md"))
    assert solved == numbers and "](examples/solutions.md)" in asked


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """results.json of an unchanged run and of each exercise, and what was printed of all."""
    folder = tmp_path_factory.mktemp("exercises")
    names = ["unchanged", *EXERCISES]
    for name in names:
        copy_project(folder / name)
        if name in EXERCISES:
            change(folder / name, name)
    command = [sys.executable, __file__, *(str(folder / name) for name in names)]
    environment = os.environ | dict(
        OMP_NUM_THREADS="1", MPLBACKEND="Agg", NO_ALBUMENTATIONS_UPDATE="1"
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    found = {name: json.loads(read(folder / name / "made/results.json")) for name in names}
    return found, folder


@pytest.mark.long
def test_each_exercise_ends_without_error_and_shows_in_the_results(results):
    found, folder = results
    usual = found["unchanged"]
    rates = {name: [row["lr"] for row in made["history"]] for name, made in found.items()}
    assert found["plain"]["network"] == "s10_plain" and usual["network"] == "s10_model"
    assert found["plain"]["history"][0]["train_loss"] != usual["history"][0]["train_loss"]
    peaks = {name: rate.index(max(rate)) for name, rate in rates.items()}
    assert (peaks["unchanged"], peaks["late_peak"]) == (0, 2)  # of six epochs
    assert rates["unchanged"][-1] == pytest.approx(usual["lr_min"])
    assert rates["annihilation"][-1] == pytest.approx(usual["lr_min"] / 1e4)
    assert max(rates["unchanged"]) == pytest.approx(usual["lr_max"])
    assert max(rates["steepest"]) == pytest.approx(usual["lr_steepest"])
    assert found["steepest"]["lr_max"] == usual["lr_steepest"]
    assert found["batches"]["batch_size"] == 64
    unchanged = {file.name for file in (folder / "unchanged/made").glob("*.png")}
    assert len(unchanged) == 12
    for name in EXERCISES:
        assert {file.name for file in (folder / name / "made").glob("*.png")} == unchanged, name
    for name, figure in (("no_cutout", "transforms.png"), ("late_peak", "onecycle_lr.png")):
        changed = (folder / name / "made" / figure).read_bytes()
        assert changed != (folder / "unchanged/made" / figure).read_bytes(), name


def run_cells(folder):
    """The notebook's cells in this process, as a kernel started in the folder runs them."""
    os.chdir(folder)
    sys.path[0] = folder
    names = {"__name__": "__main__"}
    for source in read(Path(NOTEBOOK)).split("\n# cell\n"):
        exec(compile(source, "a cell", "exec"), names)


def main(folders):
    """One child for each folder: they share the slow imports, but none of the project's files."""
    import albumentations  # noqa: F401
    import IPython.display  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import torch._dynamo  # noqa: F401  an optimizer imports it
    import torch_lr_finder  # noqa: F401
    import torchsummary  # noqa: F401
    import torchvision  # noqa: F401

    for folder in folders:
        child = os.fork()
        if child == 0:
            run_cells(folder)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{folder}: see above")


if __name__ == "__main__":
    main(sys.argv[1:])

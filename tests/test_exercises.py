"""The notebook's exercises: each is a change of one line, ends without an error, and shows in the
results.

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
        "one_cycle(optimizer, found.lr_max",
        "one_cycle(optimizer, found.lr_steepest",
    ),
    "no_cutout": ("`p=0`", "transform.py", "fill=fill, p=1\n", "fill=fill, p=0\n"),
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
    (folder / "extras/sample.py").write_text(SAMPLE)
    models, utils = folder / "models.py", folder / "utils.py"
    models.write_text(
        re.sub(r"\b(64|128|256|512)\b", lambda n: str(int(n[0]) // 16), models.read_text())
    )
    utils.write_text(
        utils.read_text().replace('"optimize": True', '"optimize": False')
    )  # PNG files in a hurry
    cells = [
        cell
        for cell in nbformat.read(ROOT / NOTEBOOK, as_version=4).cells
        if cell.cell_type == "code"
    ]
    set_parameters(SimpleNamespace(cells=cells), PARAMETERS)
    (folder / NOTEBOOK).write_text("\n# cell\n".join(cell.source for cell in cells))


def change(folder, exercise):
    _, file, before, after = EXERCISES[exercise]
    text = (folder / file).read_text()
    assert text.count(before) == 1, (
        f"{exercise}: {before!r} stands {text.count(before)} times in {file}"
    )
    (folder / file).write_text(text.replace(before, after))


def test_each_exercise_is_in_the_notebook_and_changes_one_line(tmp_path):
    asked = nbformat.read(ROOT / NOTEBOOK, as_version=4).cells[-1].source
    assert len(re.findall(r"(?m)^\d+\. ", asked)) == len(EXERCISES)
    for name, (words, *_) in EXERCISES.items():
        assert words in asked, name
        copy_project(tmp_path / name)
        change(tmp_path / name, name)


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
    return {
        name: json.loads((folder / name / "made/results.json").read_text()) for name in names
    }, folder


@pytest.mark.long
def test_each_exercise_ends_without_error_and_shows_in_the_results(results):
    found, folder = results
    usual, rates = (
        found["unchanged"],
        {name: [row["lr"] for row in made["history"]] for name, made in found.items()},
    )
    assert found["plain"]["history"][0]["train_loss"] != usual["history"][0]["train_loss"]
    peaks = {name: rate.index(max(rate)) for name, rate in rates.items()}
    assert (peaks["unchanged"], peaks["late_peak"]) == (0, 2)  # of six epochs
    assert rates["unchanged"][-1] == pytest.approx(usual["lr_min"])
    assert rates["annihilation"][-1] == pytest.approx(usual["lr_min"] / 1e4)
    assert max(rates["unchanged"]) == pytest.approx(usual["lr_max"])
    assert max(rates["steepest"]) == pytest.approx(usual["lr_steepest"])
    assert found["batches"]["batch_size"] == 64
    for name in EXERCISES:
        made, unchanged = (
            {file.name for file in (folder / n / "made").glob("*.png")} for n in (name, "unchanged")
        )
        assert made == unchanged and len(made) == 11
    for name, figure in (("no_cutout", "transforms.png"), ("late_peak", "onecycle_lr.png")):
        before, after = ((folder / n / "made" / figure).read_bytes() for n in (name, "unchanged"))
        assert before != after, name


def run_cells(folder):
    """The notebook's cells in this process, as a kernel that was started in the folder runs
    them.
    """
    os.chdir(folder)
    sys.path[0] = folder
    names = {"__name__": "__main__"}
    for source in Path(NOTEBOOK).read_text().split("\n# cell\n"):
        exec(compile(source, "a cell", "exec"), names)


def main(folders):
    """One child for each folder; they share the imports that take long, but none of the project's
    files.
    """
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

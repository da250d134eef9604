"""The notebook's exercises: each is a change of one line, ends without an error, and shows in the results.

`python tests/test_exercises.py FOLDER …` runs the notebook's cells in each folder, a copy of the project with one line
changed. The copies have a narrow network and a small sample: what is tried is the change, not the accuracy.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "S10_model.ipynb"
PARAMETERS = dict(data="sample", profile="quick", limit=16, epochs=6, batch_size=8, workers=0, out="runs/exercise")
# name: (the words in the notebook, the file, the line's text before, and after)
EXERCISES = {
    "twin": ("models.s10_plain", NOTEBOOK, "model = models.s10_model(", "model = models.s10_plain("),
    "late_peak": ("PEAK = 12 / 24", "train.py", "\nPEAK = 5 / 24", "\nPEAK = 12 / 24"),
    "annihilation": ("final_div_factor=1e4", "train.py", "final_div_factor=1,", "final_div_factor=1e4,"),
    "ten_times": ("multiply `lr_max` by 10", "lr_finder.py", "    lr_max = float(", "    lr_max = 10 * float("),
    "no_holes": ("`p=0`", "transform.py", "            p=1,\n        ),\n    ]", "            p=0,\n        ),\n    ]"),
    "batches": ("batch_size = 64", NOTEBOOK, "\nbatch_size = 8\n", "\nbatch_size = 64\n"),
}


def copy_project(folder):
    """All helper files and the notebook as a script, with a narrow network and few pictures to draw."""
    folder.mkdir()
    for file in ROOT.glob("*.py"):
        shutil.copy(file, folder)
    shutil.copytree(ROOT / "misc", folder / "misc", ignore=lambda _, names: [n for n in names if "original" not in n])
    models = folder / "models.py"
    models.write_text(re.sub(r"\b(64|128|256|512)\b", lambda n: str(int(n[0]) // 16), models.read_text()))
    drawing = folder / "drawing.py"
    drawing.write_text(drawing.read_text().replace('"optimize": True', '"optimize": False'))  # PNG files in a hurry
    sample = folder / "sample.py"
    sample.write_text(re.sub(r"(TRAIN|TEST)_PICTURES = \d+", r"\1_PICTURES = 100", sample.read_text()))
    cells = [cell for cell in nbformat.read(ROOT / NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    sources = [cell.source for cell in cells]
    i = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    for name, value in PARAMETERS.items():
        sources[i], found = re.subn(rf"(?m)^{name} = (\"[^\"]*\"|\S+)", f"{name} = {json.dumps(value)}", sources[i])
        assert found == 1, name
    (folder / NOTEBOOK).write_text("\n# cell\n".join(sources))


def change(folder, exercise):
    _, file, before, after = EXERCISES[exercise]
    text = (folder / file).read_text()
    assert text.count(before) == 1, f"{exercise}: {before!r} stands {text.count(before)} times in {file}"
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
    environment = os.environ | dict(OMP_NUM_THREADS="1", MPLBACKEND="Agg", NO_ALBUMENTATIONS_UPDATE="1")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return {name: json.loads((folder / name / "runs/exercise/results.json").read_text()) for name in names}, folder


@pytest.mark.long
def test_each_exercise_ends_without_error_and_shows_in_the_results(results):
    found, folder = results
    rates = {name: [row["lr"] for row in numbers["history"]] for name, numbers in found.items()}
    assert found["twin"]["model"] == "CustomResNet without additions" != found["unchanged"]["model"]
    assert found["twin"]["history"] != found["unchanged"]["history"]
    peaks = {name: rate.index(max(rate)) for name, rate in rates.items()}
    assert (peaks["unchanged"], peaks["late_peak"]) == (0, 2)  # of six epochs
    assert rates["unchanged"][-1] == pytest.approx(found["unchanged"]["lr_min"])
    assert rates["annihilation"][-1] == pytest.approx(found["annihilation"]["lr_min"] / 1e4)
    assert found["ten_times"]["lr_max"] == pytest.approx(10 * found["unchanged"]["lr_max"])
    assert found["batches"]["batch_size"] == 64
    for name in EXERCISES:
        made, unchanged = (folder / n / "runs/exercise" for n in (name, "unchanged"))
        assert {file.name for file in made.glob("*.png")} == {file.name for file in unchanged.glob("*.png")}
    holes = [(folder / n / "runs/exercise/transforms.png").read_bytes() for n in ("no_holes", "unchanged")]
    assert holes[0] != holes[1]
    cycles = [(folder / n / "runs/exercise/onecycle_lr.png").read_bytes() for n in ("annihilation", "unchanged")]
    assert cycles[0] != cycles[1]


def run_cells(folder):
    """The notebook's cells in this process, as a kernel that was started in the folder runs them."""
    os.chdir(folder)
    sys.path[0] = folder
    names = {"__name__": "__main__"}
    for source in Path(NOTEBOOK).read_text().split("\n# cell\n"):
        exec(compile(source, "a cell", "exec"), names)


def main(folders):
    """One child for each folder; they share the imports that take long, but none of the project's files."""
    import albumentations  # noqa: F401
    import IPython.display  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import scipy.ndimage  # noqa: F401
    import torchsummary  # noqa: F401
    import torchvision  # noqa: F401

    for folder in folders:
        child = os.fork()
        if child == 0:
            try:
                run_cells(folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{folder}: see above")


if __name__ == "__main__":
    main(sys.argv[1:])

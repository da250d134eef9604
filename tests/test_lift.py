"""The README's table "Take a helper along": what each row names, alone in an empty folder, does what the row says."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Take a helper along")[2].partition("\n## ")[0]
PACKAGES = {"torch-lr-finder": "torch_lr_finder", "Pillow": "PIL", "NumPy": "numpy", "SciPy": "scipy"}
COMES_ALONG = {"cv2"}  # with albumentations
COMMON = """
import numpy as np, torch
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 2))
loader = [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))] * 4
optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.01), nn.CrossEntropyLoss()
pictures = np.zeros((6, 32, 32, 3), np.uint8)
"""
# What the last column of a row promises, by its first word
USES = {
    "train": "from train import train; assert train(model, 'cpu', loader, optimizer, criterion)[0] > 0",
    "one_cycle": "from lifted import one_cycle; assert one_cycle(optimizer, 0.1, len(loader), 2).total_steps == 8",
    "UnNormalize": """
from lifted import UnNormalize
tensor = (torch.full((3, 4, 4), 0.25) - 0.5) / 0.2
assert torch.allclose(UnNormalize((0.5,) * 3, (0.2,) * 3)(tensor), torch.tensor(0.25))
""",
    "fit": """
from checkpoint import Checkpoint
from train import fit
parts = (model, "cpu", loader, loader, optimizer, criterion, None, 2)
assert len(fit(*parts, checkpoint=Checkpoint("run", dict(epochs=2)), log=str)) == 2
""",
    "find_lr": "from lr_finder import find_lr; assert find_lr(model, 'cpu', loader, optimizer, criterion).lr_max > 0",
    "DeviceLoader": """
from loader import DeviceLoader
dataset = type("Set", (), dict(data=pictures, targets=[0, 1] * 3, __len__=lambda self: 6))()
assert [len(labels) for _, labels in DeviceLoader(dataset, 4, "cpu")] == [4, 2]
""",
    "plot_mistakes": """
from utils import plot_mistakes, plot_model
plot_mistakes(pictures, [0] * 6, [1] * 6, [0.5] * 6, ["a", "b"], path="mistakes.png")
""",
    "grad_cam": "from gradcam import grad_cam; assert grad_cam(model, loader[0][0], [0] * 4, model[1]).ndim == 3",
    "read_folder": """
from pathlib import Path
from PIL import Image
from folder import read_folder
for place in ("train/a", "train/b", "test/a", "test/b"):
    Path("photos", place).mkdir(parents=True)
    Image.new("L", (50, 40)).save(Path("photos", place, "1.png"))
assert read_folder("photos", size=32, cache_dir="cache").train[0].shape == (2, 32, 32, 3)
""",
    "receptive_field": "from models import receptive_field; assert receptive_field(model)[0]['receptive_field'] == 3",
    "classify": "from test import classify; assert classify(model, pictures, (0.5,) * 3, (0.5,) * 3).shape == (6, 2)",
}


def rows():
    """For each row of the table: the name to start with, the cell of what to take, the packages that it needs."""
    for line in SECTION.splitlines():
        if line.startswith("| ") and "`" in line:
            _, take, needs, start = (cell.strip() for cell in line.strip("|").split(" | "))
            yield re.match(r"`(\w+)", start)[1], take, {PACKAGES.get(name, name) for name in needs.split(", ")}


def lift(take, folder):
    """Put what a row names into an empty folder: whole files, or the lines of functions, classes and constants.

    `a.py`, `b.py` are files; in "`one`, `two` of `a.py`, `THREE` of `b.py`" the names before "of" are lines.
    """
    folder.mkdir()
    names, lines = [], []
    for word, before in [(m[2], m[1]) for m in re.finditer(r"(of )?`([\w.]+)`", take)]:
        if not word.endswith(".py"):
            names.append(word)
        elif before:
            lines += [text for name in names for text in definition(ROOT / word, name)]
            names = []
        else:
            shutil.copy(ROOT / word, folder)
    assert not names, f"from which file are {names}?"
    if lines:
        (folder / "lifted.py").write_text("\n\n".join(["import torch", *lines]) + "\n")


def definition(path, name):
    """The lines of a function, a class or a constant."""
    text = path.read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        targets = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
        if name in [getattr(node, "name", None), *targets]:
            yield ast.get_source_segment(text, node)
            return
    raise AssertionError(f"{path.name} has no {name}")


def imported(node):
    """The packages that a file imports when it is imported itself, that is, outside its functions."""
    if isinstance(node, ast.FunctionDef):
        return set()
    found = {alias.name.partition(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
    found |= {node.module.partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()
    return found.union(*map(imported, ast.iter_child_nodes(node)))


RUNNER = """
import json, os, sys, traceback
import albumentations, filelock, matplotlib.pyplot, scipy.ndimage, torch, torch_lr_finder, torchvision
for folder, code in json.loads(sys.stdin.read()):
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            sys.path[0] = folder
            exec(code, {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("FAILED", os.path.basename(folder))
"""


def test_what_each_row_names_is_enough_alone_and_needs_the_packages_of_the_row(tmp_path):
    found = list(rows())
    assert sorted(use for use, _, _ in found) == sorted(USES)
    for use, take, needs in found:
        lift(take, tmp_path / use)
        files = list((tmp_path / use).glob("*.py"))
        used = set().union(*(imported(ast.parse(file.read_text(encoding="utf-8"))) for file in files))
        assert used - sys.stdlib_module_names - {file.stem for file in files} - COMES_ALONG == needs, use
    tasks = [[str(tmp_path / use), COMMON + USES[use]] for use, _, _ in found]
    environment = dict(PATH="/usr/bin:/bin", OMP_NUM_THREADS="1", MPLBACKEND="Agg", NO_ALBUMENTATIONS_UPDATE="1")
    options = dict(input=json.dumps(tasks), env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    done = subprocess.run([sys.executable, "-c", RUNNER], **options)
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr

"""The table of examples/README.md: what each row names, alone in an empty folder, does what the row
says.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTION = (
    (ROOT / "examples/README.md").read_text(encoding="utf-8").partition("## Take a helper along")[2]
)
PACKAGES = {"torch-lr-finder": "torch_lr_finder", "Pillow": "PIL", "NumPy": "numpy"}
COMMON = """
import numpy as np, torch
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 2))
loader = [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))] * 4
optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.01), nn.CrossEntropyLoss()
images = np.zeros((6, 32, 32, 3), np.uint8)
"""
# What the last column of a row promises, by its first word
USES = {
    "train": "from train import train; assert train(model, 'cpu', loader, optimizer, criterion)[0] > 0",
    "fit": """
from test import test
from train import fit, one_cycle
scheduler, evaluate = one_cycle(optimizer, 0.1, len(loader), 2), lambda: test(model, "cpu", loader, criterion)
assert len(fit(model, "cpu", loader, optimizer, criterion, scheduler, epochs=2, evaluate=evaluate)) == 2
""",
    "fit again": """
from extras.checkpoint import Checkpoint
from train import fit
options = dict(epochs=2, evaluate=lambda: (1.0, 50.0), checkpoint=Checkpoint("run", dict(epochs=2)))
fit(model, "cpu", loader, optimizer, criterion, **options)
assert len(Checkpoint("run", dict(epochs=2)).state["history"]) == 2
""",
    "one_cycle": "from lifted import one_cycle; assert one_cycle(optimizer, 0.1, len(loader), 2).total_steps == 8",
    "find_lr": "import extras.lr_finder as l; assert l.find_lr(model, 'cpu', loader, optimizer, criterion).lr_max > 0",
    "misclassified": "from test import *; assert len(misclassified(*predict(model, 'cpu', loader))) <= 16",
    "grad_cam": "import extras.gradcam as g; assert g.grad_cam(model, loader[0][0], [0] * 4, model[1]).ndim == 3",
    "DeviceLoader": "import dataset as d; assert len(d.DeviceLoader(d.ArrayDataset(images, [0, 1] * 3, 'ab'), 4)) == 2",
    "UnNormalize": """
from lifted import UnNormalize
assert torch.allclose(UnNormalize((0.5,) * 3, (0.2,) * 3)(torch.full((3, 4, 4), -1.25)), torch.tensor(0.25))
""",
    "plot_misclassified": "import utils; utils.plot_misclassified(images, [0] * 6, np.tile([0.2, 0.8], (6, 1)), 'ab')",
    "read_folder": """
from pathlib import Path
from PIL import Image
from extras.folder import read_folder
for place in ("train/a", "train/b", "test/a", "test/b"):
    Path("photos", place).mkdir(parents=True)
    Image.new("L", (50, 40)).save(Path("photos", place, "1.png"))
assert read_folder("photos", size=32, cache_dir="cache").train[0].shape == (2, 32, 32, 3)
""",
    "receptive_field": "from models import receptive_field; assert receptive_field(model)[0]['receptive_field'] == 3",
}


def rows():
    """For each row of the table: the name to start with, the cell of what to take, the packages
    that it needs.
    """
    seen = []
    for line in SECTION.splitlines():
        if line.startswith("| ") and "`" in line:
            _, take, needs, start = (cell.strip() for cell in line.strip("|").split(" | "))
            seen.append(re.match(r"`(\w+)", start)[1])
            use = seen[-1] + " again" * (seen.count(seen[-1]) - 1)
            yield use, take, {PACKAGES.get(name, name) for name in needs.split(", ")}


def lift(take, folder):
    """Put what a row names into an empty folder: whole files, or the lines of functions, classes
    and constants.

    `a.py`, `extras/b.py` are files; in "`one`, `two` of `a.py`, `THREE` of `b.py`" the names before
    "of" are lines.
    """
    (folder / "extras").mkdir(parents=True)
    names, lines = [], []
    for word, before in [(m[2], m[1]) for m in re.finditer(r"(of )?`([\w./]+)`", take)]:
        if not word.endswith(".py"):
            names.append(word)
        elif before:
            lines += [definition(ROOT / word, name) for name in names]
            names = []
        else:
            shutil.copy(ROOT / word, folder / word)
    assert not names, f"from which file are {names}?"
    (folder / "lifted.py").write_text("\n\n".join(["import torch", *lines] if lines else []))


def definition(path, name):
    """The lines of a function, a class or a constant."""
    text = path.read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if name in [
            getattr(node, "name", None),
            *(ast.unparse(target) for target in getattr(node, "targets", [])),
        ]:
            return ast.get_source_segment(text, node)
    raise AssertionError(f"{path.name} has no {name}")


def imported(node, deep):
    """The packages that a file imports when it is imported itself; with `deep`, those that its
    functions import too.
    """
    if isinstance(node, ast.FunctionDef) and not deep:
        return set()
    found = (
        {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.Import)
        else set()
    )
    found |= {node.module.partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()
    return found.union(*(imported(child, deep) for child in ast.iter_child_nodes(node)))


RUNNER = """
import json, os, sys
import filelock, matplotlib.pyplot, torch._dynamo, torch_lr_finder  # an optimizer imports torch._dynamo
for folder, code in json.loads(sys.stdin.read()):
    child = os.fork()  # they share the imports that take long
    if child == 0:
        os.chdir(folder)
        sys.path[0] = folder
        exec(code)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, folder
"""


def test_what_each_row_names_is_enough_alone_and_needs_the_packages_of_the_row(tmp_path):
    found = list(rows())
    assert sorted(use for use, _, _ in found) == sorted(USES)
    for use, take, needs in found:
        lift(take, tmp_path / use)
        files = list((tmp_path / use).rglob("*.py"))
        ours = {"extras", *(file.stem for file in files)}
        trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
        at_once, later = (
            set().union(*(imported(tree, deep) for tree in trees)) - ours for deep in (False, True)
        )
        assert at_once - sys.stdlib_module_names <= needs <= later, use
    tasks = [[str(tmp_path / use), COMMON + USES[use]] for use, _, _ in found]
    environment = dict(PATH="/usr/bin:/bin", OMP_NUM_THREADS="1", MPLBACKEND="Agg")
    options = dict(
        input=json.dumps(tasks),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    done = subprocess.run([sys.executable, "-c", RUNNER], **options)
    assert done.returncode == 0, done.stdout + done.stderr

"""examples/README.md: what each row of its table names works alone; so does every piece of code."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import dataset
import models
import transform
from examples import next_week
from test import predict, test, top_k
from train import fit, make_criterion, make_optimizer, one_cycle

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "examples/README.md").read_text(encoding="utf-8")
COMMON = """
import os, sys
sys.path.insert(0, os.getcwd())
import numpy as np, torch
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 2))
loader = [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))] * 4
optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.01), nn.CrossEntropyLoss()
images, maps = np.zeros((6, 32, 32, 3), np.uint8), np.random.rand(6, 4, 4)
chances, labels = np.tile([0.2, 0.8], (6, 1)), [0] * 6
def draw_folder():
    from pathlib import Path
    from PIL import Image
    for place in ("train/a", "train/b", "test/a", "test/b"):
        Path("photos", place).mkdir(parents=True)
        Image.radial_gradient("L").resize((50, 40)).save(Path("photos", place, "1.png"))
"""
# What the last column of a row promises, by its first word
USES = {
    "train": """
from train import train
assert train(model, 'cpu', loader, optimizer, criterion)[0] > 0
""",
    "fit": """
from test import test
from train import fit
evaluate = lambda: test(model, "cpu", loader, criterion)
assert len(fit(model, "cpu", loader, optimizer, criterion, epochs=2, evaluate=evaluate)) == 2
""",
    "Checkpoint": """
from extras.checkpoint import Checkpoint
from train import fit
for epochs in (1, 2):
    kept = Checkpoint("run", dict(lr=0.01))
    options = dict(epochs=epochs, evaluate=lambda: (1.0, 50.0), checkpoint=kept)
    fit(model, "cpu", loader, optimizer, criterion, **options)
assert [row["epoch"] for row in Checkpoint("run", dict(lr=0.01)).state["history"]] == [1, 2]
""",
    "one_cycle": """
from train import *
assert one_cycle(optimizer, 0.1, len(loader), 2).total_steps == 8
""",
    "find_lr": """
from extras.lr_finder import *
assert find_lr(model, 'cpu', loader, optimizer, criterion).lr_max > 0
""",
    "misclassified": """
from test import *
assert len(misclassified(*predict(model, 'cpu', loader))) <= 16
""",
    "top_k": """
from test import *
assert top_k(*predict(model, 'cpu', loader), k=2) == 100
""",
    "grad_cam": """
from extras.gradcam import *
assert grad_cam(model, loader[0][0], [0] * 4, model[1]).ndim == 3
""",
    "plot_gradcam": """
from extras.gradcam import *
plot_gradcam(images, labels, labels, maps, maps, 'ab')
""",
    "DeviceLoader": """
from dataset import *
assert len(DeviceLoader(ArrayDataset(images, [0, 1] * 3, 'ab'), 4)) == 2
""",
    "CifarDataset": """
from dataset import CifarDataset
try:
    CifarDataset("data", train=True)
except (RuntimeError, OSError) as error:
    assert "data" in str(error)
""",
    "load": """
import dataset
draw_folder()
assert dataset.load('photos', size=64).train.data.shape == (2, 64, 64, 3)
""",
    "Data": """
from dataset import *
split = ArrayDataset(images, labels, "ab")
assert len(loaders(Data("zeros", split, split), 4, loader="device")[0]) == 2
""",
    "UnNormalize": """
from dataset import UnNormalize
pixels = UnNormalize((0.5,) * 3, (0.2,) * 3)(torch.full((3, 4, 4), -1.25))
assert torch.allclose(pixels, torch.tensor(0.25))
""",
    "plot_misclassified": """
from utils import *
plot_misclassified(images, labels, chances, 'ab')
""",
    "read_folder": """
from extras.folder import read_folder
draw_folder()
assert read_folder("photos", size=32, cache_dir="cache").train[0].shape == (2, 32, 32, 3)
""",
    "receptive_field": """
from extras.receptive_field import *
assert receptive_field(model)[0]['receptive_field'] == 3
""",
}
RUNNER = """
import json, os, sys
import filelock, matplotlib.pyplot, torch._dynamo, torch_lr_finder, PIL.Image, tqdm  # once for all
for folder, code in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        exec(code)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, folder
"""


def test_what_each_row_names_is_enough_alone(tmp_path):
    rows = [
        line.split(" | ")
        for line in README.splitlines()
        if line.startswith("| ") and ".py`" in line
    ]
    rows = [row for row in rows if len(row) == 4]
    assert sorted(re.match(r"`(\w+)", row[3])[1] for row in rows) == sorted(USES)
    tasks = []
    for _, take, _, start in rows:
        name = re.match(r"`(\w+)", start)[1]
        (tmp_path / name / "extras").mkdir(parents=True)
        for file in re.findall(r"`([\w./]+)`", take):
            shutil.copy(ROOT / file, tmp_path / name / file)
        tasks.append([str(tmp_path / name), COMMON + USES[name]])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(tasks),
        env=dict(PATH="/usr/bin:/bin", OMP_NUM_THREADS="1", MPLBACKEND="Agg"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def small_data(classes=10):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (24, 32, 32, 3), np.uint8), np.arange(24) % classes
    split = dataset.ArrayDataset(images, labels, [str(i) for i in range(classes)])
    return dataset.Data("noise", split, split)


def names():
    """What a reader has when he comes to a piece of code."""
    data = small_data()
    layers = [nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 10)]
    model = nn.Sequential(*layers)
    train_loader, test_loader = dataset.loaders(data, 8, loader="device")
    criterion = make_criterion()
    modules = dict(torch=torch, torchvision=torchvision, dataset=dataset, models=models)
    functions = dict(fit=fit, test=test, predict=predict, top_k=top_k, one_cycle=one_cycle)
    return dict(
        modules | functions,
        transform=transform,
        make_optimizer=make_optimizer,
        data=data,
        device="cpu",
        epochs=3,
        model=model,
        train_loader=train_loader,
        test_loader=test_loader,
        criterion=criterion,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        evaluate=lambda: test(model, "cpu", test_loader, criterion),
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with photos and weights, torchvision's CIFAR-100 in small, and no C++ compiler."""
    monkeypatch.chdir(tmp_path)
    next_week.draw_shapes(tmp_path / "photos", train=4, test=2)
    (tmp_path / "misc").mkdir()
    about = dict(
        network="s10_model", classes=dataset.CLASSES, mean=transform.MEAN, std=transform.STD
    )
    (tmp_path / "misc/results.json").write_text(json.dumps(about), encoding="utf-8")
    torch.save(models.s10_model().state_dict(), "misc/s10_model.pt")
    hundred = small_data(100).train
    monkeypatch.setattr(torchvision.datasets, "CIFAR100", lambda *_, **__: hundred)
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled(model, backend="eager"))
    monkeypatch.setattr(transform, "HOLE", transform.HOLE)  # set back afterwards
    monkeypatch.setattr(transform, "PADDING", transform.PADDING)
    return tmp_path


def test_every_piece_of_code_in_the_readme_runs_and_trains(place):
    assert len(BLOCKS) == 10
    given = {}
    for code in BLOCKS:
        given = given if code.startswith("model.requires_grad_(True)") else names()
        before = {name: p.detach().clone() for name, p in given["model"].named_parameters()}
        exec(code, given)
        if code.startswith("data = dataset.load"):  # frozen: the body is the committed one
            body = torch.load("misc/s10_model.pt")
            state = given["model"].state_dict()
            assert all(
                torch.equal(state[n], body[n]) for n in body if "conv" in n or "0.weight" in n
            )
            assert given["model"].fc.weight.shape == (3, 512)
        elif "fit(" in code:
            after = dict(given["model"].named_parameters())
            weights = [name for name, p in after.items() if p.ndim > 1]
            assert all(not torch.equal(after[name], before[name]) for name in weights), code


def test_the_pieces_do_what_they_say(place, monkeypatch):
    code = {
        key: next(block for block in BLOCKS if key in block)
        for key in ("clip", "HOLE", "ema", "top_k")
    }
    given = names()
    exec(code["clip"], given)
    norms = [p.grad.norm() for p in given["model"].parameters()]
    assert torch.stack(norms).norm() <= 1.001

    given = names()
    exec(code["HOLE"], given)
    holes = [(image == 0).all(dim=0).sum().item() for image in next(iter(given["train_loader"]))[0]]
    assert set(holes) == {144}

    given = names()
    exec(code["ema"], given)
    pairs = zip(given["ema"].module.parameters(), given["model"].parameters(), strict=True)
    assert all(not torch.equal(averaged, last) for averaged, last in pairs if last.ndim > 1)

    given = names()
    exec(code["top_k"], given)
    labels, chances = given["labels"], given["probabilities"]
    five = [label in np.argsort(-row)[:5] for label, row in zip(labels, chances, strict=True)]
    assert top_k(chances, labels, k=5) == pytest.approx(100 * np.mean(five))

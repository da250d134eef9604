"""examples/: next week's assignment, done with the helpers as they are."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18

import dataset
import utils
from examples import next_week
from lr_finder import find_lr
from models import receptive_field
from train import make_criterion

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {"samples.png", "loss_curves.png", "confusion_matrix.png", "mistakes.png"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return next_week.draw_shapes(tmp_path_factory.mktemp("drawn") / "shapes", train=4, test=2)


def test_the_command_learns_a_folder_and_draws(shapes, tmp_path):
    command = [sys.executable, str(ROOT / "examples/next_week.py"), str(shapes), "--epochs", "2", "--out", "out"]
    environment = os.environ | dict(OMP_NUM_THREADS="1")  # from another folder than the repository's
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "18 of 18 pictures were not 64x64" in lines[0]
    assert lines[1] == "data: shapes, 12 training and 6 test pictures, 3 classes"
    rates = [line.split("LR ")[1].split()[0] for line in lines if line.startswith("epoch")]
    assert rates == ["2.00e-03", "2.00e-04"]  # StepLR took it down after the first epoch
    assert {file.name for file in (tmp_path / "out/shapes").glob("*.png")} == FIGURES


def test_grey_pictures_in_batches_that_do_not_divide_and_a_second_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(next_week, "BATCH", 5)
    folder = next_week.draw_shapes(tmp_path / "grey-shapes", grey=True, train=4, test=2)
    assert Image.open(next(folder.glob("train/*/*.png"))).mode == "L"
    arguments = [str(folder), "--epochs", "1", "--loader", "albumentations", "--out", str(tmp_path)]
    next_week.main(arguments)
    assert "18 of 18 pictures were not plain RGB (grey" in capsys.readouterr().out
    next_week.main(arguments)
    assert "the run is finished" in capsys.readouterr().out
    seen = dataset.load(folder, root=tmp_path, size=64, log=str).train.data
    assert seen.shape[1:] == (64, 64, 3) and (seen[..., 0] == seen[..., 2]).all()


def test_without_a_folder_it_draws_one(tmp_path, monkeypatch):
    monkeypatch.setattr(next_week, "learn", lambda data, *_: (data.describe(),))
    monkeypatch.setattr(next_week, "draw", lambda _data, _out, said: print(said, file=(tmp_path / "said").open("w")))
    next_week.main(["--grey", "--out", str(tmp_path)])
    assert (tmp_path / "said").read_text() == "data: grey-shapes, 120 training and 45 test pictures, 3 classes\n"


@pytest.mark.parametrize("arguments", [["no-such-folder"], [".", "--loader", "magic"]])
def test_what_is_wrong_is_a_sentence(shapes, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(shapes)
    with pytest.raises(SystemExit, match="^next_week.py: .*no-such-folder|^next_week.py: loader is 'magic'"):
        next_week.main([*arguments, "--out", str(tmp_path)])


def test_the_range_test_and_receptive_fields_take_the_other_network_too(shapes, tmp_path):
    torch.manual_seed(0)
    data = dataset.load(shapes, root=tmp_path, size=64, log=str)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16 * 16, 3))
    loader, _ = next_week.make_loaders(data, "device", 5)
    found = find_lr(model, "cpu", loader, torch.optim.SGD(model.parameters(), lr=0.1), make_criterion(), iterations=30)
    assert 1e-6 < found.lr_max <= 1
    assert receptive_field(resnet18(), (3, 64, 64))[-1]["out_size"] == 2


def test_another_assignment_has_another_target_or_none():
    row = dict(epoch=1, train_loss=1.0, train_acc=50.0, test_loss=1.0, test_acc=50.0)
    words = [{text.get_text() for text in utils.plot_history([row], target=t).axes[1].texts} for t in (None, 75)]
    assert words == [set(), {"target 75 %"}]


def test_only_public_names_of_the_helpers_are_used():
    for node in ast.walk(ast.parse((ROOT / "examples/next_week.py").read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [node.attr] if isinstance(node, ast.Attribute) else []
        assert not [name for name in names if name.startswith("_")]


def test_the_drawn_classes_differ_in_shape_only(shapes):
    pictures = dataset.load(shapes, root=shapes, size=64, log=str).train
    assert pictures.classes == ("disc", "square", "triangle")
    assert np.bincount(pictures.targets).tolist() == [4, 4, 4]
    assert json.dumps(sorted(file.suffix for file in shapes.glob("*/*/*"))).count(".png") == 18

"""benchmarks/: like is compared with like, results have the contract's keys, README quotes them."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import benchmarks.__main__ as command
import dataset
import models
from benchmarks import common, epoch, pipeline, step
from extras import hardware

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SIZES = ["--images", "8", "--batch-size", "4", "--repeats", "1"]


def small_network(classes=10):
    layers = [nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_result_has_the_keys_of_the_contract(has_bfloat16, monkeypatch, tmp_path):
    # what is timed does not matter here
    monkeypatch.setattr(models, "s10_model", small_network)
    monkeypatch.setattr(common, "build", partial(common.build, make_model=small_network))
    monkeypatch.setattr(hardware, "pick_device", lambda: CPU)
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(pipeline, "IMAGES", dict.fromkeys(pipeline.IMAGES, 20))
    monkeypatch.setattr(step, "SIDES", (32, 64))
    monkeypatch.setattr(command, "NAMES", ("pipeline", "step", "epoch"))
    command.main([*SIZES, "--out", str(tmp_path)])
    check(tmp_path / "results-cpu.json", has_bfloat16)


def test_the_committed_result_has_them_too():
    check(ROOT / "benchmarks/results-cpu.json", has_bfloat16=True)


def check(path, has_bfloat16):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert set(result) == {"benchmark", "device", "versions", "rows", "goals"}
    assert result["device"] and "torch" in result["versions"]
    rows = {(row["benchmark"], row["name"]): row["value"] for row in result["rows"]}
    assert len(rows) == len(result["rows"]) and {"pipeline", "step", "epoch"} <= {
        b for b, _ in rows
    }
    assert all(row["unit"] and 0 <= row["value"] < 1e9 for row in result["rows"])
    for goal in result["goals"]:
        value = rows[goal["benchmark"], goal["name"]]
        assert goal["value"] == value
        met = value >= goal["goal"] if goal["sense"] == "at least" else value <= goal["goal"]
        assert goal["met"] == met
    assert any("bfloat16" in goal["name"] for goal in result["goals"]) == has_bfloat16


@pytest.mark.long
def test_two_processes_train_and_are_timed():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "scaling", *SIZES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    speeds = re.findall(r"process(?:es)?, one thread each: ([\d.,]+) images/s", done.stdout)
    assert len(speeds) == 2, done.stdout


def test_every_library_does_the_same_steps():
    """Images of one brightness, which tells their class: all but the hole has it, padding too."""
    targets = np.arange(40) % 10
    levels = (20 * targets + 5).astype(np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (40, 32, 32, 3)).copy()
    split = dataset.ArrayDataset(images, targets, dataset.CLASSES)
    data = dataset.Data("plain", split, split)
    mean, std = torch.tensor([pipeline.MEAN, pipeline.STD]).view(2, 3, 1, 1)
    loaders = pipeline.make_loaders(dict.fromkeys(pipeline.IMAGES, data))
    assert len(loaders) >= 3
    for name, loader in loaders.items():
        batch, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert batch.dtype == torch.float32 and sorted(labels.tolist()) == sorted(targets), name
        hole = (batch.abs() < 0.012).all(dim=1)  # the mean colour is rounded to uint8
        expected = ((20 * labels.view(-1, 1, 1, 1) + 5) / 255 - mean) / std
        kept = (batch - expected).abs().amax(dim=1) < 1e-4
        assert (hole ^ kept).all() and (hole.sum(dim=(1, 2)) == 64).all(), name


def test_the_loop_of_2023_is_the_one_that_was_committed():
    text = (ROOT / "misc/original-2023.json").read_text(encoding="utf-8")
    recipe = json.loads(text)["recipe"]
    old = epoch.Notebook2023(common.Sizes(CPU, 5, 10, 1))
    options = old.optimizer.defaults
    assert not options["decoupled_weight_decay"] and options["weight_decay"] == 1e-4
    assert not options["fused"] and old.loader.num_workers == 2
    transform = epoch.transforms_2023()
    assert all(type(one).__name__ in recipe["transforms"] for one in transform.transforms[:-1])
    white = [transform(image=np.full((32, 32, 3), 255, np.uint8))["image"] for _ in range(40)]
    assert {int((image[0] < 1).sum()) for image in white} == {0, 100}


def test_contestants_take_turns_and_goals_are_compared():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    assert [len(times) for times in common.alternate(contestants, 3, CPU).values()] == [3, 3]
    assert "".join(calls) == "abbaabba"
    row = common.speed_row("x", 10, [1, 5, 2])
    assert (row["value"], row["low"], row["high"], row["repeats"]) == (5, 2, 10, 3)
    assert common.goal(row, "at least", 5)["met"] and not common.goal(row, "at most", 4.9)["met"]
    assert common.ratios([2, 30, 4], [1, 2, 4]) == [2, 15, 1]


def test_readme_quotes_the_committed_goals_and_says_why_one_was_missed():
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    result = json.loads((ROOT / "benchmarks/results-cpu.json").read_text(encoding="utf-8"))
    assert result["device"] in text
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if "|" in line
    ]
    table = {line[0]: line[1:] for line in lines}
    for goal in result["goals"]:
        wanted, measured = table[goal["name"]]
        assert wanted == f"{goal['sense']} {goal['goal']:g}"
        value, verdict = measured.split(", ")
        assert float(value) == pytest.approx(
            goal["value"], abs=0.51 * 10 ** -len(value.partition(".")[2])
        )
        assert (verdict == "met") == goal["met"]
        assert goal["met"] or text.count(goal["name"]) > 1


@pytest.mark.parametrize("arguments", [["--help"], ["--epochs", "0"], ["--precision", "int8"]])
def test_main_answers_within_a_second(arguments):
    """What needs no work is said before PyTorch is imported: a second of the processor's time."""
    before = os.times()
    subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True)
    after = os.times()
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 1

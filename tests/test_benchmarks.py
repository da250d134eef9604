"""The benchmarks: like is compared with like, results have the contract's keys, and the tables say
what they say.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import models
from benchmarks import common, course, overhead, pipeline, step, tables
from dataset import CLASSES, ArrayDataset, Data
from extras import settings

CPU, ROOT = torch.device("cpu"), Path(__file__).parent.parent
README = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
IN_PROCESS = [
    (pipeline, False),
    (overhead, False),
    (step, True),
    (step, False),
    (course, True),
    (course, False),
]


def small_network(classes=10):
    return nn.Sequential(
        nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, classes)
    )


def check(path):
    """The contract's keys in a result; returns it."""
    result = json.loads(path.read_text())
    assert set(result) == {"benchmark", "device", "versions", "rows", "goals"}
    assert settings.cpu_name() in result["device"] and "torch" in result["versions"]
    assert all(
        set(row) >= {"name", "value", "unit"} and 0 <= row["value"] < 1e9 for row in result["rows"]
    )
    assert all(set(goal) >= {"name", "goal", "value", "met"} for goal in result["goals"])
    assert len({row["name"] for row in result["rows"]}) == len(result["rows"])
    return result


@pytest.mark.parametrize(("module", "has_bfloat16"), IN_PROCESS)
def test_results_have_the_keys_of_the_contract(module, has_bfloat16, monkeypatch, tmp_path):
    monkeypatch.setattr(
        models, "s10_model", small_network
    )  # the benchmarks' arithmetic does not depend on it
    monkeypatch.setattr(step, "peak_elsewhere", step.peak_memory)
    monkeypatch.setattr(settings, "pick_device", lambda: CPU)
    monkeypatch.setattr(settings, "cpu_has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(sys, "argv", ["benchmark", "--tiny", "--out", str(tmp_path)])
    common.command("it", module.measure)
    goals = check(tmp_path / "it-cpu.json")["goals"]
    assert goals and any("bfloat16" in goal["name"] for goal in goals) == has_bfloat16


@pytest.mark.parametrize(("name", "goals"), [("start", 3), ("scaling", 1)])
def test_benchmarks_of_whole_processes_run(name, goals, tmp_path):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--tiny", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    assert len(check(next(tmp_path.glob(f"{name}-*.json")))["goals"]) == goals


def test_every_library_does_the_same_steps(monkeypatch):
    """Images of one brightness, which tells their class: each pixel is the image's or the mean
    colour.
    """
    targets = np.arange(40) % 10
    images = np.broadcast_to((20 * targets + 5)[:, None, None, None], (40, 32, 32, 3)).astype(
        np.uint8
    )
    data = ArrayDataset(images, targets, CLASSES)
    monkeypatch.setattr(pipeline, "noise_data", lambda n: Data("plain", data, data))
    mean, std = torch.tensor([pipeline.MEAN, pipeline.STD]).view(2, 3, 1, 1)
    for name, (loader, _) in (
        pipeline.image_loaders(40, 16) | pipeline.batch_loaders(40, 16, CPU)
    ).items():
        batch, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert batch.dtype == torch.float32 and sorted(labels.tolist()) == sorted(targets), name
        filled = (batch.abs() < 0.012).all(dim=1)  # the mean colour is rounded to uint8
        kept = (batch - ((20 * labels.view(-1, 1, 1, 1) + 5) / 255 - mean) / std).abs().amax(
            dim=1
        ) < 1e-4
        area = filled.sum(dim=(1, 2))
        assert (filled | kept).all() and (area >= 64).all() and (area > 64).sum() > 20, name


def test_the_loop_of_2023_is_the_one_that_was_committed():
    recipe = json.loads((ROOT / "misc/original-2023.json").read_text())["recipe"]
    old, transform = course.Notebook2023(10, 5, CPU), course.transforms_2023()
    options = old.optimizer.defaults
    assert (
        not options["decoupled_weight_decay"]
        and not options["fused"]
        and options["weight_decay"] == 1e-4
    )
    assert all(type(one).__name__ in recipe["transforms"] for one in transform.transforms[:-1])
    assert next(old.model.parameters()).is_contiguous() and old.loader.num_workers == 2
    white = [transform(image=np.full((32, 32, 3), 255, np.uint8))["image"] for _ in range(40)]
    assert {int((image[0] < 1).sum()) for image in white} == {0, 100}


def test_contestants_take_turns_and_goals_are_compared():
    calls = []
    assert (
        len(
            common.alternate({name: lambda name=name: calls.append(name) for name in "ab"}, 3, CPU)[
                "b"
            ]
        )
        == 3
    )
    assert "".join(calls) == "abbaabba"
    row = common.speed_row("x", 10, [1, 5, 2])
    assert (row["value"], row["low"], row["high"], row["repeats"]) == (5, 2, 10, 3)
    assert common.goal(row, "at least", 5)["met"] and not common.goal(row, "at most", 4.9)["met"]
    assert common.row("y", common.ratios([2, 30, 4], [1, 2, 4]), "times")["value"] == 2
    size = common.Size()  # slower machines get smaller sizes
    for size.speed, batch, images in ((13, 64, 64), (60, 64, 256), (20_000, 512, 10_240)):
        assert (size.batch, size.images(5, 20 * size.batch, size.batch)) == (batch, images)


def test_tables_say_what_the_results_say(tmp_path):
    results = tables.read_results(ROOT / "benchmarks/results")
    assert tables.fill(README, results) == README, "run python -m benchmarks.tables"
    missed = {goal["name"] for result in results for goal in result["goals"] if not goal["met"]}
    assert all(name in tables.MARKS.sub("", README) for name in missed), (
        "README.md must say why a goal was missed"
    )
    assert tables.fill(README, []).count(tables.NOTHING) == 2
    row = common.row("epoch", [1.5, 2.5, 2.0], "s")
    result = dict(
        benchmark="step", device="a CPU", rows=[row], goals=[common.goal(row, "at most", 1.9)]
    )
    (tmp_path / "step-cpu.json").write_text(json.dumps(result))
    (tmp_path / "step-gpu.json").write_text(json.dumps(result | dict(device="a GPU", goals=[])))
    filled = tables.fill(README, tables.read_results(tmp_path))
    assert "| step | epoch | 2.00 s (1.50 to 2.50) | 2.00 s (1.50 to 2.50) |" in filled
    assert "| step | epoch | at most 1.9 | 2.00, **missed** |  |" in filled
    assert [tables.number(value) for value in (0, 0.012345, 4.5678, 12345.6)] == [
        "0",
        "0.0123",
        "4.57",
        "12,346",
    ]

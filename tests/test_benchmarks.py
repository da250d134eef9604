"""Do the benchmarks compare like with like, write what the contract says, and do the README's tables say the same?"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import models
from benchmarks import common, course, growth, limit, overhead, pipeline, start, tables
from dataset import CLASSES, ArrayDataset

CPU, ROOT = torch.device("cpu"), Path(__file__).parent.parent
ROW, GOAL = {"name", "value", "unit"}, {"name", "goal", "value", "met"}


@pytest.fixture
def small_network(monkeypatch):
    """The benchmarks' own arithmetic does not depend on the network's size."""

    def small(classes=10):
        body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(8))
        return nn.Sequential(body, nn.Flatten(), nn.Linear(4, classes))

    monkeypatch.setattr(models, "s10_model", small)


def all_loaders(dataset, batch):
    sizes = dict(pipeline.SIZES["tiny"], batch=batch)
    return pipeline.single_loaders(dataset, batch, 0) | pipeline.batched_loaders(sizes, CPU)


def plain_data(n=40):
    """Pictures of one brightness each, which tells their class."""
    targets = np.arange(n) % 10
    pictures = np.broadcast_to((20 * targets + 5)[:, None, None, None], (n, 32, 32, 3)).astype(np.uint8)
    return ArrayDataset(pictures, targets, CLASSES)


def test_every_library_does_the_same_steps(monkeypatch):
    monkeypatch.setattr(pipeline, "noise_data", lambda n: common.Data("plain", plain_data(), plain_data()))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (pipeline.MEAN, pipeline.STD))
    for name, loader in all_loaders(plain_data(), 16).items():
        seen, uncropped = [], 0
        for pictures, labels in loader:
            assert pictures.dtype == torch.float32 and pictures.shape[1:] == (3, 32, 32), name
            seen += labels.tolist()
            expected = ((20 * labels.view(-1, 1, 1, 1) + 5) / 255 - mean) / std
            filled = (pictures.abs() < 0.012).all(dim=1)  # padding and hole; the mean colour is rounded to uint8
            kept = (pictures - expected).abs().amax(dim=1) < 1e-4
            assert (filled | kept).all(), f"{name}: a pixel is neither the picture's nor the filling"
            holes = filled.sum(dim=(1, 2))
            assert (holes >= 64).all(), f"{name}: a picture has no hole of 8 x 8"
            uncropped += (holes == 64).sum()
        assert sorted(seen) == sorted(plain_data().targets.tolist()), name
        assert uncropped < 20, f"{name}: hardly anything is cropped"


@pytest.mark.parametrize("module", [pipeline, overhead, course, limit], ids=lambda module: module.__name__)
def test_results_have_the_keys_of_the_contract(module, small_network, tmp_path):
    rows, goals = module.measure(CPU, module.SIZES["tiny"])
    path = common.write(tmp_path, module.__name__.split(".")[-1], CPU, module.SIZES["tiny"], rows, goals)
    result = json.loads(path.read_text())
    assert path.name.endswith("-cpu.json") and {"benchmark", "device", "versions", "rows", "goals"} <= set(result)
    assert all(set(one) >= ROW and np.isfinite(one["value"]) and one["value"] >= 0 for one in result["rows"])
    assert all(set(one) >= GOAL for one in result["goals"])
    assert len({one["name"] for one in rows}) == len(rows)
    assert result["versions"]["torch"] == torch.__version__.split("+")[0]


def test_growth_finds_slopes(small_network):
    rows, goals = growth.measure(CPU, growth.SIZES["tiny"], point=growth.point)
    assert len(rows) == 12 and goals == []
    slope, at_zero, r2 = growth.line([1, 2, 4], [5, 7, 11])
    assert (slope, at_zero, r2) == pytest.approx((2, 3, 1))
    assert growth.line([1, 2, 3, 4], [1, 9, 2, 8])[2] < 0.5


def test_peak_memory_sees_what_was_given_back():
    growth.forget_peak()
    before = growth.peak_memory(CPU)
    np.ones(30_000_000)
    assert 200 < growth.peak_memory(CPU) - before < 300


def test_a_picture_takes_2_27_gflop():
    trainer = common.Trainer(CPU)
    with limit.FlopCounterMode(display=False) as counter:
        trainer.backward(trainer.forward(*trainer.batch(2)))
    assert counter.get_total_flops() / 2 == pytest.approx(2.27e9, rel=0.002)


def test_the_loop_of_2023_is_the_one_that_was_committed():
    recipe = json.loads((ROOT / "misc" / "original-2023.json").read_text())["recipe"]
    notebook = course.Notebook2023(common.noise_data(10).train, CPU, 5)
    group = notebook.optimizer.param_groups[0]
    assert type(notebook.optimizer) is torch.optim.Adam and group["weight_decay"] == 1e-4
    assert not group["decoupled_weight_decay"] and not group["fused"]
    steps = [type(step).__name__ for step in notebook.loader.dataset.transform.transforms]
    assert " > ".join(steps[:3]).startswith("Normalize > PadIfNeeded > RandomCrop")
    assert all(step in recipe["transforms"] for step in steps[:-1]) and notebook.loader.num_workers == 2
    weight = next(notebook.model.parameters())
    assert weight.dtype == torch.float32 and weight.is_contiguous()
    white, transform = np.full((32, 32, 3), 255, np.uint8), course.transforms_2023()
    holes = [(transform(image=white)["image"][0] < 1).sum() for _ in range(40)]
    assert set(map(int, holes)) == {0, 100}


def test_start_times_the_real_command(tmp_path):
    start.make_folder(tmp_path / "pictures", 50)
    seconds, of_torch, of_torchvision = start.start(tmp_path / "pictures", "device", tmp_path)
    assert 0 < of_torchvision < seconds and of_torch > 0
    assert list(tmp_path.glob("data/cache/arrays-*.npz")), "a second start would decode again"


def test_contestants_take_turns():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = common.alternate(contestants, 3, CPU, warmups=1)
    assert "".join(calls) == "abbaabba" and [len(times) for times in seconds.values()] == [3, 3]
    assert common.ratio([2, 30, 4], [1, 2, 4]) == 2
    assert common.goal("x", "at least", 2, 2)["met"] and not common.goal("x", "at most", 1.03, 1.04)["met"]


def test_tables_say_what_the_results_say():
    results = tables.read_results(ROOT / "benchmarks" / "results")
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert tables.fill(text, results) == text, "run python -m benchmarks.tables"
    if results:
        with Image.open(ROOT / "benchmarks" / "results.png") as figure:
            assert figure.info["Source"] == tables.digest(results), "run python -m benchmarks.tables"


def test_tables_follow_a_changed_result_and_refuse_a_homeless_one():
    result = dict(benchmark="start", device="a CPU", versions={"torch": "2.9"})
    result["goals"] = [common.goal("x", "at most", 3, 2.5)]
    result["rows"] = [common.rows_of("second start", [1.5, 2.5, 2.0])]
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    filled = tables.fill(text, [result])
    assert "| second start | 2.00 | s | 1.50 to 2.50, 3 repeats |" in filled
    assert "| start | x | at most 3 | 2.50 | yes | a CPU |" in filled
    result["rows"][0]["value"] = 1.75
    assert tables.fill(filled, [result]) == filled.replace("| 2.00 |", "| 1.75 |")
    with pytest.raises(ValueError, match="nonsense"):
        tables.fill(text, [dict(result, benchmark="nonsense")])


def test_numbers_have_three_figures():
    assert [tables.number(value) for value in (0, 0.012345, 4.5678, 12345.6)] == ["0", "0.0123", "4.57", "12,346"]


def test_a_piece_that_fails_on_the_gpu_does_not_cost_the_others(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "ran $*"\ncase $2 in benchmarks.overhead) exit 3 ;; esac\n')
    python.chmod(0o755)
    environment = os.environ | dict(PY=str(python), OUT=str(tmp_path / "out"), DATA=str(tmp_path))
    done = subprocess.run(["bash", "benchmarks/gpu.sh"], cwd=ROOT, env=environment, capture_output=True, text=True)
    verdicts = dict(line.split(maxsplit=3)[::3] for line in done.stdout.splitlines()[-7:])
    assert verdicts.pop("overhead") == "failed, exit status 3" and done.returncode == 1
    assert verdicts.pop("training") == "failed, exit status 1", "there is no results.json to keep"
    assert verdicts == dict.fromkeys(("pipeline", "course", "limit", "growth", "start"), "ok")
    assert f"ran train.py --data {tmp_path} --loader device" in done.stdout


@pytest.mark.long
def test_everything_runs_in_a_tiny_setting(tmp_path):
    """`make bench` and gpu.sh from end to end, as real processes."""
    environment = os.environ | dict(OMP_NUM_THREADS="1")
    subprocess.run([sys.executable, "-m", "benchmarks", "--tiny"], cwd=ROOT, env=environment, check=True, timeout=600)
    made = ROOT / "runs" / "bench-tiny"
    text = (made / "README.md").read_text(encoding="utf-8")
    assert "Not measured yet" not in text and (made / "results.png").exists()
    shutil.rmtree(made)
    environment |= dict(TINY="1", PY=sys.executable, OUT=str(tmp_path))
    command = ["bash", "benchmarks/gpu.sh"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=540, capture_output=True, text=True)
    assert done.stdout.count("  ok") == 7 and len(list(tmp_path.glob("*.json"))) == 7

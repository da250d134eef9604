"""The results of a run are complete and plain, and the tables show them."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import train
from dataset import ArrayDataset, Data
from extras.checkpoint import Checkpoint
from extras.lr_finder import RangeTest
from extras.report import (
    check_accuracy,
    collect,
    epoch_table,
    markdown_table,
    provenance,
    result,
    to_json,
    write_results,
)

MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)


def history_of(*accuracies):
    return [
        {
            "epoch": epoch,
            "train_loss": 0.5,
            "train_acc": 95.0 - epoch,
            "test_loss": 0.6,
            "test_acc": accuracy,
            "lr": 0.001,
            "seconds": 60.0,
        }
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]


@pytest.fixture
def run(tmp_path):
    """A finished run's checkpoint, with choices that are not the machine's."""
    config = {"network": "s10_plain", "epochs": 3, "batch_size": 2, "seed": 7}
    checkpoint = Checkpoint(tmp_path / "run", {**config, "recipe": train.RECIPE})
    checkpoint.choices = {
        "loader": "device",
        "precision": "float16",
        "workers": 2,
        "device": "2 × Tesla T4",
        "world_size": 2,
    }
    checkpoint.save()
    return checkpoint


def numbers_of(checkpoint, *accuracies, take_off=4e-3):
    def split(n):
        return ArrayDataset(np.zeros((n, 4, 4, 3), np.uint8), [0] * n, ("cat", "dog"))

    data = Data("sample data, not CIFAR-10", split(6), split(3), MEAN, STD)
    found = RangeTest([1e-6, 1.0], [2.0, 1.0], [2.0, 1.0], 2.0, 1e-5, 2e-3, take_off, 1e-3, 3e-4)
    confusion = np.array([[2, 1], [0, 0]])
    return collect(checkpoint, data, found, history_of(*accuracies), confusion, 89.5, 99)


def test_results_are_plain_values_and_those_of_the_run(run):
    numbers = numbers_of(run, 50.0, 91.0, 89.0)
    assert json.loads(to_json(numbers)) == numbers
    expected = {
        "data": "sample data, not CIFAR-10",
        "images": 6,
        "test_images": 3,
        "classes": ["cat", "dog"],
        "mean": list(MEAN),
        "std": list(STD),
        "network": "s10_plain",
        "parameters": 99,
        "epochs": 3,
        "batch_size": 2,
        "seed": 7,
        "recipe": train.RECIPE,
        "lr_min": 1e-5,
        "lr_max": 2e-3,
        "lr_given": False,
        "take_off": 4e-3,
        "lr_steepest": 1e-3,
        "lr_minimum": 3e-4,
        "loader": "device",
        "precision": "float16",
        "device": "2 × Tesla T4",
        "world_size": 2,
        "seconds": 180.0,
        "best_train_acc": 94.0,
        "best_test_acc": 91.0,
        "final_test_acc": 89.0,
        "final_test_acc_mirrored": 89.5,
        "epoch_90": 2,
        "confusion": [[2, 1], [0, 0]],
        "history": history_of(50.0, 91.0, 89.0),
    }
    versions = numbers.pop("versions")
    assert numbers == expected
    assert torch.__version__.startswith(versions["torch"])
    assert {"python", "albumentations", "numpy"} <= set(versions)


def test_a_run_that_was_ended_early_has_the_epochs_that_it_trained(run):
    assert numbers_of(run, 50.0, 60.0)["epochs"] == 2


def test_epoch_90_counts_exactly_90_and_is_null_where_it_was_not_reached(run):
    assert numbers_of(run, 50.0, 90.0)["epoch_90"] == 2
    assert json.loads(to_json(numbers_of(run, 50.0, 89.99)))["epoch_90"] is None


def test_no_take_off_is_null_and_nan_is_refused_since_json_has_none(run):
    numbers = numbers_of(run, 50.0, take_off=None)
    assert json.loads(to_json(numbers))["take_off"] is None
    with pytest.raises(ValueError):
        to_json({**numbers, "lr_max": float("nan")})


def test_the_result_and_the_line_below_figures_have_the_runs_numbers(run):
    numbers = numbers_of(run, 50.0, 92.5, 91.25)
    assert "90 %" not in result(numbers)  # CIFAR-10's target, not the sample's
    numbers["data"] = "CIFAR-10"
    line = provenance(numbers)
    for value in (numbers["data"], "6 training", "3 epochs", "seed 7"):
        assert value in line
    text = result(numbers)
    for value in ("91.25 %", "92.50 %", "89.50 %", "94.00 %", "epoch 2", "2 × Tesla T4", "float16"):
        assert value in text
    assert "3.0 minutes" in text
    unreached = {**numbers, "epoch_90": None}
    assert "epoch" not in result(unreached).partition("90 %")[2]


@pytest.mark.parametrize("correct", [0, 450, 490, 510, 550, 1000])
def test_a_network_that_was_edited_since_its_last_epoch_is_refused(correct):
    confusion = np.array([[correct, 1000 - correct], [0, 0]])
    if abs(correct - 500) <= 10:  # another device moves an image or two
        check_accuracy(confusion, 50.0)
    else:
        with pytest.raises(ValueError, match=rf"{correct / 10:.2f} %.* 50\.00 %.*resume=False"):
            check_accuracy(confusion, 50.0)


def test_weights_and_results_are_written_and_beside_the_figures_too(run, tmp_path):
    numbers = numbers_of(run, 50.0)
    model = nn.Linear(3, 2)
    write_results(numbers, model, run, tmp_path / "figures")
    for folder in (run.folder, tmp_path / "figures"):
        assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == numbers
    state = torch.load(run.folder / "s10_model.pt", weights_only=True)
    assert list(state) == ["weight", "bias"]
    assert torch.equal(state["weight"], model.weight)
    rounded = torch.load(tmp_path / "figures" / "s10_model.pt", weights_only=True)
    assert torch.equal(rounded["weight"], model.weight.bfloat16())


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_tables_have_a_cell_for_every_column():
    table = cells(epoch_table(history_of(*range(10, 90, 10)), last=3))
    assert [row[0] for row in table[2:]] == ["6", "7", "8"]
    assert table[-1] == ["8", "0.5000", "87.00 %", "0.6000", "80.00 %", "1.00e-03", "60.0 s"]
    assert {len(row) for row in table} == {7}
    assert cells(markdown_table(["name", "n"], [["a", 1]])) == [
        ["name", "n"],
        [":---", "---:"],
        ["a", "1"],
    ]

"""The results of a run are complete and plain, and the tables show them."""

import json

import numpy as np
import pytest

import models
import train
from dataset import ArrayDataset, Data
from extras.lr_finder import RangeTest
from extras.report import collect, epoch_table, provenance, receptive_field_table, result, to_json
from extras.settings import choose


def rows(*accuracies):
    row = dict(train_loss=0.5, train_acc=95.0, test_loss=0.6, lr=0.001, seconds=60.0)
    return [
        row | dict(epoch=i, test_acc=accuracy) for i, accuracy in enumerate(accuracies, start=1)
    ]


def numbers_of(*accuracies):
    train_split, test_split = (
        ArrayDataset(np.zeros((n, 4, 4, 3), np.uint8), [0] * n, ("cat", "dog")) for n in (6, 3)
    )
    return collect(
        Data("sample data, not CIFAR-10", train_split, test_split),
        rows(*accuracies),
        RangeTest([1e-6, 1.0], [2.0, 1.0], [2.0, 1.0], 1e-5, 2e-3, 4e-3, 1e-3, 3e-4),
        np.eye(2, dtype=int),
        settings=choose("quick", epochs=len(accuracies), batch_size=2),
        recipe=train.RECIPE,
        seed=7,
        loader="device",
        precision="float16",
        parameters=99,
        device="2 × Tesla T4",
        world_size=2,
    )


def test_results_are_plain_values_and_those_of_the_run():
    numbers = numbers_of(50.0, 91.0, 89.0)
    assert json.loads(to_json(numbers)) == numbers
    assert (numbers["data"], numbers["images"], numbers["test_images"]) == (
        "sample data, not CIFAR-10",
        6,
        3,
    )
    assert (numbers["epochs"], numbers["batch_size"], numbers["seconds"]) == (3, 2, 180)
    assert (numbers["lr_min"], numbers["lr_max"]) == (1e-5, 2e-3)
    assert (numbers["lr_steepest"], numbers["lr_minimum"]) == (1e-3, 3e-4)
    assert (numbers["device"], numbers["world_size"], numbers["precision"]) == (
        "2 × Tesla T4",
        2,
        "float16",
    )
    assert (numbers["best_train_acc"], numbers["best_test_acc"], numbers["final_test_acc"]) == (
        95.0,
        91.0,
        89.0,
    )
    assert {"python", "torch", "albumentations", "numpy"} <= set(numbers["versions"]) and numbers[
        "epoch_90"
    ] == 2


def test_epoch_90_counts_exactly_90_and_is_null_where_it_was_not_reached_and_nan_is_refused():
    assert numbers_of(50.0, 90.0)["epoch_90"] == 2
    assert json.loads(to_json(numbers_of(50.0, 89.99)))["epoch_90"] is None
    with pytest.raises(ValueError):
        to_json(numbers_of(50.0) | dict(lr_max=float("nan")))  # JSON has no NaN


def test_the_result_and_the_line_below_figures_name_the_data():
    assert (
        provenance(numbers_of(1.0, 2.0))
        == "sample data, not CIFAR-10: 6 training images, 2 epochs, seed 7"
    )
    text = result(numbers_of(50.0, 92.5, 91.25))
    assert "**91.25 % test accuracy** after epoch 3 (best 92.50 %)" in text
    assert "first in epoch 2" in text and "2 × Tesla T4, 3.0 minutes" in text
    assert "90 % was not reached in this run" in result(numbers_of(1.0))


def test_tables_have_a_cell_for_every_column():
    lines = epoch_table(rows(*range(10, 90, 10)), last=3).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "6",
        "7",
        "8",
    ] and "80.00 %" in lines[-1]
    fields = receptive_field_table(models.receptive_field(models.s10_model())).splitlines()
    assert len(fields) == 14 and fields[-1] == "| pool | 4 | 4 | 0 | 1 | 32 | 88 |"
    for table in (lines, fields):
        assert len({line.count("|") for line in table}) == 1

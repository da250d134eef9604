"""Are the results complete, plain and true to the run?"""

import json

import numpy as np
import pytest

import dataset
from dataset import ArrayDataset, Data
from lr_finder import RangeTest
from report import collect, epoch_table, kinds, original, provenance, target_result_analysis, to_json

CLASSES = ("cat", "dog", "owl")
KEYS = ["data", "pictures", "test_pictures", "epochs", "batch_size", "seed", "loader", "lr_min", "lr_max", "parameters"]
KEYS += ["device", "world_size", "versions", "seconds", "history"]
KEYS += ["best_train_acc", "best_test_acc", "final_test_acc", "epoch_90"]  # all of contract.md


CONFUSION = np.array([[8, 2, 0], [3, 7, 0], [0, 1, 9]])


def rows(*accuracies):
    lrs = [0.001, 0.01, *[0.01 / n for n in range(2, 20)]]
    row = dict(train_loss=0.5, train_acc=95.0, test_loss=0.6, seconds=60.0)
    return [row | dict(epoch=i + 1, test_acc=a, lr=lrs[i]) for i, a in enumerate(accuracies)]


def numbers_of(*accuracies, name="sample data, not CIFAR-10", train=6, confusion=CONFUSION, **changes):
    pictures = np.random.default_rng(0).integers(0, 256, (train, 4, 4, 3), dtype=np.uint8)
    data = Data(name, *(ArrayDataset(pictures, np.arange(train) % 3, CLASSES) for _ in range(2)))
    config = dict(epochs=len(accuracies), batch_size=2, seed=7, loader="device", recipe={"optimizer": "Adam"})
    config["model"] = "CustomResNet"
    found = RangeTest(1e-4, 1e-2, [1e-6, 1.0], [2.0, 1.0], [2.0, 1.0])
    history = rows(*accuracies)
    return collect(data, history, found, config, confusion, parameters=99, device="CPU") | changes


def test_results_have_every_key_of_the_contract_in_plain_values():
    numbers = numbers_of(50.0, 91.0, 89.0)
    assert set(KEYS) <= set(numbers)
    assert json.loads(to_json(numbers)) == numbers
    assert numbers["pictures"] == numbers["test_pictures"] == 6 and numbers["seconds"] == 180
    assert (numbers["best_test_acc"], numbers["final_test_acc"], numbers["epoch_90"]) == (91.0, 89.0, 2)
    assert numbers["world_size"] == 1 and numbers["best_train_acc"] == 95.0
    assert {"python", "torch", "albumentations", "numpy"} <= set(numbers["versions"])


def test_epoch_90_is_null_where_it_was_not_reached_and_counts_exactly_90():
    assert json.loads(to_json(numbers_of(50.0, 89.99)))["epoch_90"] is None
    assert numbers_of(50.0, 90.0)["epoch_90"] == 2


def test_mistakes_within_a_kind_are_counted_for_the_classes_of_cifar10_only():
    confusion = 10 * np.eye(10, dtype=int)
    assert kinds(confusion, dataset.CLASSES) == ""
    confusion[3, 5], confusion[0, 8], confusion[0, 2] = 2, 1, 1  # cat as dog, airplane as ship, airplane as bird
    assert kinds(confusion, dataset.CLASSES).startswith(" 75% of the mistakes stay among animals or among vehicles")
    assert kinds(confusion, tuple("abcdefghij")) == ""


def test_nan_never_gets_into_the_file():
    with pytest.raises(ValueError):
        to_json(numbers_of(50.0, lr_max=float("nan")))


def test_the_table_shows_the_last_epochs():
    lines = epoch_table(rows(*range(10, 90, 10)), last=3).splitlines()
    assert len(lines) == 5 and [line.split("|")[1].strip() for line in lines[2:]] == ["6", "7", "8"]
    assert "80.00 %" in lines[-1] and len({line.count("|") for line in lines}) == 1


def test_target_result_and_analysis_quote_the_run():
    text = target_result_analysis(numbers_of(50.0, 92.5, 91.25, 93.0))
    assert text.count("**") == 6 and "**Target.** 90 %" in text
    assert "93.00 % test accuracy after epoch 4" in text and "99 parameters" in text
    assert "90 % was reached in epoch 2" in text
    assert "the largest fall of test accuracy from one epoch to the next was 1.2 points (epoch 3)" in text
    assert "cat and dog: 5 of 6 mistakes" in text and "owl" in text
    assert "shortened run" in text and "sample data, not CIFAR-10" in text


def test_a_run_that_never_falls_and_makes_no_mistake_is_told_too():
    text = target_result_analysis(numbers_of(50.0, 60.0, 100.0, confusion=np.diag([5, 5, 0])))
    assert "no epoch lost test accuracy" in text and "Not one test picture is misclassified" in text


def test_a_run_of_one_epoch_is_told_too():
    assert "not reached in this run" in target_result_analysis(numbers_of(10.0))


def test_a_whole_run_is_not_called_shortened():
    numbers = numbers_of(*[91.0] * 19, name="CIFAR-10") | dict(pictures=50_000, epochs=24)
    assert "shortened" not in target_result_analysis(numbers)


def test_the_sample_is_named_wherever_numbers_are_shown():
    assert "sample data, not CIFAR-10" in provenance(numbers_of(1.0)) and "seed 7" in provenance(numbers_of(1.0))


def test_the_original_is_there():
    assert len(original()["history"]) >= 20 and all("test_acc" in row for row in original()["history"])

"""The settings of a run are as profile and device say, and say what makes a run the run it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import TinyNet

import train
import transform
from dataset import CLASSES, ArrayDataset, Data
from extras import settings
from extras.settings import (
    FULL,
    QUICK,
    Settings,
    augmentation_identity,
    choose,
    output_folders,
    run_config,
    run_name,
)
from models import s10_model, s10_plain


def data_of(kind="cifar10", name="CIFAR-10", limit=None, shift=0):
    images = np.full((20, 4, 4, 3), shift, np.uint8)
    split = ArrayDataset(images, np.arange(20) % 10, CLASSES)
    return Data(name, split, split, kind=kind, limit=limit)


def test_profiles_are_those_of_the_contract_and_what_is_given_takes_their_place():
    assert Settings("full", 24, 512, limit=None, iterations=100) == FULL
    for device in ("mps", torch.device("cuda", 0)):
        assert choose("auto", device) == FULL
        assert choose("quick", device) == QUICK
    assert choose("auto", torch.device("cpu")) == QUICK
    assert choose("full", "cpu") == FULL
    given = choose("full", epochs=1, batch_size=2, limit=10)
    assert given == Settings("full", 1, 2, limit=10, iterations=100)


def test_a_run_says_how_long_it_is_and_a_quick_one_that_there_is_a_longer_one():
    for words in ("profile full", "24 epochs", "all images", "batches of 512"):
        assert words in FULL.describe()
    first, second = QUICK.describe().splitlines()
    assert f"{QUICK.limit:,} training images" in first
    assert "full" in second


def test_a_quick_run_is_as_short_as_the_contract_says():
    test_images = QUICK.limit // 5
    through_the_network = QUICK.iterations * QUICK.batch_size
    through_the_network += QUICK.epochs * (QUICK.limit + test_images)
    through_the_network += 3 * test_images  # predictions, and both views of the mirrored ones
    assert through_the_network <= 15_400


@pytest.mark.parametrize("name", ["epochs", "batch_size", "limit"])
def test_values_without_sense_are_refused_by_name_and_value(name):
    for value in [0, -1, 9.0, "many", True, float("nan")] + [9] * (name == "limit"):
        with pytest.raises(ValueError, match=f"^{name.replace('_', ' ')} is {value!r}"):
            choose("auto", "cpu", **{name: value})
    with pytest.raises(ValueError, match="'fast'.*auto.*full.*quick"):
        choose("fast")


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_that_no_cycle_can_have_are_refused(rate):
    settings.check_rates(lr_max=0.01)
    settings.check_rates(lr_min=0.01)
    settings.check_rates(lr_max=0.01, lr_min=0.01)
    with pytest.raises(ValueError, match=f"LRMAX is {rate}"):
        settings.check_rates(lr_max=rate, lr_min=0.01)
    with pytest.raises(ValueError, match=f"LRMIN is {rate}"):
        settings.check_rates(lr_min=rate)
    with pytest.raises(ValueError, match=r"0\.02.*0\.01"):
        settings.check_rates(lr_max=0.01, lr_min=0.02)


# --- what makes a run the run it is


def config(data=None, recipe=train.RECIPE, seed=0, model=None, rates=None, **given):
    """The configuration of a run, with what is given in place of the usual."""
    torch.manual_seed(0)
    sizes = choose("quick", **given)
    return run_config(data or data_of(), sizes, seed, recipe, model or TinyNet(), **(rates or {}))


def wider():
    model = TinyNet()
    model[0] = torch.nn.Conv2d(3, 9, 3, bias=False)
    return model


@pytest.mark.parametrize(
    "other",
    [
        {"data": data_of(shift=1)},
        {"data": data_of(limit=10)},
        {"recipe": train.RECIPE | {"betas": [0, 0]}},
        {"seed": 1},
        {"epochs": 2},
        {"batch_size": 2},
        {"model": wider()},
        {"model": TinyNet().append(torch.nn.BatchNorm1d(10))},
        {"rates": {"name": "s10_plain"}},
        {"rates": {"lr_max": 0.01}},
        {"rates": {"lr_min": 0.01}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_run_is_what_its_network_data_settings_seed_recipe_and_rates_make_it(other):
    assert config() == config() != config(**other)


def test_a_network_without_skip_connections_is_another_one_though_its_layers_are_the_same():
    model, plain = s10_model(), s10_plain()
    assert config(model=model)["layers"] == config(model=plain)["layers"]
    assert config(model=model)["network"] == "s10_model"
    assert config(model=plain)["network"] == "s10_plain"


def test_the_augmentation_is_part_of_a_run():
    assert config()["augmentation"] == augmentation_identity(transform)


def test_the_weights_themselves_are_no_part_of_a_run():
    model = TinyNet()
    with torch.no_grad():
        model[0].weight.add_(1)
    assert config(model=model) == config()


# --- where a run writes


def test_only_the_assignments_own_run_writes_to_misc_itself():
    sample = data_of("sample", "sample data, not CIFAR-10")
    photos = data_of("folder", "my photos/2024")
    for data, sizes, name in [
        (data_of(), FULL, ""),
        (data_of(), choose("full", epochs=23), "cifar10-20"),
        (data_of(limit=20), FULL, "cifar10-20"),
        (data_of(limit=20), QUICK, "quick"),
        (sample, QUICK, "sample"),
        (sample, FULL, "sample-full"),
        (photos, QUICK, "my-photos-2024"),
        (photos, FULL, "my-photos-2024-full"),
        (data_of("folder", "猫"), QUICK, "猫"),
        (data_of("folder", ".."), QUICK, "folder"),
        (data_of("folder", "sample"), QUICK, "sample-folder"),  # not taken for another run
    ]:
        assert run_name(data, sizes) == name
    assert output_folders(data_of(), FULL) == (Path("misc"), Path("runs/full"))
    assert output_folders(data_of(), FULL, out="~/a b") == (Path.home() / "a b",) * 2

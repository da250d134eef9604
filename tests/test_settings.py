"""The settings of a run are as profile and device say, and what makes no sense is refused before
any work.
"""

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import train
from dataset import CLASSES, ArrayDataset, Data
from extras import settings as st
from extras.settings import FULL, QUICK, choose, choose_precision, output_folders, run_name


def data_of(kind="cifar10", name="CIFAR-10", limit=None, shift=0):
    split = ArrayDataset(np.full((20, 4, 4, 3), shift, np.uint8), np.arange(20) % 10, CLASSES)
    return Data(name, split, split, kind=kind, limit=limit)


def test_profiles_are_those_of_the_contract_and_what_is_given_takes_their_place():
    assert (FULL.epochs, FULL.batch_size, FULL.limit, FULL.iterations) == (24, 512, None, 100)
    assert (
        choose("full", "cpu")
        == choose("auto", torch.device("cuda", 0))
        == choose("auto", "mps")
        == FULL
    )
    assert choose("quick", "cuda") == choose("auto", torch.device("cpu")) == QUICK
    assert (
        QUICK.iterations * QUICK.batch_size + QUICK.epochs * QUICK.limit * 1.2 + QUICK.limit / 5
        <= 15_000
    )
    assert choose("full", epochs=1, batch_size=2, limit=10) == st.Settings(
        "full", 1, 2, 10, iterations=100
    )


@pytest.mark.parametrize("name", ["epochs", "batch_size", "limit"])
def test_values_without_sense_are_refused_with_the_valid_ones(name):
    for value in [0, -1, 9.0, "many", True, float("nan")] + [9] * (name == "limit"):
        least = 10 if name == "limit" else 1
        with pytest.raises(ValueError) as error:
            choose("auto", "cpu", **{name: value})
        assert (
            str(error.value)
            == f"{name.replace('_', ' ')} is {value!r}: give a whole number, {least} or more"
        )
    with pytest.raises(ValueError, match="profile is 'fast': choose one of auto, full, quick"):
        choose("fast")


@pytest.mark.parametrize(
    ("device", "able", "auto", "possible"),
    [
        ("cpu", True, "bfloat16", {"float32", "bfloat16"}),
        ("cpu", False, "float32", {"float32"}),
        ("cuda", (7, 5), "float16", {"float32", "float16"}),  # T4, where bfloat16 is emulated
        ("cuda", (8, 9), "bfloat16", {"float32", "float16", "bfloat16"}),  # L4
        ("mps", None, "float32", {"float32"}),
    ],
)
def test_auto_takes_the_best_precision_and_keeps_the_one_before_where_it_can(
    monkeypatch, device, able, auto, possible
):
    monkeypatch.setattr(st, "cpu_has_bfloat16", lambda: able)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: able)
    assert choose_precision("auto", device)[0] == auto
    for before in ("float32", "bfloat16", "float16"):
        chosen, why = choose_precision("auto", device, before)
        assert chosen == (before if before in possible else auto)
        assert (
            why == "as before the interruption" if before in possible else f"it was {before}" in why
        )
        if (device, before) == ("cpu", "float16"):
            with pytest.raises(ValueError, match="'float16' on a CPU"):
                choose_precision(before, device)
        else:
            assert choose_precision(before, device) == (before, "as asked for")
    with pytest.raises(
        ValueError, match="precision is 'half': choose one of auto, float32, bfloat16, float16"
    ):
        choose_precision("half", device)


@pytest.mark.parametrize(
    "flags", ["avx512_bf16", "avx2 amx_bf16", "avx512_bf16x avx512_fp16", "amx_int8", ""]
)
def test_the_processor_is_asked_for_bfloat16(monkeypatch, flags):
    able = bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags.split(), True), raising=False
    )
    assert st.cpu_has_bfloat16() is able
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # before torch 2.14
    monkeypatch.setattr(st, "cpu_info", lambda: flags and f"flags\t\t: fpu {flags} vme\n")
    assert st.cpu_has_bfloat16() is able


def test_devices_have_names_and_cuda_comes_before_mps_before_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(st, "cpu_info", lambda: "model name\t: AMD  EPYC 9B14\n")
    assert st.device_name("cuda", 2) == "2 × Tesla T4" and st.device_name("mps") == "Apple MPS"
    assert st.device_name("cpu", 2) == "2 × AMD EPYC 9B14, 1 thread"
    for cuda, mps, kind in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda c=cuda: c)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda m=mps: m)
        assert st.pick_device().type == kind


def test_a_run_is_what_its_data_settings_seed_and_recipe_make_it():
    def config(data=None, recipe=train.RECIPE, seed=0, **given):
        return st.run_config(data or data_of(), choose("quick", **given), seed, recipe)

    others = [
        dict(data=data_of(shift=1)),
        dict(data=data_of(limit=10)),
        dict(recipe=train.RECIPE | dict(betas=[0, 0])),
    ]
    for other in [*others, dict(seed=1), dict(epochs=2), dict(batch_size=2)]:
        assert config() == config() != config(**other)


def test_only_the_assignments_own_run_writes_to_misc_itself():
    sample, photos = (
        data_of("sample", "sample data, not CIFAR-10"),
        data_of("folder", "my photos/2024"),
    )
    for data, settings, name in [
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
        assert run_name(data, settings) == name
    assert output_folders(data_of(), FULL) == (Path("misc"), Path("runs/full"))
    assert output_folders(data_of(), FULL, out="~/a b") == (Path.home() / "a b",) * 2


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """Colab's module, and a Drive that appears when it is mounted. Returns (the place of MyDrive,
    the module).
    """
    module, place = ModuleType("google.colab"), tmp_path / "drive" / "MyDrive"
    module.drive = SimpleNamespace(
        mount=lambda mountpoint: place.mkdir(parents=True, exist_ok=True)
    )
    for name, value in (("google", ModuleType("google")), ("google.colab", module)):
        monkeypatch.setitem(sys.modules, name, value)
    monkeypatch.setattr(st, "DRIVE", place.parent)
    return place, module


def on_drive():
    """The folder of weights and checkpoints, and the one line that is said of it."""
    figures, runs = output_folders(data_of(), FULL, drive=True, log=(log := Mock()))
    assert figures == Path("misc") and "\n" not in log.call_args.args[0]
    return runs, log.call_args.args[0]


def test_drive_keeps_weights_and_checkpoints_where_there_is_room_for_them(colab, monkeypatch):
    folder = colab[0] / "s10/runs/full"
    assert on_drive() == (folder, f"Google Drive keeps this run: {folder}") and folder.is_dir()
    assert (
        output_folders(data_of(), FULL, out="/content/x", drive=True)[1]
        == colab[0] / "s10/content/x"
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_000))
    for place in (folder.parent / "other", folder):
        assert "it is full, 100 MB are left of 270" in on_drive()[1]
        place.mkdir(exist_ok=True)
        with open(place / "checkpoint.pt", "wb") as file:
            file.truncate(180_000_000)  # bytes that take no room here
    assert on_drive()[0] == folder  # what this run has there already will be replaced


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("mount failed\nsee the log"), "mount failed"),
        (NotImplementedError(), "NotImplementedError"),
        (
            OSError(107, "Transport endpoint is not connected"),
            "Transport endpoint is not connected",
        ),
        (
            None,
            "it is not mounted",
        ),  # mount did nothing: a folder of that name here would look like a Drive
    ],
)
def test_a_drive_that_cannot_be_used_is_said_in_a_line_and_ctrl_c_stops(
    colab, monkeypatch, error, reason
):
    place, module = colab
    module.drive.mount = Mock(side_effect=error)
    runs, line = on_drive()
    assert (
        runs == Path("runs/full") and f"not used: {reason}. In Colab" in line and not place.exists()
    )
    module.drive.mount.side_effect = KeyboardInterrupt
    pytest.raises(KeyboardInterrupt, on_drive)
    monkeypatch.delitem(sys.modules, "google.colab")
    assert on_drive()[1].startswith("Google Drive is not used: only Colab has it. In Colab")

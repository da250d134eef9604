"""Colab and Kaggle: what is absent is installed, and Google Drive is used where it can be."""

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import pytest
from test_settings import data_of

from extras import colab
from extras.settings import FULL, output_folders


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """Colab's module and a Drive that appears when it is mounted: (place of MyDrive, module)."""
    place = tmp_path / "drive" / "MyDrive"
    module = ModuleType("google.colab")
    module.drive = SimpleNamespace(mount=lambda point: place.mkdir(parents=True, exist_ok=True))
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(colab, "DRIVE", place.parent)
    return place, module


def on_drive(capsys):
    """The folder of weights and checkpoints, and the one line that is said of it."""
    figures, runs = output_folders(data_of(), FULL, drive=True)
    said = capsys.readouterr().out
    assert figures == Path("misc")
    assert said.count("\n") == 1
    return runs, said


def test_drive_keeps_weights_and_checkpoints_where_there_is_room_for_them(
    drive, monkeypatch, capsys
):
    folder = drive[0] / "s10/runs/full"
    runs, said = on_drive(capsys)
    assert runs == folder
    assert str(folder) in said
    assert folder.is_dir()
    _, elsewhere = output_folders(data_of(), FULL, out="/content/x", drive=True)
    assert elsewhere == drive[0] / "s10/content/x"
    capsys.readouterr()

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_000))
    runs, said = on_drive(capsys)
    assert runs == Path("runs/full")
    assert "100 MB" in said and "270" in said
    with open(folder / "checkpoint.pt", "wb") as file:
        file.truncate(180_000_000)  # bytes that take no room here
    assert on_drive(capsys)[0] == folder  # what this run has there already will be replaced


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("mount failed\nsee the log"), "mount failed"),
        (NotImplementedError(), "NotImplementedError"),
        (OSError(107, "Transport endpoint is not connected"), "Transport endpoint"),
        # mount did nothing: a folder of that name here would look like a Drive
        (None, "not mounted"),
    ],
)
def test_a_drive_that_cannot_be_used_is_said_in_a_line_and_ctrl_c_stops(
    drive, monkeypatch, capsys, error, reason
):
    place, module = drive
    module.drive.mount = Mock(side_effect=error)
    runs, said = on_drive(capsys)
    assert runs == Path("runs/full")
    assert reason in said
    assert not place.exists()
    module.drive.mount.side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        on_drive(capsys)
    monkeypatch.delitem(sys.modules, "google.colab")
    assert on_drive(capsys)[0] == Path("runs/full")


def test_only_what_is_absent_is_installed_and_only_in_colab_and_kaggle(monkeypatch):
    run = Mock(return_value=SimpleNamespace(returncode=0))
    monkeypatch.setattr(colab.subprocess, "run", run)
    monkeypatch.setattr(colab, "find_spec", lambda package: None if "_" in package else "there")
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    colab.install_absent()
    assert run.call_count == 0  # at home nobody's environment is changed
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    colab.install_absent()
    assert "torch_lr_finder" in run.call_args.args[0]
    assert not {"torchsummary", "albumentations", "torch"} & set(run.call_args.args[0])
    run.return_value.returncode = 1  # Kaggle's notebooks begin without the internet
    with pytest.raises(RuntimeError, match="torch_lr_finder.*Internet"):
        colab.install_absent()
    monkeypatch.setattr(colab, "find_spec", lambda package: "there")
    colab.install_absent()

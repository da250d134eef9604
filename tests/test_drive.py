"""Does a run find its folder on Google Drive, and does it go on without one where there is none?"""

import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest
from rights import public_folder, rights

import settings
from checkpoint import Checkpoint
from settings import output_folder


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """Colab: its module, and a Drive that appears when it is mounted. Returns the place for it, MyDrive."""
    monkeypatch.setattr(settings, "DRIVE", tmp_path / "drive")
    monkeypatch.chdir(tmp_path)
    module, place = ModuleType("google.colab"), tmp_path / "drive" / "MyDrive"
    module.drive = ModuleType("google.colab.drive")
    module.drive.mount = lambda mountpoint: place.mkdir(parents=True, exist_ok=True)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    return place


def mount_ends_with(monkeypatch, error):
    def mount(_):
        raise error

    monkeypatch.setattr(sys.modules["google.colab"].drive, "mount", mount)


def folder_and_line(out="runs/a", drive=True):
    """The folder, and the one line that is said of it."""
    lines = []
    folder = output_folder(out, drive, log=lines.append)
    assert len(lines) == 1 and "\n" not in lines[0]
    return folder, lines[0]


def fill(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_without_drive_the_folder_is_the_one_that_was_given(colab):
    lines = []
    assert str(output_folder("runs/a", log=lines.append)) == "runs/a" and not lines
    assert not colab.exists()


def test_the_folder_is_on_the_drive_and_can_be_asked_for_again(colab):
    folder, line = folder_and_line()
    assert folder == colab / "s10" / "runs" / "a" and folder.is_dir()
    assert line == f"Google Drive keeps this run: {folder}"
    assert folder_and_line(folder) == folder_and_line(folder, drive=False) == (folder, line)
    assert folder_and_line("/content/x")[0] == colab / "s10" / "content" / "x"
    assert folder_and_line(colab / "mine")[0] == colab / "mine"


def test_without_colab_one_line_says_so(colab, monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab")
    folder, line = folder_and_line()
    assert str(folder) == "runs/a"
    assert line.startswith("Google Drive is not used: only Colab has it. This run's files go to runs/a")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Exception("Error: credential propagation was unsuccessful"), "credential propagation was unsuccessful"),
        (ValueError("mount failed\nsee the log"), "mount failed"),
        (NotImplementedError(), "NotImplementedError"),
        (OSError(107, "Transport endpoint is not connected"), "Transport endpoint is not connected"),
    ],
)
def test_a_drive_that_was_refused_is_one_line(colab, monkeypatch, error, reason):
    mount_ends_with(monkeypatch, error)
    folder, line = folder_and_line()
    assert str(folder) == "runs/a" and f"{reason}. This run's files go to runs/a" in line
    assert not colab.exists()  # a folder of that name on this machine would look like a Drive


def test_a_mount_that_did_nothing_is_noticed(colab, monkeypatch):
    monkeypatch.setattr(sys.modules["google.colab"].drive, "mount", lambda _: None)
    assert "Google Drive is not used: it is not mounted." in folder_and_line()[1] and not colab.exists()


def test_ctrl_c_in_the_dialog_stops(colab, monkeypatch):
    mount_ends_with(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        output_folder("runs/a", drive=True)


def test_a_full_drive_is_one_line_with_the_numbers(colab, monkeypatch):
    fill(monkeypatch, 100_000_000)
    folder, line = folder_and_line()
    assert str(folder) == "runs/a" and "it is full, 100 MB are left and a run takes 270." in line


def test_what_a_run_has_on_the_drive_already_counts_as_room(colab, monkeypatch):
    folder, _ = folder_and_line()
    with open(folder / "checkpoint.pt", "wb") as file:
        file.truncate(180_000_000)  # bytes that take no room here
    fill(monkeypatch, 100_000_000)
    assert folder_and_line()[0] == folder


def test_a_run_whose_drive_has_become_full_goes_on_here(colab, monkeypatch):
    config = dict(seed=1, epochs=3)
    Checkpoint(folder_and_line()[0], config).save(history=[dict(seconds=1.0)])
    fill(monkeypatch, 0)
    folder, _ = folder_and_line()
    assert Checkpoint(folder, config).state["history"] == [dict(seconds=1.0)]
    Checkpoint(folder, config).save(history=[dict(seconds=1.0)] * 2)
    assert len(Checkpoint(folder_and_line()[0], config).state["history"]) == 2  # the newer one here is kept


def test_a_drive_that_cannot_be_written_is_one_line(colab, monkeypatch):
    with public_folder() as place:
        monkeypatch.setattr(settings, "DRIVE", place)
        (place / "MyDrive" / "s10" / "a").mkdir(parents=True)
        monkeypatch.setattr(sys.modules["google.colab"].drive, "mount", lambda _: None)
        with rights(place / "MyDrive" / "s10" / "a", 0o555):
            folder, line = folder_and_line("a")
        assert str(folder) == "a" and "Permission denied. This run's files go to a" in line

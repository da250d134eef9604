"""Does a run survive a cut, a full disk, a damaged file, a second process and another run's checkpoint?"""

import builtins
import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from rights import public_folder, rights
from small_run import stop_at

import checkpoint as module
from checkpoint import Checkpoint, CheckpointError, lock_folder, write_atomically

CONFIG = dict(model="TinyNet", data="sample", limit=None, batch_size=8, epochs=3, seed=0, loader="device")


def rows(n):
    return [dict(epoch=epoch, test_acc=50.0, seconds=10.0) for epoch in range(1, n + 1)]


def epochs_saved(folder, n, config=CONFIG):
    """A run of n finished epochs in the folder."""
    saver = Checkpoint(folder, config, log=lambda line: None)
    for done in range(n + 1):
        saver.save(model={"w": torch.full((3,), float(done))}, history=rows(done))


def opened(folder, config=CONFIG, **options):
    lines = []
    return Checkpoint(folder, config, log=lines.append, **options), lines


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != ".lock"}


# --- what is kept


def test_a_new_folder_is_made_and_nothing_is_said(tmp_path):
    fresh, lines = opened(tmp_path / "a" / "b")
    assert fresh.state == {} and lines == [] and (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    ("done", "text"),
    [
        (0, "resumed after the LR range test from {}: 7 s saved"),
        (2, "resumed after epoch 2 of 3 from {}: 27 s saved"),
        (3, "resumed {}: the run is finished, 3 of 3 epochs; nothing is left to train"),
    ],
)
def test_one_line_says_what_is_resumed_and_what_time_it_saved(tmp_path, done, text):
    Checkpoint(tmp_path, CONFIG).save(range_test={}, range_seconds=7.0, history=rows(done))
    _, lines = opened(tmp_path)
    assert lines == [text.format(tmp_path / "checkpoint.pt")]


def test_the_file_is_read_without_pickle_and_holds_all(tmp_path):
    epochs_saved(tmp_path, 2)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["format"] == 1 and state["config"] == CONFIG and len(state["history"]) == 2
    assert state["model"]["w"].tolist() == [2.0] * 3
    before = torch.load(tmp_path / "checkpoint.previous.pt", weights_only=True)
    assert len(before["history"]) == 1 and before["model"]["w"].tolist() == [1.0] * 3


# --- cuts while it is written


class Killed(BaseException):
    """Ends the writing here, as SIGKILL does: no clean-up runs that catches Exception."""


@pytest.mark.parametrize("point", ["write", "flush", "rename", "renamed"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_cut_at_any_step_of_writing_leaves_a_good_checkpoint(tmp_path, monkeypatch, point, call):
    """With real kills in test_kill.py; here every step is tried, and what is on the disk is looked at."""
    epochs_saved(tmp_path, 1)
    saver = Checkpoint(tmp_path, CONFIG, log=lambda line: None)
    with monkeypatch.context() as patched:
        for target, name in ((os, "fsync"), (Path, "replace")):
            patched.setattr(target, name, getattr(target, name))  # undone after the block, whatever stop_at changed
        patched.setattr(module, "open", builtins.open, raising=False)

        def kill(*_):
            raise Killed

        patched.setattr(os, "kill", kill)
        stop_at(point, call)
        try:
            saver.save(model={"w": torch.full((3,), 2.0)}, history=rows(2))
            saver.save(model={"w": torch.full((3,), 3.0)}, history=rows(3))
        except Killed:
            pass
    again, lines = opened(tmp_path)
    done = len(again.state["history"])
    assert done >= 1 and again.state["model"]["w"].tolist() == [float(done)] * 3
    assert len(lines) == 1 and lines[0].startswith("resumed")  # nothing is damaged, nothing is set aside
    again.save(model={"w": torch.full((3,), 9.0)}, history=rows(3))
    assert opened(tmp_path)[0].state["model"]["w"].tolist() == [9.0] * 3
    assert set(files(tmp_path)) <= {"checkpoint.pt", "checkpoint.previous.pt"}


# --- damaged and foreign files


class Harm:
    """Unpickled, it makes a file: code that must not run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def damage(path, kind, harm):
    """Put something else where the checkpoint is."""
    content = path.read_bytes()
    match kind:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("<html>quota exceeded</html>")
        case "zeros":
            path.write_bytes(bytes(len(content)))
        case "pickle with code":
            path.write_bytes(pickle.dumps(Harm(harm)))
        case "torch file with code":
            torch.save({"format": 1, "config": Harm(harm), "history": []}, path)
        case "weights":
            torch.save({"w": torch.zeros(3)}, path)
        case "a list":
            torch.save([1, 2], path)
        case "other format":
            torch.save({"format": 2, "config": CONFIG, "history": []}, path)
        case "no configuration":
            torch.save({"format": 1}, path)


KINDS = ["truncated", "empty", "text", "zeros", "pickle with code", "torch file with code", "weights", "a list"]
KINDS += ["other format", "no configuration"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_file_is_set_aside_and_the_one_before_is_used(tmp_path, kind):
    folder = tmp_path / "run"
    epochs_saved(folder, 2)
    damage(folder / "checkpoint.pt", kind, tmp_path / "harm")
    bad = (folder / "checkpoint.pt").read_bytes()
    again, lines = opened(folder)
    assert not (tmp_path / "harm").exists()
    assert len(again.state["history"]) == 1 and again.state["model"]["w"].tolist() == [1.0] * 3
    assert files(folder)["checkpoint.damaged.pt"] == bad and "checkpoint.pt" not in files(folder)
    assert len(lines) == 2 and "\n" not in lines[0]
    assert f"{folder / 'checkpoint.pt'} is no good checkpoint (" in lines[0]
    assert lines[0].endswith("it is set aside as checkpoint.damaged.pt")
    assert lines[1].startswith("resumed after epoch 1 of 3")
    if kind == "other format":
        assert "its format is 2, not 1" in lines[0]


def test_two_bad_files_are_set_aside_and_the_run_begins_anew(tmp_path):
    epochs_saved(tmp_path, 2)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        damage(tmp_path / name, "truncated", None)
    again, lines = opened(tmp_path)
    assert again.state == {} and len(lines) == 2
    assert set(files(tmp_path)) == {"checkpoint.damaged.pt", "checkpoint.previous.damaged.pt"}
    epochs_saved(tmp_path, 1)  # and a second time nothing that was set aside is lost
    damage(tmp_path / "checkpoint.pt", "text", None)
    opened(tmp_path)
    assert {"checkpoint.damaged.pt", "checkpoint.damaged-2.pt"} <= set(files(tmp_path))


def test_a_file_that_cannot_be_read_now_is_not_set_aside():
    """The disk or the network drive hesitates; the file may be good."""
    with public_folder() as folder:
        folder.chmod(0o777)
        epochs_saved(folder, 1)
        (folder / ".lock").chmod(0o666)
        lock = lock_folder(folder)
        with (
            rights(folder / "checkpoint.pt", 0o000),
            pytest.raises(CheckpointError, match="cannot be read: Permission"),
        ):
            opened(folder)
        assert set(files(folder)) == {"checkpoint.pt", "checkpoint.previous.pt"} and lock
        assert opened(folder)[1][0].startswith("resumed after epoch 1")


# --- another run's folder


@pytest.mark.parametrize(
    ("key", "value"),
    [("model", "Other"), ("data", "CIFAR-10"), ("limit", 100), ("batch_size", 9), ("epochs", 4), ("seed", 1)]
    + [("loader", "torchvision"), ("fingerprint", "ab12"), ("recipe", {"optimizer": "Adam"})],
)
def test_another_configuration_is_refused_with_the_difference_and_not_overwritten(tmp_path, key, value):
    epochs_saved(tmp_path, 2)
    before = files(tmp_path)
    with pytest.raises(CheckpointError) as error:
        opened(tmp_path, CONFIG | {key: value})
    assert f"another run: {key} is {CONFIG.get(key)!r} there and {value!r} here. Use the" in str(error.value)
    assert "--out" in str(error.value) and "--no-resume" in str(error.value)
    assert files(tmp_path) == before


def test_all_differences_are_named(tmp_path):
    epochs_saved(tmp_path, 1)
    with pytest.raises(CheckpointError, match="epochs is 3 there and 24 here; .*seed is 0 there and 7 here"):
        opened(tmp_path, CONFIG | dict(epochs=24, seed=7))


def test_no_resume_starts_over_and_keeps_the_old_file(tmp_path):
    epochs_saved(tmp_path, 2)
    old = files(tmp_path)["checkpoint.pt"]
    fresh, lines = opened(tmp_path, CONFIG | dict(seed=5), resume=False)
    assert fresh.state == {} and lines == []
    assert files(tmp_path) == {"checkpoint.replaced.pt": old}
    assert opened(tmp_path / "nothing", resume=False)[0].state == {}


# --- the lock


def opened_elsewhere(folder):
    """What another process says about opening the folder."""
    program = (
        "import sys; from checkpoint import Checkpoint, CheckpointError\n"
        "try: Checkpoint(sys.argv[1], {})\n"
        "except CheckpointError as error: print(error)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    options = dict(cwd=Path(module.__file__).parent, capture_output=True, text=True, check=True)
    return subprocess.run(command, **options).stdout


def test_a_second_process_is_refused_and_a_notebook_s_second_cell_is_not(tmp_path):
    first, _ = opened(tmp_path / "run")
    words = opened_elsewhere(tmp_path / "run")
    assert words == f"{tmp_path / 'run'} is in use by another process: wait for it, or choose another output folder\n"
    assert opened(tmp_path / "run")[0].lock is first.lock
    assert opened(tmp_path / "x" / ".." / "run")[0].lock is first.lock  # the same folder under another name
    first.release()
    assert opened_elsewhere(tmp_path / "run") == ""


def test_a_drive_without_locks_is_used_without(tmp_path, monkeypatch):
    def none(*_):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", none)
    assert opened(tmp_path)[0].lock is None


# --- no space, no permission


def test_a_disk_that_is_full_is_said_and_the_last_good_file_stays(tmp_path, monkeypatch):
    epochs_saved(tmp_path, 1)
    before = files(tmp_path)
    saver, lines = opened(tmp_path)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        weights = torch.full((3,), 2.0)
        saver.save(model={"w": weights}, history=rows(2))
    assert files(tmp_path) == before
    assert "could not be written (No space left on device): the run goes on; free some space" in lines[-1]
    weights.fill_(77.0)  # training goes on, and moves the weights
    assert saver.state["model"]["w"].tolist() == [2.0] * 3
    saver.save(history=rows(2))  # there is space again
    assert opened(tmp_path)[0].state["model"]["w"].tolist() == [2.0] * 3


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 kB, where this process may make one; else a file-size limit that works the same way."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode == 0:
        yield disk
        subprocess.run(["umount", "-l", str(disk)], check=True)
        return
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    yield disk
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_real_disk_that_is_full(tiny_disk):
    epochs_saved(tiny_disk, 1)
    before = files(tiny_disk)
    saver, lines = opened(tiny_disk)
    saver.save(model={"w": torch.zeros(100_000)}, history=rows(2))
    assert "could not be written" in lines[-1] and "the run goes on" in lines[-1]
    assert files(tiny_disk) == before
    saver.save(model={"w": torch.full((3,), 2.0)}, history=rows(2))
    assert opened(tiny_disk)[0].state["model"]["w"].tolist() == [2.0] * 3


def test_weights_and_results_that_cannot_be_written_are_one_sentence(tiny_disk):
    saver, lines = opened(tiny_disk)
    saver.write(tiny_disk / "s10_model.pt", bytes(100_000))
    assert len(lines) == 1 and lines[0].startswith(f"{tiny_disk / 's10_model.pt'} could not be written (")
    saver.write(tiny_disk / "results.json", b"{}")
    assert sorted(path.name for path in tiny_disk.iterdir()) == [".lock", "results.json"] and len(lines) == 1


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match=f"the output folder {path} cannot be written: "):
            opened(path)
    with public_folder() as folder, rights(folder, 0o555):
        for path in (folder, folder / "run"):
            with pytest.raises(CheckpointError, match=f"the output folder {path} cannot be written: Permission denied"):
                opened(path)


def test_write_atomically_replaces_and_keeps(tmp_path):
    path, keep = tmp_path / "a.txt", tmp_path / "b.txt"
    write_atomically(path, b"one", keep=keep)
    assert files(tmp_path) == {"a.txt": b"one"}
    write_atomically(path, b"two", keep=keep)
    assert files(tmp_path) == {"a.txt": b"two", "b.txt": b"one"}
    with pytest.raises(OSError):
        write_atomically(tmp_path / "no" / "a.txt", b"three")

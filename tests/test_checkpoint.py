"""A damaged file loses one epoch, another run's is refused.

Kills: test_kill.py. A full disk: test_main.py.
"""

import contextlib
import copy
import errno
import os
import pickle
from pathlib import Path
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch
from small_run import TinyNet, same

from extras import checkpoint as module
from extras.checkpoint import Checkpoint, CheckpointError, hyperparameters, open_run
from train import make_optimizer, one_cycle

CONFIG = {"network": "TinyNet", "data": "sample", "batch_size": 8, "epochs": 3, "seed": 0}
OLD, NEW = "checkpoint.previous.pt", "checkpoint.pt"


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch):
    monkeypatch.setattr(module, "LOCK_SECONDS", 0)


def rows(n):
    return [{"epoch": epoch, "test_acc": 50.0, "seconds": 10.0} for epoch in range(1, n + 1)]


def opened(folder, config=CONFIG, least_seconds=0, **options):
    return Checkpoint(folder, config, least_seconds=least_seconds, **options)


def save(checkpoint, done):
    weights = {"w": torch.full((3,), float(done))}
    checkpoint.save(model=weights, history=rows(done), range_seconds=7.0)


def epochs_saved(folder, n):
    """A run of n finished epochs in the folder."""
    checkpoint = opened(folder)
    for done in range(n + 1):
        save(checkpoint, done)
    return checkpoint


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != ".lock"}


# --- what is written


def test_both_files_are_read_without_pickle_and_what_is_displaced_was_emptied(
    tmp_path, monkeypatch
):
    """Google Drive keeps displaced files in its trash: 24 of 79 MB would fill a free account."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "truncate", Mock(wraps=os.truncate))
    epochs_saved("~/run", 2)
    assert os.truncate.call_args_list == [call(tmp_path / "run" / OLD, 0)]
    for name, done in ((NEW, 2), (OLD, 1)):
        state = torch.load(tmp_path / "run" / name, weights_only=True)
        assert state["config"] == CONFIG
        assert len(state["history"]) == done
        assert state["model"]["w"].tolist() == [float(done)] * 3


def test_what_is_saved_does_not_move_on_with_the_training(tmp_path):
    """A state dict holds the very tensors that the next step changes."""
    model = TinyNet()
    checkpoint = opened(tmp_path, least_seconds=1000)
    checkpoint.save(model={}, history=rows(0))
    checkpoint.hold()
    history = rows(1)
    checkpoint.save(model=model.state_dict(), history=history)  # kept in memory for a while
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    history[0]["test_acc"] = 0.0
    checkpoint.release()
    saved = opened(tmp_path).state
    assert torch.equal(saved["model"]["0.weight"], before)
    assert saved["history"] == rows(1)


def test_quick_epochs_are_written_every_few_seconds_and_the_last_one_in_any_case(
    tmp_path, monkeypatch
):
    """An H200 trains an epoch in half a second: 79 MB after each were a third of its time."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    assert Checkpoint(tmp_path / "default", CONFIG).least_seconds == 10
    checkpoint = opened(tmp_path, least_seconds=10)
    checkpoint.hold()
    on_disk = []
    for done in range(8):
        save(checkpoint, done)
        on_disk.append(len(torch.load(tmp_path / NEW, weights_only=True)["history"]))
        clock[0] += 4
    assert on_disk == [0, 0, 0, 3, 3, 3, 6, 6]
    checkpoint.release()
    assert len(opened(tmp_path).state["history"]) == 7


def test_reading_never_puts_a_tensor_on_the_gpu(tmp_path, monkeypatch):
    """A checkpoint of a GPU says where its tensors were, and torch.load would put them there."""
    loads = Mock(wraps=torch.load)
    monkeypatch.setattr(torch, "load", loads)
    epochs_saved(tmp_path, 1)
    opened(tmp_path)
    assert loads.call_count >= 2
    assert all(used.kwargs.get("map_location") == "cpu" for used in loads.call_args_list)


@pytest.mark.parametrize(
    "value", [np.float64(0.1), np.int64(3), Path("photos")], ids=["float64", "int64", "path"]
)
def test_a_numpy_number_or_a_path_is_refused_at_the_first_save(tmp_path, value):
    """It would be written, and refused when it is read: the run would be lost."""
    with pytest.raises(CheckpointError, match="NumPy"):
        opened(tmp_path, CONFIG | {"extra": value}).save(range_test={})
    assert files(tmp_path) == {}
    checkpoint = opened(tmp_path)
    checkpoint.save(range_test={})  # optimizer and scheduler come later
    with pytest.raises(CheckpointError, match="NumPy"):
        checkpoint.save(model={}, scheduler={"gamma": value})
    assert "model" not in opened(tmp_path).state


def test_what_cannot_be_read_back_late_in_a_run_costs_its_epoch_alone(tmp_path):
    """A schedule or a metric may give its first NumPy number in any epoch."""
    checkpoint = epochs_saved(tmp_path, 2)
    good = files(tmp_path)
    with pytest.raises(CheckpointError, match="NumPy"):
        checkpoint.save(history=[*rows(2), dict(rows(1)[0], f1=np.float64(0.5))])
    assert files(tmp_path) == good
    assert checkpoint.state["history"] == rows(2)  # the cell, run again, goes on from there
    checkpoint.save(history=rows(3))
    assert opened(tmp_path).state["history"] == rows(3)


def test_where_the_disk_was_full_the_state_in_memory_is_not_forgotten(
    tmp_path, monkeypatch, capsys
):
    """Else a notebook's training cell, run again, would begin anew with trained weights."""
    model = TinyNet()
    optimizer = make_optimizer(model)
    parts = {"model": model, "optimizer": optimizer}
    checkpoint = opened(tmp_path)
    checkpoint.save(range_test={})

    def step():
        model(torch.rand(4, 3, 32, 32)).sum().backward()
        optimizer.step()
        return copy.deepcopy(optimizer.state_dict()["state"][0])

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        assert checkpoint.restore(**parts) == []
        saved = step()
        states = {name: part.state_dict() for name, part in parts.items()}
        checkpoint.save(history=rows(1), **states)
        checkpoint.release()
    assert checkpoint.unwritten == {tmp_path / NEW}
    assert "No space left" in capsys.readouterr().out
    for _ in range(2):
        step()  # an epoch that is interrupted
        assert checkpoint.restore(**parts) == rows(1)
        assert same(optimizer.state_dict()["state"][0], saved)
    checkpoint.release()
    assert checkpoint.unwritten == set()
    assert opened(tmp_path).state["history"] == rows(1)


# --- what is read


class Harm:
    """Unpickled, it makes the folder `harm`: code that must not run."""

    def __reduce__(self):
        return (os.mkdir, ("harm",))


@pytest.mark.parametrize("kind", ["truncated", "empty", "one bit", "pickle with code"])
def test_a_damaged_file_is_set_aside_and_the_one_before_is_used(
    tmp_path, monkeypatch, capsys, kind
):
    folder = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    epochs_saved(folder, 2)
    content = files(folder)[NEW]
    ones = np.full(3, 2.0, np.float32).tobytes()  # the weights
    bad = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "one bit": content.replace(ones, ones[:-1] + b"\x41"),
        "pickle with code": pickle.dumps(Harm()),
    }[kind]
    (folder / NEW).write_bytes(bad)
    again = opened(folder)
    assert not (tmp_path / "harm").exists()
    assert again.state["model"]["w"].tolist() == [1.0] * 3
    assert files(folder).keys() == {"checkpoint.damaged.pt", OLD}
    assert files(folder)["checkpoint.damaged.pt"] == bad
    damaged, resumed = capsys.readouterr().out.splitlines()
    assert str(folder / NEW) in damaged
    assert "checkpoint.damaged.pt" in damaged
    assert "resumed after epoch 1 of 3" in resumed
    assert "17 s" in resumed  # of the range test and of one epoch
    for name in (NEW, OLD):  # both: nothing that was set aside is lost, and the run begins anew
        (folder / name).write_bytes(b"")
    assert opened(folder).state == {}
    assert len(files(folder)) == 3


@pytest.mark.parametrize("kind", ["code in it", "weights", "a list", "another format"])
def test_an_intact_file_that_cannot_be_read_here_is_refused_and_stays_where_it_is(
    tmp_path, monkeypatch, kind
):
    folder = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    epochs_saved(folder, 2)
    content = {
        "code in it": {"format": module.FORMAT, "config": Harm()},
        "weights": {"w": torch.zeros(3)},
        "a list": [1, 2],
        "another format": {"format": 1, "config": CONFIG, "history": []},
    }
    torch.save(content[kind], folder / NEW)
    before = files(folder)
    with pytest.raises(CheckpointError, match=NEW) as error:
        opened(folder)
    assert files(folder) == before
    assert not (tmp_path / "harm").exists()
    assert "damaged" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_now_is_not_set_aside(tmp_path, monkeypatch):
    """The disk or the network drive hesitates; the file may be good."""
    epochs_saved(tmp_path, 1)
    with monkeypatch.context() as patched:
        hesitating = Mock(side_effect=OSError(errno.EIO, "Input/output error"))
        patched.setattr(Path, "read_bytes", hesitating)
        with pytest.raises(CheckpointError, match="Input/output error"):
            opened(tmp_path)
    assert files(tmp_path).keys() == {NEW, OLD}


@pytest.mark.parametrize("lost", [None, "removed", "damaged"])
def test_no_resume_puts_the_newest_good_checkpoint_aside(tmp_path, lost):
    epochs_saved(tmp_path, 2)
    newest = files(tmp_path)[OLD if lost else NEW]
    damaged = {}
    if lost == "removed":
        (tmp_path / NEW).unlink()  # as after a kill between two renames
    elif lost == "damaged":
        (tmp_path / NEW).write_bytes(b"nonsense")
        damaged = {"checkpoint.damaged.pt": b"nonsense"}
    assert opened(tmp_path, CONFIG | {"seed": 5}, resume=False).state == {}
    assert files(tmp_path) == {"checkpoint.replaced.pt": newest} | damaged


def test_a_new_model_gets_the_weights_of_the_last_finished_epoch(tmp_path):
    """Else a rerun cell would write untrained weights beside the results of the trained ones."""
    trained, fresh = TinyNet(), TinyNet()
    checkpoint = opened(tmp_path)
    checkpoint.load_model(fresh)  # before the first epoch there are none
    assert not same(fresh.state_dict(), trained.state_dict())
    checkpoint.save(model=trained.state_dict(), history=rows(1))
    opened(tmp_path).load_model(fresh)
    assert same(fresh.state_dict(), trained.state_dict())


# --- another run's


def test_another_configuration_is_refused_by_name_and_nothing_is_overwritten(tmp_path):
    epochs_saved(tmp_path, 2)
    before = files(tmp_path)
    with pytest.raises(CheckpointError) as error:
        opened(tmp_path, CONFIG | {"seed": 7, "lr_max": 0.5, "fingerprint": "ab12"})
    words = str(error.value)
    assert "seed is 0 there and 7 here" in words
    assert "lr_max is None there and 0.5 here" in words
    assert "images" in words and "ab12" not in words  # a number that says nothing to anybody
    assert files(tmp_path) == before


def test_another_network_is_refused_before_any_of_its_layers_is_overwritten(tmp_path):
    checkpoint = opened(tmp_path)
    checkpoint.save(model=TinyNet().state_dict(), history=rows(1))
    other = torch.nn.Sequential(*TinyNet(), torch.nn.Linear(10, 10))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError, match="layers"):
        opened(tmp_path).restore(model=other)
    assert same(other.state_dict(), before)


def adam(model, **options):
    return torch.optim.Adam(model.parameters(), **options)


def heavier(model):
    return adam(model, weight_decay=0.5)


def faster(model):
    return adam(model, lr=0.02)


def restored(folder, lr_max=0.01, optimizer=adam, **options):
    """A new optimizer and a new scheduler meet the checkpoint; one epoch is trained and saved."""
    model = TinyNet()
    checkpoint = opened(folder)
    parts = {"model": model, "optimizer": optimizer(model)}
    if lr_max:
        parts["scheduler"] = one_cycle(parts["optimizer"], lr_max, 10, 3, **options)
    with contextlib.suppress(CheckpointError):
        checkpoint.restore(**parts)
    history = checkpoint.restore(**parts)  # a refusal is not forgotten when the cell is run again
    if lr_max:
        for _ in range(10):
            parts["optimizer"].step()
            parts["scheduler"].step()
    states = {name: part.state_dict() for name, part in parts.items()}
    checkpoint.save(history=[*history, *rows(1)], **states)
    checkpoint.release()
    return checkpoint


@pytest.mark.parametrize(
    ("there", "here", "named"),
    [
        ({}, {"lr_max": 0.005}, "max_lr of group 0 is 0.01 there and 0.005 here"),
        ({}, {"lr_min": 0.001}, "initial_lr of group 0 is 0.0001 there and 0.001 here"),
        ({}, {"peak": 0.5}, "_schedule_phases of the scheduler"),
        ({}, {"optimizer": heavier}, "weight_decay of group 0 is 0 there and 0.5"),
        ({"lr_max": 0}, {"optimizer": faster}, "lr of group 0 is 0.001 there and 0.02"),
        ({"lr_max": 0}, {"lr_max": 0.01}, "the scheduler is None there and 'OneCycleLR' here"),
    ],
    ids=["LRMAX", "LRMIN", "peak", "weight decay", "learning rate without a scheduler", "kind"],
)
def test_other_hyperparameters_are_refused_by_name(tmp_path, there, here, named):
    restored(tmp_path, **there)
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match="another run") as error:
        restored(tmp_path, **there | here)
    assert named in str(error.value)
    assert files(tmp_path) == before
    assert len(restored(tmp_path, **there).state["history"]) == 2  # the same ones go on


def test_a_scheduler_of_an_older_pytorch_is_no_other_run(tmp_path):
    """torch 2.8's schedulers have `_is_initial`, those of 2.7 have not."""

    class Newer:
        def state_dict(self):
            return {"gamma": 0.1, "_is_initial": False, "_step_count": 1, "_schedule_phases": [5]}

    assert hyperparameters(None, Newer()) == {
        "the scheduler": "Newer",
        "gamma of the scheduler": 0.1,
        "_schedule_phases of the scheduler": [5],
    }


# --- what open_run settles


def open_again(folder, device="cpu", **options):
    checkpoint, loader, dtype = open_run(folder, CONFIG, torch.device(device), **options)
    checkpoint.save(range_test={})
    return loader, dtype, checkpoint.choices["workers"]


def test_a_run_that_goes_on_keeps_what_it_was_begun_with(tmp_path, capsys):
    asked = {"loader": "torchvision", "precision": "float32", "workers": 5}
    assert open_again(tmp_path, **asked) == ("torchvision", torch.float32, 5)
    assert open_again(tmp_path) == ("torchvision", torch.float32, 5)
    for option in ({"loader": "device"}, {"precision": "bfloat16"}):
        with pytest.raises(CheckpointError, match=f"{next(iter(option))} is"):
            open_again(tmp_path, **option)
    capsys.readouterr()
    assert open_again(tmp_path, workers=1)[2] == 1
    assert "5 workers" in capsys.readouterr().out  # they draw other images, which is said
    assert open_again(tmp_path)[2] == 1


def test_a_run_of_a_gpu_goes_on_without_it_and_both_machines_are_named(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    monkeypatch.setattr("extras.hardware.cpu_has_bfloat16", lambda: False)
    assert open_again(tmp_path, "cuda") == ("device", torch.float16, 2)
    capsys.readouterr()
    assert open_again(tmp_path, "cpu") == ("device", torch.float32, 2)
    words = capsys.readouterr().out
    assert "begun on Tesla T4" in words
    assert "float16" in words


# --- other processes


def test_another_process_that_has_gone_on_meanwhile_is_not_overwritten(tmp_path):
    """Two that were started at the same moment, and a notebook that is still open."""
    first = opened(tmp_path)
    second = opened(tmp_path)
    first.save(range_test={"lr_max": 1.0})
    with pytest.raises(CheckpointError, match="another process"):
        second.save(range_test={"lr_max": 2.0})
    assert opened(tmp_path).state["range_test"] == {"lr_max": 1.0}

    third = opened(tmp_path)
    save(third, 1)
    with pytest.raises(CheckpointError, match="another process"):
        save(first, 0)
    assert len(first.restore(model=Mock())) == 1  # it takes up what the other has done
    first.release()


def test_a_drive_without_locks_is_used_without_and_nobody_is_locked_out(tmp_path, monkeypatch):
    no_locks = Mock(side_effect=OSError(errno.ENOSYS, "no locks"))
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", no_locks)
    checkpoint = epochs_saved(tmp_path, 1)
    checkpoint.restore(model=Mock())
    assert set(os.listdir(tmp_path)) == {NEW, OLD}
    checkpoint.release()


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, error):
    read_only = Mock(side_effect=OSError(error, os.strerror(error)))
    monkeypatch.setattr("extras.files.tempfile.TemporaryFile", read_only)
    with pytest.raises(CheckpointError, match=f"{tmp_path}.*{os.strerror(error)}"):
        opened(tmp_path)

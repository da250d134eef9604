"""A damaged file loses one epoch, another run's is refused. Kills: test_kill.py; a full disk:
test_main.py.
"""

import contextlib
import errno
import os
import pickle
from pathlib import Path
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch
from small_run import TinyNet

from extras.checkpoint import Checkpoint, CheckpointError
from train import make_optimizer, one_cycle

CONFIG = dict(model="TinyNet", data="sample", limit=None, batch_size=8, epochs=3, seed=0)
OLD, NEW = "checkpoint.previous.pt", "checkpoint.pt"


def rows(n):
    return [dict(epoch=epoch, test_acc=50.0, seconds=10.0) for epoch in range(1, n + 1)]


def opened(folder, config=CONFIG, **options):
    lines = []
    return Checkpoint(folder, config, log=lines.append, **options), lines


def save(checkpoint, done):
    checkpoint.save(
        model={"w": torch.full((3,), float(done))}, history=rows(done), range_seconds=7.0
    )


def epochs_saved(folder, n):
    """A run of n finished epochs in the folder."""
    checkpoint, _ = opened(folder)
    for done in range(n + 1):
        save(checkpoint, done)
    return checkpoint


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != ".lock"}


def test_both_files_are_read_without_pickle_and_what_is_displaced_was_emptied(
    tmp_path, monkeypatch
):
    """Google Drive keeps displaced files in its trash: 24 epochs of 79 MB would fill a free
    account.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "truncate", Mock(wraps=os.truncate))
    epochs_saved("~/run", 2)
    assert os.truncate.call_args_list == [call(tmp_path / "run" / OLD, 0)]
    for name, done in ((NEW, 2), (OLD, 1)):
        state = torch.load(tmp_path / "run" / name, weights_only=True)
        assert state["config"] == CONFIG and len(state["history"]) == done
        assert state["model"]["w"].tolist() == [float(done)] * 3


class Harm:
    """Unpickled, it makes the folder `harm`: code that must not run."""

    def __reduce__(self):
        return (os.mkdir, ("harm",))


@pytest.mark.parametrize("kind", ["truncated", "empty", "one bit", "pickle with code"])
def test_a_damaged_file_is_set_aside_and_the_one_before_is_used(tmp_path, monkeypatch, kind):
    folder = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    epochs_saved(folder, 2)
    content = files(folder)[NEW]
    ones = np.full(3, 2.0, np.float32).tobytes()  # the weights
    bad = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "pickle with code": pickle.dumps(Harm()),
    }
    bad["one bit"] = content.replace(ones, ones[:-1] + b"\x41")
    (folder / NEW).write_bytes(bad[kind])
    again, lines = opened(folder)
    assert not (tmp_path / "harm").exists() and again.state["model"]["w"].tolist() == [1.0] * 3
    assert files(folder).keys() == {"checkpoint.damaged.pt", OLD}
    assert files(folder)["checkpoint.damaged.pt"] == bad[kind]
    assert lines[0] == f"{folder / NEW} is damaged: it is set aside as checkpoint.damaged.pt"
    assert lines[1:] == [f"resumed after epoch 1 of 3 from {folder / NEW}: 17 s saved"]
    for name in (NEW, OLD):  # both: nothing that was set aside is lost, and the run begins anew
        (folder / name).write_bytes(b"")
    assert opened(folder)[0].state == {} and len(files(folder)) == 3


@pytest.mark.parametrize("kind", ["code in it", "weights", "a list", "another format"])
def test_an_intact_file_that_cannot_be_read_here_is_refused_and_stays_where_it_is(
    tmp_path, monkeypatch, kind
):
    folder = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    epochs_saved(folder, 2)
    content = {"code in it": {"format": 2, "config": Harm()}, "weights": {"w": torch.zeros(3)}}
    content |= {"a list": [1, 2], "another format": {"format": 1, "config": CONFIG, "history": []}}
    torch.save(content[kind], folder / NEW)
    before = files(folder)
    with pytest.raises(CheckpointError, match="cannot be read here .*start over") as error:
        opened(folder)
    assert files(folder) == before and not (tmp_path / "harm").exists()
    assert "damaged" not in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_now_is_not_set_aside(tmp_path, monkeypatch):
    """The disk or the network drive hesitates; the file may be good."""
    epochs_saved(tmp_path, 1)
    with (
        monkeypatch.context() as patched,
        pytest.raises(CheckpointError, match="cannot be read: Input/output error"),
    ):
        patched.setattr(
            Path, "read_bytes", Mock(side_effect=OSError(errno.EIO, "Input/output error"))
        )
        opened(tmp_path)
    assert files(tmp_path).keys() == {NEW, OLD}


@pytest.mark.parametrize(
    "value", [np.float64(0.1), np.int64(3), Path("photos")], ids=["float64", "int64", "path"]
)
def test_a_numpy_number_or_a_path_is_refused_at_the_first_save(tmp_path, value):
    """It would be written, and refused when it is read: the run would be lost."""
    sentence = r"cannot be read back: give float\(x\) instead of a NumPy number, str\(path\)"
    with pytest.raises(CheckpointError, match=sentence):
        opened(tmp_path, CONFIG | dict(extra=value))[0].save(range_test={})
    assert files(tmp_path) == {}
    checkpoint, _ = opened(tmp_path)
    checkpoint.save(range_test={})  # optimizer and scheduler come later
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.save(model={}, scheduler={"gamma": value})
    assert "model" not in opened(tmp_path)[0].state


def test_another_configuration_is_refused_by_name_and_nothing_is_overwritten(tmp_path):
    epochs_saved(tmp_path, 2)
    before = files(tmp_path)
    with pytest.raises(
        CheckpointError, match="another folder, or start over .--no-resume"
    ) as error:
        opened(tmp_path, CONFIG | dict(seed=7, fingerprint="ab12"))
    assert "seed is 0 there and 7 here; fingerprint is None there and 'ab12' here" in str(
        error.value
    )
    assert files(tmp_path) == before


def adam(model, **options):
    return torch.optim.Adam(model.parameters(), **options)


def restored(folder, lr_max=np.float64(0.01), optimizer=make_optimizer, **options):  # noqa: B008
    """A new optimizer and a new scheduler meet the checkpoint, as in `fit`, and one epoch is
    trained and saved.
    """
    model, checkpoint = TinyNet(), opened(folder)[0]
    parts = dict(model=model, optimizer=optimizer(model))
    if lr_max:
        parts["scheduler"] = one_cycle(parts["optimizer"], lr_max, 10, 3, **options)
    with contextlib.suppress(CheckpointError):
        checkpoint.restore(**parts)
    history = checkpoint.restore(**parts)  # a refusal is not forgotten when the cell is run again
    if lr_max:
        for _ in range(10):
            parts["optimizer"].step(), parts["scheduler"].step()
    checkpoint.save(
        history=[*history, *rows(1)], **{name: part.state_dict() for name, part in parts.items()}
    )
    return checkpoint, parts


@pytest.mark.parametrize(
    ("there", "here", "named"),
    [
        ({}, dict(lr_max=0.005), "max_lr of group 0 is 0.01 there and 0.005 here"),
        ({}, dict(lr_min=0.001), "initial_lr of group 0 is 0.0001 there and 0.001 here"),
        ({}, dict(peak=0.5), "_schedule_phases of the scheduler"),
        (
            {},
            dict(optimizer=lambda m: adam(m, weight_decay=0.5)),
            "weight_decay of group 0 is 0.25 there and 0.5",
        ),
        (
            dict(lr_max=0, optimizer=adam),
            dict(optimizer=lambda m: adam(m, lr=0.02)),
            "lr of group 0 is 0.001 there",
        ),
    ],
    ids=["LRMAX", "LRMIN", "peak", "weight decay", "learning rate without a scheduler"],
)
def test_other_hyperparameters_are_refused_by_name(tmp_path, there, here, named):
    restored(tmp_path, **there)
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match="another run") as error:
        restored(tmp_path, **there | here)
    assert named in str(error.value) and files(tmp_path) == before
    assert (
        len(restored(tmp_path, **there)[0].state["history"]) == 2
    )  # with the same ones it goes on


@pytest.mark.parametrize("lost", [None, "removed", "damaged"])
def test_no_resume_puts_the_newest_good_checkpoint_aside(tmp_path, lost):
    epochs_saved(tmp_path, 2)
    newest, damaged = files(tmp_path)[OLD if lost else NEW], {}
    if lost == "removed":
        (tmp_path / NEW).unlink()  # as after a kill between two renames
    elif lost == "damaged":
        (tmp_path / NEW).write_bytes(b"nonsense")
        damaged = {"checkpoint.damaged.pt": b"nonsense"}
    assert opened(tmp_path, CONFIG | dict(seed=5), resume=False)[0].state == {}
    assert files(tmp_path) == {"checkpoint.replaced.pt": newest} | damaged


def test_a_released_checkpoint_cannot_be_used_again(tmp_path):
    """Another process may have gone on with the run: an old state must not be saved over its newer
    one.
    """
    released = epochs_saved(tmp_path, 1)
    released.release()
    epochs_saved(tmp_path, 2)
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match="was released: make a new Checkpoint"):
        save(released, 1)
    with pytest.raises(CheckpointError, match="was released: make a new Checkpoint"):
        released.restore(model=TinyNet())
    assert files(tmp_path) == before


def test_a_drive_without_locks_is_used_without_and_nobody_is_locked_out(tmp_path, monkeypatch):
    monkeypatch.setattr(
        pytest.importorskip("fcntl"), "flock", Mock(side_effect=OSError(errno.ENOSYS, "no locks"))
    )
    checkpoint = epochs_saved(tmp_path, 1)
    assert checkpoint.lock is None and set(os.listdir(tmp_path)) == {NEW, OLD}
    checkpoint.release()

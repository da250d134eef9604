"""Does `python train.py` do the whole run, refuse what is wrong before any work, and stop and go on at any time?

Real processes, with the tiny network of small_run.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rights import public_folder, rights
from small_run import TinyNet, finish, same, start, weights
from test_report import KEYS

import run

ROOT = Path(run.__file__).parent
SMALL = ["--limit", 40, "--batch-size", 16, "--epochs", 3, "--loader", "device"]
FIGURES = ["sample_images", "lr_finder", "loss_curves", "class_accuracy", "confusion_matrix", "misclassified_images"]


def results(out):
    return json.loads((Path(out) / "results.json").read_text())


def without_seconds(out):
    numbers = results(out)
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in numbers["history"]]
    return {key: value for key, value in numbers.items() if key != "seconds"} | dict(history=history)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run from beginning to end, in whose folder one figure cannot be written. Returns (folder, its words)."""
    out = tmp_path_factory.mktemp("whole")
    (out / "loss_curves.png").mkdir()
    assert finish([*SMALL, "--out", out], out / "log.txt", figures=True, timeout=300) == 0
    return out, (out / "log.txt").read_text()


def test_results_have_the_keys_of_the_contract(whole_run):
    numbers = results(whole_run[0])
    assert set(KEYS) <= set(numbers)
    assert (numbers["data"], numbers["pictures"], numbers["test_pictures"]) == ("sample data, not CIFAR-10", 40, 8)
    assert (numbers["epochs"], numbers["batch_size"], numbers["seed"], numbers["loader"]) == (3, 16, 0, "device")
    assert [row["epoch"] for row in numbers["history"]] == [1, 2, 3]
    assert numbers["lr_min"] == pytest.approx(numbers["lr_max"] / 100)
    assert numbers["history"][-1]["lr"] == pytest.approx(numbers["lr_min"])
    assert max(row["lr"] for row in numbers["history"]) <= numbers["lr_max"]


def test_the_weights_are_a_state_dict_of_the_model_that_is_reported(whole_run):
    model = TinyNet()
    model.load_state_dict(weights(whole_run[0]))
    assert sum(p.numel() for p in model.parameters()) == results(whole_run[0])["parameters"]


def test_one_line_an_epoch_and_nothing_of_our_own_to_worry_about(whole_run):
    lines = whole_run[1].splitlines()
    epochs = [line for line in lines if line.startswith("epoch")]
    assert len(epochs) == 3 and all("train loss" in line and "test loss" in line for line in epochs)
    assert not [line for line in lines if "resumed" in line]
    assert "Warning" not in whole_run[1] and "Traceback" not in whole_run[1]


def test_a_figure_that_cannot_be_written_costs_nothing_else(whole_run):
    out, words = whole_run
    assert f"The figure cannot be written to {out / 'loss_curves.png'}" in words
    for name in FIGURES:
        assert (out / f"{name}.png").is_dir() == (name == "loss_curves")
        assert name == "loss_curves" or (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_says_so_trains_nothing_and_ends_with_the_same(whole_run, tmp_path):
    out, log = whole_run[0], tmp_path / "log.txt"
    before, numbers = weights(out), results(out)
    assert finish([*SMALL, "--out", out], log) == 0
    lines = log.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("resumed")]
    assert "the run is finished, 3 of 3 epochs" in line
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/3", "2/3", "3/3"]  # shown again
    assert same(weights(out), before) and results(out) == numbers
    # other settings are refused, and nothing is overwritten
    kept = (out / "checkpoint.pt").read_bytes()
    log = tmp_path / "other.txt"
    assert finish([*SMALL, "--seed", 1, "--out", out], log) == 1
    assert "belongs to another run: seed is 0 there and 1 here" in log.read_text()
    assert "Traceback" not in log.read_text() and (out / "checkpoint.pt").read_bytes() == kept
    # unless the run is to start over
    assert finish([*SMALL, "--seed", 1, "--no-resume", "--out", out], tmp_path / "over.txt") == 0
    assert results(out)["seed"] == 1 and (out / "checkpoint.replaced.pt").read_bytes() == kept


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The folder of a run that nothing happens to."""
    out = tmp_path_factory.mktemp("reference")
    assert finish([*SMALL, "--out", out], out / "log.txt") == 0
    return out


@pytest.mark.parametrize("phase", ["range", "train", "test"])
def test_ctrl_c_exits_130_with_a_sentence_and_the_same_command_goes_on(reference, tmp_path, phase):
    out, log, again = tmp_path / "run", tmp_path / "cut.txt", tmp_path / "again.txt"
    arguments = [*SMALL, "--out", out]
    assert finish(arguments, log, stop=(phase, 5 if phase == "range" else 2, signal.SIGINT)) == 130
    words, epoch = log.read_text(), dict(range=0, train=1, test=2)[phase]
    assert "Traceback" not in words and "stopped by Ctrl-C; the same command goes on" in words
    kept = f"interrupted: epoch {epoch} is dropped; {epoch - 1} finished epoch"
    assert (kept in words) == (phase != "range")
    assert finish(arguments, again) == 0
    resumed = [line for line in again.read_text().splitlines() if line.startswith("resumed")]
    starts = dict(range=[], train=["resumed after the LR range test"], test=["resumed after epoch 1 of 3"])
    assert [line.split(" from ")[0] for line in resumed] == starts[phase]
    assert same(weights(out), weights(reference)) and without_seconds(out) == without_seconds(reference)


def test_ctrl_c_reaches_the_workers_too_and_nobody_prints_a_traceback(tmp_path):
    """From a terminal the signal goes to the whole group; here while workers prepare pictures."""
    arguments = ["--limit", 80, "--batch-size", 8, "--epochs", 3, "--loader", "torchvision", "--workers", 2]
    log = tmp_path / "log.txt"
    assert finish([*arguments, "--out", tmp_path / "run"], log, stop=("train", 2, signal.SIGINT)) == 130
    assert "interrupted: epoch 1 is dropped" in log.read_text() and "Traceback" not in log.read_text()


def wait_for(words, log, seconds=120):
    """Until the process has written these words."""
    end = time.monotonic() + seconds
    while not (log.exists() and words in log.read_text()):
        assert time.monotonic() < end, f"{words!r} did not come; there is {log.read_text() if log.exists() else None}"
        time.sleep(0.05)


def test_a_second_process_on_the_same_folder_is_refused_and_the_first_is_unharmed(tmp_path):
    out, log, second = tmp_path / "run", tmp_path / "first.txt", tmp_path / "second.txt"
    first = start([*SMALL, "--out", out], log, stop=("train", 5, signal.SIGSTOP))  # it stands still in its epoch 2
    wait_for("epoch  1/3", log)
    assert finish([*SMALL, "--out", out], second) == 2
    assert f"{out} is in use by another process: wait for it, or choose another" in second.read_text()
    os.kill(first.pid, signal.SIGCONT)
    first.join(60)
    assert first.exitcode == 0 and len(results(out)["history"]) == 3


def test_a_full_disk_does_not_stop_the_run_and_loses_no_finished_epoch(reference, tmp_path):
    """No file may outgrow 20 kB: the range test's checkpoint is smaller, those with weights are larger."""
    out, log = tmp_path / "run", tmp_path / "log.txt"
    assert finish([*SMALL, "--out", out], log, room=20_000) == 1
    words = log.read_text()
    assert words.count("checkpoint.pt could not be written") == 4  # at the beginning, and after each of three epochs
    assert words.count("epoch  ") == 3 and "train.py: [Errno 27] File too large" in words and "Traceback" not in words
    assert [path.name for path in out.iterdir() if path.name != ".lock"] == ["checkpoint.pt"]
    assert finish([*SMALL, "--out", out], tmp_path / "again.txt") == 0  # there is room again
    assert "resumed after the LR range test" in (tmp_path / "again.txt").read_text()
    assert same(weights(out), weights(reference))


WRONG = {
    "epochs 0": (["--epochs", "0"], "epochs is 0: give a whole number, 1 or more"),
    "epochs negative": (["--epochs", "-3"], "epochs is -3: give a whole number, 1 or more"),
    "epochs a word": (["--epochs", "many"], "epochs is 'many': give a whole number, 1 or more"),
    "epochs a fraction": (["--epochs", "2.5"], "epochs is '2.5': give a whole number, 1 or more"),
    "batch 0": (["--batch-size", "0"], "batch size is 0: give a whole number, 1 or more"),
    "batch negative": (["--batch-size", "-8"], "batch size is -8: give a whole number, 1 or more"),
    "loader": (["--loader", "fast"], "invalid choice: 'fast' (choose from"),
    "profile": (["--profile", "slow"], "invalid choice: 'slow' (choose from"),
    "seed a word": (["--seed", "lucky"], "seed is 'lucky': give a whole number, 0 or more"),
    "seed negative": (["--seed", "-1"], "seed is -1: give a whole number, 0 or more"),
    "seed empty": (["--seed", ""], "seed is '': give a whole number, 0 or more"),
    "limit negative": (["--limit", "-10"], "limit is -10: give a whole number, 10 or more"),
    "limit under ten": (["--limit", "9"], "limit is 9: give a whole number, 10 or more"),
    "workers negative": (["--workers", "-1"], "workers is -1: give a whole number, 0 or more"),
    "data unknown": (["--data", "cifar99"], "data is 'cifar99': give one of auto, cifar10, sample, or a folder"),
    "option unknown": (["--epoch-count", "3"], "unrecognized arguments: --epoch-count 3"),
    "value missing": (["--epochs"], "argument --epochs: expected one argument"),
}


def refused(arguments, capsys, monkeypatch):
    """What the command line says of arguments that it refuses; it must not begin to work."""
    monkeypatch.setattr(run, "run", lambda args: pytest.fail("it began to work"))
    with pytest.raises(SystemExit) as end:
        run.main([str(argument) for argument in arguments])
    assert end.value.code == 2
    words = capsys.readouterr()
    assert words.out == ""
    return words.err


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_exit_2_before_any_work_with_the_valid_values(case, tmp_path, capsys, monkeypatch):
    arguments, text = WRONG[case]
    assert text in refused([*arguments, "--out", tmp_path / "run"], capsys, monkeypatch)
    assert not (tmp_path / "run").exists()
    if case in ("loader", "profile"):
        names = dict(loader=["albumentations", "torchvision", "device"], profile=["auto", "full", "quick"])[case]
        assert all(name in refused([*arguments, "--out", tmp_path / "run"], capsys, monkeypatch) for name in names)


def test_an_output_folder_that_cannot_be_written_exits_2(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    text = f"the output folder {tmp_path / 'file'} cannot be written"
    assert text in refused(["--data", "sample", "--out", tmp_path / "file"], capsys, monkeypatch)
    with public_folder() as folder, rights(folder, 0o555):
        text = f"the output folder {folder / 'run'} cannot be written: Permission denied"
        assert text in refused(["--data", "sample", "--out", folder / "run"], capsys, monkeypatch)


def test_the_real_train_py_refuses_in_a_real_process(tmp_path):
    command = [sys.executable, ROOT / "train.py", "--seed", "x", "--out", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith("error: seed is 'x': give a whole number, 0 or more")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--limit", "10", "--batch-size", "64", "--epochs", "2"], "one cycle needs 3 or more: take more epochs"),
        (["--data", "{empty}"], "{empty}"),
    ],
    ids=["a cycle of two steps", "an empty folder"],
)
def test_what_only_the_data_can_tell_is_one_sentence_too(tmp_path, arguments, text, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dataset.draw_sample", __import__("small_run").tiny_sample)
    arguments = [argument.format(empty=empty) for argument in ["--data", "sample", *arguments]]
    with pytest.raises(SystemExit) as end:
        run.main([*arguments, "--out", str(tmp_path / "run")])
    assert str(end.value).startswith("train.py: ") and text.format(empty=empty) in end.value.code
    assert "\n" not in end.value.code and not (tmp_path / "run" / "checkpoint.pt").exists()


def test_ten_pictures_and_fewer_than_a_batch_are_enough(tmp_path):
    out = tmp_path / "run"
    arguments = ["--limit", 10, "--batch-size", 64, "--epochs", 3, "--loader", "torchvision", "--workers", 0]
    assert finish([*arguments, "--out", out], tmp_path / "log.txt") == 0
    assert results(out)["pictures"] == 10 and results(out)["test_pictures"] == 2
    assert all(value.isfinite().all() for value in weights(out).values() if isinstance(value, torch.Tensor))

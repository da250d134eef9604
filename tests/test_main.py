"""`python main.py` does the whole run, refuses what is wrong before any work, and stops and goes on
at any time.

Real processes, with the tiny network of small_run.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from small_run import TinyNet, end_orphans, finish, same, start, weights

import dataset
import main as command

SMALL = ["--limit", 40, "--batch-size", 16, "--epochs", 3, "--loader", "device"]
TINY = [
    "--limit",
    10,
    "--batch-size",
    64,
    "--epochs",
    3,
    "--loader",
    "device",
]  # fewer images than a batch has


@pytest.fixture(autouse=True)
def no_orphans():
    yield
    end_orphans()


def results(out):
    return json.loads((Path(out) / "results.json").read_text())


def lines(log, beginning):
    return [line for line in log.splitlines() if line.startswith(beginning)]


# --- a whole run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from beginning to end, in a folder with a space, where one figure cannot be written:
    (folder, its log).
    """
    out = tmp_path_factory.mktemp("my runs") / "a b"
    log = out / "log.txt"
    (out / "loss_curves.png").mkdir(parents=True)
    assert finish([*TINY, "--out", out], log, figures=True, timeout=600) == 0, log.read_text()
    return out, log.read_text()


def test_results_and_weights_are_those_of_the_run(whole):
    numbers, model = results(whole[0]), TinyNet()
    assert (numbers["data"], numbers["images"], numbers["test_images"]) == (
        "sample data, not CIFAR-10",
        10,
        2,
    )
    assert (numbers["epochs"], numbers["batch_size"], numbers["seed"], numbers["loader"]) == (
        3,
        64,
        0,
        "device",
    )
    assert [row["epoch"] for row in numbers["history"]] == [1, 2, 3] and numbers["world_size"] == 1
    assert numbers["history"][-1]["lr"] == pytest.approx(numbers["lr_min"], rel=1e-9)
    assert numbers["lr_min"] < max(row["lr"] for row in numbers["history"]) <= numbers["lr_max"]
    assert (
        numbers["precision"] in ("float32", "bfloat16")
        and numbers["recipe"]["label_smoothing"] == 0.2
    )
    model.load_state_dict(weights(whole[0]))
    assert sum(p.numel() for p in model.parameters()) == numbers["parameters"]
    assert all(value.isfinite().all() for value in weights(whole[0]).values())


def test_one_line_an_epoch_and_every_figure_that_can_be_written(whole):
    out, log = whole
    epochs = lines(log, "epoch")
    assert [line.split("/")[0] for line in epochs] == ["epoch 1", "epoch 2", "epoch 3"]
    assert all("train loss" in line and "test loss" in line for line in epochs)
    assert not any(word in log for word in ("resumed", "Warning", "Traceback"))
    assert f"The figure cannot be written to {out / 'loss_curves.png'}" in log
    for name in ("sample_images", "lr_finder", "confusion_matrix", "misclassified_images"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_says_so_and_another_one_in_its_folder_is_refused(whole, tmp_path):
    out, log, other = whole[0], tmp_path / "log.txt", tmp_path / "other.txt"
    before, numbers, kept = weights(out), results(out), (out / "checkpoint.pt").read_bytes()
    assert finish([*TINY, "--out", out], log) == 0
    assert "the run is finished, 3 of 3 epochs" in lines(log.read_text(), "resumed")[0]
    assert [line.split()[1] for line in lines(log.read_text(), "epoch")] == [
        "1/3",
        "2/3",
        "3/3",
    ]  # shown again
    assert same(weights(out), before) and results(out) == numbers

    assert finish([*TINY, "--seed", 1, "--out", out], other) == 1
    assert "belongs to another run: seed is 0 there and 1 here" in other.read_text()
    assert "Traceback" not in other.read_text() and (out / "checkpoint.pt").read_bytes() == kept

    assert finish([*TINY, "--seed", 1, "--no-resume", "--out", out], other) == 0
    assert results(out)["seed"] == 1 and (out / "checkpoint.replaced.pt").read_bytes() == kept


def test_a_loader_or_a_precision_that_is_asked_for_must_be_the_run_s_and_auto_keeps_it(tmp_path):
    out, log = tmp_path / "run", tmp_path / "log.txt"
    arguments = [
        "--limit",
        40,
        "--batch-size",
        16,
        "--epochs",
        3,
        "--out",
        out,
    ]  # auto: albumentations on a CPU
    first = [*arguments, "--loader", "device", "--precision", "float32"]
    assert finish(first, log, stop=("test", 1)) == -signal.SIGKILL
    refusal, again = tmp_path / "refusal.txt", tmp_path / "again.txt"
    assert finish([*arguments, "--loader", "torchvision"], refusal) == 1
    assert "loader is 'device' there and 'torchvision' here" in refusal.read_text()
    assert finish(arguments, again) == 0
    assert (results(out)["loader"], results(out)["precision"]) == ("device", "float32")
    assert "float32: as before the interruption" in again.read_text()


# --- cuts


@pytest.mark.parametrize("phase", ["range", "train", "test"])
def test_ctrl_c_exits_130_with_a_sentence_and_the_same_command_resumes(tmp_path, phase):
    """From a terminal the signal goes to the whole group, the workers included; nobody prints a
    traceback.
    """
    out, log, again = tmp_path / "run", tmp_path / "cut.txt", tmp_path / "again.txt"
    arguments = [
        *SMALL[:-1],
        "torchvision",
        "--workers",
        2 if phase == "train" else 0,
        "--out",
        out,
    ]
    assert (
        finish(arguments, log, stop=(phase, 5 if phase == "range" else 2, signal.SIGINT)) == 130
    ), log.read_text()
    words = log.read_text()
    assert (
        "Traceback" not in words and "main.py: stopped by Ctrl-C; the same command resumes" in words
    )
    epoch = dict(range=0, train=1, test=2)[phase]
    assert (
        f"interrupted in epoch {epoch}, which is lost; the epochs before are kept" in words
    ) == (epoch > 0)
    assert finish(arguments, again) == 0
    begins = dict(
        range=[], train=["resumed after the LR range test"], test=["resumed after epoch 1 of 3"]
    )
    assert [line.split(" from ")[0] for line in lines(again.read_text(), "resumed")] == begins[
        phase
    ]
    assert len(results(out)["history"]) == 3  # that it is the same to the last bit: test_kill.py


def test_a_second_process_on_the_same_folder_is_refused_and_the_first_is_unharmed(tmp_path):
    out, log, second = tmp_path / "run", tmp_path / "first.txt", tmp_path / "second.txt"
    first = start(
        [*SMALL, "--out", out], log, stop=("train", 5, signal.SIGSTOP)
    )  # it stands still in its epoch 2
    end = time.monotonic() + 300
    while not (log.exists() and "epoch 1/3" in log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert finish([*SMALL, "--out", out], second) == 2
    assert (
        f"{out} is in use by another process: wait for it, or choose another" in second.read_text()
    )
    os.kill(first.pid, signal.SIGCONT)
    first.join(300)
    assert first.exitcode == 0 and len(results(out)["history"]) == 3


def test_a_full_disk_does_not_stop_the_training_and_the_same_command_finishes(tmp_path):
    """No file may outgrow 20 kB: the range test's checkpoint is smaller, those with weights are
    larger.
    """
    out, log, again = tmp_path / "run", tmp_path / "log.txt", tmp_path / "again.txt"
    assert finish([*SMALL, "--out", out], log, room=20_000) == 1
    words = log.read_text()
    assert (
        words.count("checkpoint.pt could not be written") == 4
    )  # at the beginning, and after each of three epochs
    assert (
        words.count("train loss") == 3
        and "main.py: [Errno 27] File too large" in words
        and "Traceback" not in words
    )
    assert {path.name for path in out.iterdir()} == {".lock", "checkpoint.pt", "results.json"}
    assert finish([*SMALL, "--out", out], again) == 0  # there is room again
    assert (
        "resumed after the LR range test" in again.read_text() and len(results(out)["history"]) == 3
    )


# --- wrong arguments


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--epochs", "0"], "epochs is 0: give a whole number, 1 or more"),
        (["--epochs", "2.5"], "argument --epochs: invalid int value: '2.5'"),
        (["--limit", "9"], "limit is 9: give a whole number, 10 or more"),
        (["--seed", "-1"], "seed is -1: give a whole number, 0 or more"),
        (["--workers", "-1"], "workers is -1: give a whole number, 0 or more"),
        (["--loader", "fast"], "invalid choice: 'fast' (choose from"),
        (["--precision", "float16"], "precision is 'float16' on a CPU"),
        (
            ["--data", "cifar99"],
            "data is 'cifar99': give auto, cifar10, sample, or a folder that exists",
        ),
        *(
            (["--evaluate", name], f"weights are {name!r}: give a file that exists")
            for name in ("w.pt", "")
        ),
        (["--out", "file"], "the folder file cannot be written"),
    ],
)
def test_wrong_arguments_exit_2_before_any_work_with_the_valid_values(
    arguments, text, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run", lambda args: pytest.fail("it began to work"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        command.main(["--out", "run", *arguments])
    words = capsys.readouterr()
    assert end.value.code == 2 and words.out == "" and text in words.err
    assert os.listdir() == ["file"]


@pytest.mark.parametrize(
    ("option", "value"), [("seed", "x"), ("loader", "fast"), ("data", "nowhere"), ("limit", "9")]
)
def test_a_refusal_is_fast_since_no_large_package_is_imported(tmp_path, option, value):
    code = (
        "import sys, runpy\ntry: runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
        "finally: print(*{'torch', 'torchvision', 'albumentations', 'scipy', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    arguments = [sys.executable, "-c", code, command.__file__, f"--{option}", value]
    path = dict(PYTHONPATH=str(Path(command.__file__).parent))
    done = subprocess.run(arguments, cwd=tmp_path, env=path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "\n") and "Traceback" not in done.stderr
    assert "main.py: error: " in done.stderr.splitlines()[-1] and not list(tmp_path.iterdir())


def test_what_only_the_data_can_tell_is_one_sentence_too(tmp_path):
    log = tmp_path / "log.txt"
    assert finish([*TINY, "--epochs", 2, "--out", tmp_path / "run"], log) == 1
    assert (
        "main.py: 2 epochs of 1 batches make 2 steps, and one cycle needs 3: take more epochs"
        in log.read_text()
    )
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")]
)
def test_out_of_memory_is_one_sentence_and_a_bug_keeps_its_traceback(tmp_path, monkeypatch, error):
    monkeypatch.setattr(command, "run", Mock(side_effect=[error, RuntimeError("a bug")]))
    with pytest.raises(SystemExit, match="^main.py: out of memory: try a smaller --batch-size$"):
        command.main(["--out", str(tmp_path)])
    with pytest.raises(RuntimeError, match="a bug"):
        command.main(["--out", str(tmp_path)])


def test_the_names_of_loaders_and_sources_are_those_of_dataset():
    for loader in dataset.LOADERS:
        assert command.parse(["--loader", loader, "--evaluate", __file__]).loader == loader
    for source in dataset.SOURCES:
        assert command.parse(["--data", source, "--evaluate", __file__]).data == source

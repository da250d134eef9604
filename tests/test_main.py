"""`python main.py` does the whole run, refuses what is wrong before any work, and can be stopped.

Real processes with the tiny network of small_run.py; what needs none runs in this one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import TinyNet, end_orphans, finish, same, start, tiny_sample, weights

import dataset
import extras.sample
import main as command
import models
import train
from extras import hardware, lr_finder, settings

SMALL = ["--limit", 40, "--batch-size", 16, "--epochs", 3, "--loader", "device"]
TINY = ["--limit", 10, "--batch-size", 64, "--epochs", 3, "--loader", "device"]  # no batch is full


@pytest.fixture(autouse=True)
def no_orphans():
    yield
    end_orphans()


def results(out):
    return json.loads((Path(out) / "results.json").read_text(encoding="utf-8"))


def lines(log, beginning):
    return [line for line in log.splitlines() if line.startswith(beginning)]


def wait_for(log, words):
    end = time.monotonic() + 300
    while not (log.exists() and words in log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)


# --- a whole run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in a folder with a space, where one figure cannot be written: (folder, its log)."""
    out = tmp_path_factory.mktemp("my runs") / "a b"
    log = out / "log.txt"
    (out / "loss_curves.png").mkdir(parents=True)
    assert finish([*TINY, "--out", out], log, figures=True, timeout=600) == 0, log.read_text()
    return out, log.read_text()


def test_results_and_weights_are_those_of_the_run(whole):
    numbers = results(whole[0])
    expected = {
        "data": "sample data, not CIFAR-10",
        "images": 10,
        "test_images": 2,
        "epochs": 3,
        "batch_size": 64,
        "seed": 0,
        "loader": "device",
        "world_size": 1,
        "network": "s10_model",
        "recipe": train.RECIPE,
        "lr_given": False,
    }
    assert {key: numbers[key] for key in expected} == expected
    rates = [row["lr"] for row in numbers["history"]]
    assert rates[-1] == pytest.approx(numbers["lr_min"], rel=1e-9)
    assert numbers["lr_min"] < max(rates) <= numbers["lr_max"]
    model = TinyNet()
    model.load_state_dict(weights(whole[0]))
    assert models.count_parameters(model) == numbers["parameters"]
    assert all(value.isfinite().all() for value in weights(whole[0]).values())


def test_one_line_an_epoch_and_every_figure_that_can_be_written(whole):
    out, log = whole
    epochs = [line.split("/")[0] for line in lines(log, "epoch")]
    assert epochs == ["epoch 1", "epoch 2", "epoch 3"]
    assert not any(word in log for word in ("resumed", "Warning", "Traceback"))
    assert str(out / "loss_curves.png") in log  # could not be written
    for name in ("sample_images", "lr_finder", "confusion_matrix", "misclassified_images"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_says_so_and_another_one_in_its_folder_is_refused(whole, tmp_path):
    out, log, other = whole[0], tmp_path / "log.txt", tmp_path / "other.txt"
    before, numbers, kept = weights(out), results(out), (out / "checkpoint.pt").read_bytes()
    assert finish([*TINY, "--out", out], log) == 0
    words = log.read_text()
    assert "finished, 3 of 3 epochs" in lines(words, "resumed")[0]
    assert [line.split()[1] for line in lines(words, "epoch")] == ["1/3", "2/3", "3/3"]
    assert same(weights(out), before)
    assert results(out) == numbers

    assert finish([*TINY, "--seed", 1, "--lr-min", 1e-5, "--out", out], other) == 1
    words = other.read_text()
    assert "seed is 0 there and 1 here" in words
    assert "lr_min is None there and 1e-05 here" in words
    assert "--no-resume" in words and "resume=False" not in words
    assert "Traceback" not in words
    assert (out / "checkpoint.pt").read_bytes() == kept

    assert finish([*TINY, "--seed", 1, "--no-resume", "--out", out], other) == 0
    assert results(out)["seed"] == 1
    assert (out / "checkpoint.replaced.pt").read_bytes() == kept


# --- in this process: what the training is called with


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """Run main.py up to the training; returns what `train.fit` was called with."""

    def run(*arguments):
        fit = Mock(side_effect=KeyboardInterrupt)
        monkeypatch.setattr(models, "s10_model", TinyNet)
        monkeypatch.setattr(extras.sample, "draw_sample", tiny_sample)
        monkeypatch.setattr(hardware, "pick_device", lambda device: torch.device("cpu"))
        monkeypatch.setattr(train, "fit", fit)
        where = ["--data", "sample", "--out", str(tmp_path / "run")]
        with pytest.raises(SystemExit) as end:
            command.main([*where, *map(str, SMALL), *arguments])
        assert end.value.code == 130
        model, _, loader, optimizer, _, scheduler = fit.call_args.args
        group = optimizer.param_groups[0]
        return {
            "model": model,
            "loader": loader,
            "total": scheduler.total_steps,
            "lr_min": group["lr"],
            "lr_max": group["max_lr"],
            **fit.call_args.kwargs,
        }

    return run


def test_weights_order_and_dropout_are_of_the_seed(begun):
    rates = ["--lr-max", "0.01", "--lr-min", "0.001"]
    for seed in (5, settings.LARGEST_SEED):
        run = begun("--seed", str(seed), "--no-resume", *rates)
        torch.manual_seed(seed)
        assert same(run["model"].state_dict(), TinyNet().state_dict())
        assert run["seed"] == run["loader"].seed == run["checkpoint"].config["seed"] == seed
        assert len(list(run["loader"])) == 3  # the largest one can be counted with
        train.seed_epoch(run["loader"], seed, 10_000)
        assert len(list(run["loader"])) == 3


def test_given_rates_take_the_place_of_the_range_test_and_stay_with_the_run(begun, monkeypatch):
    found = begun()
    with_max = begun("--no-resume", "--lr-max", "0.5")
    assert (with_max["lr_min"], with_max["lr_max"]) == (pytest.approx(found["lr_min"]), 0.5)
    with_min = begun("--no-resume", "--lr-min", "1e-5")
    assert (with_min["lr_min"], with_min["lr_max"]) == (1e-5, pytest.approx(found["lr_max"]))

    monkeypatch.setattr(lr_finder, "find_lr", Mock(side_effect=AssertionError("not needed")))
    both = begun("--no-resume", "--lr-max", "0.02", "--lr-min", "0.001")
    assert (both["lr_min"], both["lr_max"]) == (pytest.approx(0.001), 0.02)
    config = both["checkpoint"].config
    assert (config["lr_max"], config["lr_min"]) == (0.02, 0.001)
    assert both["total"] == 3 * 3


def test_results_say_that_lrmax_was_given(tmp_path):
    out, log = tmp_path / "run", tmp_path / "log.txt"
    rates = ["--lr-max", 0.02, "--lr-min", 0.001]
    assert finish([*TINY, *rates, "--out", out], log, figures=True) == 0, log.read_text()
    numbers = results(out)
    assert (numbers["lr_max"], numbers["lr_min"], numbers["lr_given"]) == (0.02, 0.001, True)
    assert max(row["lr"] for row in numbers["history"]) == pytest.approx(0.02)
    assert (out / "loss_curves.png").exists()
    assert not (out / "lr_finder.png").exists()  # there is no curve
    assert "could not be drawn" not in log.read_text()


# --- cuts


@pytest.mark.parametrize(
    ("point", "number", "epoch", "resumed"),
    [
        ("range", 5, None, []),
        ("flush", 1, None, ["resumed after the LR range test"]),  # its result is being written
        ("flush", 2, None, ["resumed after the LR range test"]),  # the training begins
        ("train", 2, 1, ["resumed after the LR range test"]),
        ("test", 2, 2, ["resumed after epoch 1 of 3"]),
    ],
)
def test_ctrl_c_exits_130_with_a_sentence_and_the_same_command_resumes(
    tmp_path, point, number, epoch, resumed
):
    """From a terminal the signal goes to the whole group; the workers print no traceback either."""
    out, log, again = tmp_path / "run", tmp_path / "cut.txt", tmp_path / "again.txt"
    arguments = [*SMALL[:-1], "torchvision", "--out", out]
    arguments += ["--workers", 2 if point == "train" else 0]
    code = finish(arguments, log, stop=(point, number, signal.SIGINT))
    words = log.read_text()
    assert code == 130, words
    assert "Traceback" not in words
    assert "the same command resumes" in words
    assert (f"interrupted in epoch {epoch}, which is lost" in words) == (epoch is not None)
    assert finish(arguments, again) == 0
    said = [line.split(" from ")[0] for line in lines(again.read_text(), "resumed")]
    assert said == resumed
    assert len(results(out)["history"]) == 3  # that it is the same to the last bit: test_kill.py


def test_a_second_process_is_refused_while_the_first_trains_and_welcome_when_it_has(tmp_path):
    """A finished notebook that is still open is in nobody's way."""
    out, log = tmp_path / "run", tmp_path / "first.txt"
    second, third = tmp_path / "second.txt", tmp_path / "third.txt"
    first = start([*SMALL, "--out", out], log, stop=("train", 5, signal.SIGSTOP))
    wait_for(log, "epoch 1/3")
    assert finish([*SMALL, "--out", out], second, wait=0) == 1
    assert f"{out} is in use by another process" in second.read_text()
    assert "--no-resume" not in second.read_text()
    first.kill()
    first.join()

    first = start([*SMALL, "--out", out], log, stop=("draw", 1, signal.SIGSTOP))
    wait_for(log, "weights and results are in")
    assert finish([*SMALL, "--out", out], third, wait=0) == 0, third.read_text()
    assert "finished, 3 of 3 epochs" in third.read_text()
    os.kill(first.pid, signal.SIGCONT)
    first.join(300)
    assert first.exitcode == 0


def test_of_two_started_at_the_same_moment_one_trains_and_one_is_refused(tmp_path):
    out, log, second = tmp_path / "run", tmp_path / "first.txt", tmp_path / "second.txt"
    first = start([*SMALL, "--out", out], log, stop=("range", 5, signal.SIGSTOP))
    wait_for(log, "batches are made")
    time.sleep(0.5)
    assert finish([*SMALL, "--out", out], second) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    os.kill(first.pid, signal.SIGCONT)
    first.join(300)
    assert first.exitcode == 1
    assert "another process" in lines(log.read_text(), "main.py")[0]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_full_disk_does_not_stop_the_training_and_the_same_command_finishes(tmp_path):
    """The range test's checkpoint is smaller than 20 kB, those with weights are larger."""
    out, log, again = tmp_path / "run", tmp_path / "log.txt", tmp_path / "again.txt"
    assert finish([*SMALL, "--out", out], log, room=20_000) == 1
    words = log.read_text()
    assert words.count("train loss") == 3  # it trained to the end
    assert "File too large" in words
    assert "Traceback" not in words
    failed = lines(words, "main.py")[0]
    assert "checkpoint.pt" in failed and "s10_model.pt" in failed and "results.json" not in failed
    assert {path.name for path in out.iterdir()} == {".lock", "checkpoint.pt", "results.json"}
    assert finish([*SMALL, "--out", out], again) == 0  # there is room again
    assert "resumed after the LR range test" in again.read_text()
    assert len(results(out)["history"]) == 3
    assert (out / "s10_model.pt").exists()


# --- what the terminal cannot show, and what a log must


def image_folder(folder, levels=(60, 120), n=3, names=dataset.CLASSES):
    """Noise around a grey level, another one in each split, in folders of classes."""
    rng = np.random.default_rng(0)
    for split, level in zip(("train", "test"), levels, strict=True):
        for name in names:
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(level - 50, level + 50, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


def test_a_name_that_the_terminal_lacks_ends_nothing_and_a_log_has_every_line_at_once(tmp_path):
    """Windows' cp1252 has no 写真; a log under nohup or SLURM was empty until the end."""
    photos = image_folder(tmp_path / "写真", names=["cat", "dog"])
    log = tmp_path / "log.txt"
    arguments = ["--data", photos, "--batch-size", 2, "--epochs", 2, "--loader", "device"]
    arguments += ["--lr-max", 0.001, "--lr-min", 0.0001, "--out", tmp_path / "run"]
    code = finish(arguments, log, stop=("train", 5), encoding="cp1252")
    words = log.read_text(encoding="cp1252")
    assert code == -signal.SIGKILL, words  # a killed process writes nothing at its end
    assert "data: ??" in words
    assert "epoch 1/2" in words


# --- weights that are only evaluated


# --- wrong arguments and other errors


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--epochs", "0"], "epochs is 0"),
        (["--epochs", "2.5"], "'2.5'"),
        (["--limit", "9"], "limit is 9"),
        (["--limit", "10", "--evaluate", __file__], "--limit"),  # would be ignored
        (["--seed", "-1"], "seed is -1"),
        (["--seed", "20260115093000"], "seed is 20260115093000"),  # an overflow in PyTorch
        (["--workers", "-1"], "workers is -1"),
        (["--loader", "fast"], "'fast'"),
        (["--precision", "float16"], "'float16'"),
        (["--device", "cuda"], "'cuda'"),
        (["--device", "tpu"], "'tpu'"),
        (["--lr-max", "0"], "LRMAX is 0"),
        (["--lr-min", "nan"], "LRMIN is nan"),
        (["--lr-max", "0.01", "--lr-min", "0.02"], "0.02"),
        (["--data", "cifar99"], "'cifar99'"),
        (["--data", ""], "data is ''"),
        (["--evaluate", "w.pt"], "'w.pt'"),
        (["--evaluate", ""], "weights are ''"),
        (["--out", "file"], "file"),
        (["--out", "file/run"], "file"),
    ],
)
def test_wrong_arguments_exit_2_before_any_work(arguments, value, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run", lambda args: pytest.fail("it began to work"))
    monkeypatch.setattr(command, "evaluate", lambda args: pytest.fail("it began to work"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        command.main(["--out", "run", *arguments])
    words = capsys.readouterr()
    assert end.value.code == 2
    assert words.out == ""
    assert value in words.err.splitlines()[-1]
    assert os.listdir() == ["file"]


def test_a_folder_of_somebody_else_is_refused_before_cifar_10_is_downloaded(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(SystemExit) as end:
        command.main(["--out", str(tmp_path / "new" / "run")])
    assert end.value.code == 2
    assert f"{tmp_path} " in capsys.readouterr().err


def test_a_busy_gpu_can_be_avoided(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80"])
    assert command.parse([]).device.type == "cuda"
    assert command.parse([]).settings == settings.FULL
    assert command.parse(["--device", "cpu"]).device.type == "cpu"
    assert command.parse(["--device", "cpu"]).settings == settings.QUICK


@pytest.mark.parametrize("arguments", [["--help"], ["--loader", "fast"], ["--limit", "9"]])
def test_help_and_a_refusal_are_fast_since_no_large_package_is_imported(tmp_path, arguments):
    code = (
        "import sys, runpy\n"
        "large = {'torch', 'torchvision', 'albumentations', 'scipy', 'numpy', 'matplotlib'}\n"
        "try: runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
        "finally: print('large:', *large & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command.__file__, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(command.__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (0 if arguments == ["--help"] else 2)
    assert done.stdout.splitlines()[-1] == "large:"
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_only_the_data_can_tell_is_one_sentence_too(tmp_path):
    log = tmp_path / "log.txt"
    assert finish([*TINY, "--epochs", 2, "--out", tmp_path / "run"], log) == 1
    assert "2 steps" in lines(log.read_text(), "main.py")[0]
    assert "learning rates" not in log.read_text()  # said before the range test
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")]
)
def test_out_of_memory_is_one_sentence(tmp_path, monkeypatch, error):
    monkeypatch.setattr(command, "run", Mock(side_effect=error))
    with pytest.raises(SystemExit, match="--batch-size"):
        command.main(["--out", str(tmp_path)])


def test_processes_that_lose_each_other_say_so_in_a_line(tmp_path, monkeypatch):
    error = torch.distributed.DistBackendError("NCCL error: unhandled\nand a page of frames")
    monkeypatch.setattr(command, "run", Mock(side_effect=error))
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="rank 1: NCCL error: unhandled$"):
        command.main(["--out", str(tmp_path)])


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError, TypeError, KeyError])
def test_a_bug_keeps_its_traceback_also_one_on_the_gpu(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(command, "run", Mock(side_effect=kind("CUDA error: an illegal access")))
    with pytest.raises(kind, match="illegal access"):
        command.main(["--out", str(tmp_path)])


def edited(arguments):
    return 1 / 0


def test_a_line_that_fails_is_shown_and_a_sentence_of_ours_stands_alone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command, "run", edited)
    with pytest.raises(SystemExit, match="division by zero"):
        command.main(["--out", str(tmp_path)])
    assert "return 1 / 0" in capsys.readouterr().err
    monkeypatch.setattr(command, "run", lambda args: dataset.load("no such folder"))
    with pytest.raises(SystemExit, match="no such folder"):
        command.main(["--out", str(tmp_path)])
    assert "Traceback" not in capsys.readouterr().err


def test_the_names_of_loaders_and_sources_are_those_of_dataset():
    for loader in dataset.LOADERS:
        assert command.parse(["--loader", loader, "--evaluate", __file__]).loader == loader
    for source in dataset.SOURCES:
        assert command.parse(["--data", source, "--evaluate", __file__]).data == source

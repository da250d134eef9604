"""Is a run that was killed again and again the same to the last bit as the one that was not?

Real processes, ended by SIGKILL: themselves at chosen points (see small_run.py), or from outside at random moments.
"""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import small_run
from small_run import end_orphans, finish, same, start, weights

SMALL = ["--limit", 40, "--batch-size", 16, "--epochs", 3, "--seed", 3]
KILLED = -signal.SIGKILL


@pytest.fixture(autouse=True)
def no_orphans():
    yield
    end_orphans()


def arguments(out, loader, workers):
    return [*SMALL, "--loader", loader, "--workers", workers, "--out", out]


def history(out):
    rows = json.loads((out / "results.json").read_text())["history"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def uninterrupted(folder, loader, workers):
    out = folder / "uninterrupted"
    assert finish(arguments(out, loader, workers), folder / "uninterrupted.txt") == 0
    return out


def kill_during_imports(out, loader, workers, seconds=0.7):
    """The whole program, started as a person starts it."""
    command = [sys.executable, small_run.__file__, *map(str, arguments(out, loader, workers))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.kill()
    assert process.wait() == KILLED and not (out / "checkpoint.pt").exists()


def kill_at_random(out, loader, workers, log, rng, most):
    """Killed from outside after a random time; True when the run was faster."""
    process = start(arguments(out, loader, workers), log)
    process.join(rng.uniform(0, most))
    process.kill()
    process.join()
    assert process.exitcode in (0, KILLED)
    return process.exitcode == 0


def goes_on(out, loader, workers, log):
    """Run to the end; a worker of the killed process may hold the folder for some seconds more."""
    for _ in range(10):
        if finish(arguments(out, loader, workers), log) == 0:
            return
        assert "in use by another process" in log.read_text().splitlines()[-1]
        time.sleep(1)
    pytest.fail(log.read_text())


def check_same(out, reference):
    assert same(weights(out), weights(reference))
    assert history(out) == history(reference)
    assert not list(out.glob("*damaged*"))


def test_three_kills_do_not_change_a_bit(tmp_path):
    """In the second epoch, in the evaluation after it, and with half of a checkpoint written."""
    reference, out = uninterrupted(tmp_path, "torchvision", 0), tmp_path / "run"
    for stop in (("train", 5), ("test", 1), ("write", 1)):
        assert finish(arguments(out, "torchvision", 0), tmp_path / "log.txt", stop=stop) == KILLED
    goes_on(out, "torchvision", 0, tmp_path / "log.txt")
    check_same(out, reference)
    words = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" from ")[0] for line in words if line.startswith("resumed")] == [
        "resumed after epoch 1 of 3"
    ] * 3


# In this order every one is reached: what is finished once is not done again. A run saves five times (range test,
# beginning, three epochs), and renames twice where there is an older file.
POINTS = [("range", 1), ("range", 15), ("write", 1), ("flush", 1), ("rename", 1), ("renamed", 1), ("rename", 2)]
POINTS += [("train", 1), ("train", 3), ("test", 1), ("write", 1), ("flush", 1), ("rename", 1), ("renamed", 1)]
POINTS += [
    ("train", 2),
    ("test", 1),
    ("renamed", 2),
    ("train", 1),
    ("write", 1),
    ("write", 2),
    ("write", 2),
    ("draw", 1),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("loader", "workers"),
    [("device", 0), ("torchvision", 0), ("albumentations", 0), ("torchvision", 2), ("albumentations", 2)],
)
def test_kills_at_every_point_and_at_random_moments_do_not_change_a_bit(tmp_path, loader, workers):
    reference, out, log = uninterrupted(tmp_path, loader, workers), tmp_path / "run", tmp_path / "log.txt"
    rng, kills = random.Random(f"{loader} {workers}"), 0
    kill_during_imports(out, loader, workers)
    for point in POINTS:
        code = finish(arguments(out, loader, workers), log, stop=point)
        while code == 2:  # a worker of the killed process still holds the folder
            assert "in use by another process" in log.read_text().splitlines()[-1]
            time.sleep(1)
            code = finish(arguments(out, loader, workers), log, stop=point)
        assert code == KILLED, point
        kills += 1
    goes_on(out, loader, workers, log)
    check_same(out, reference)
    second = tmp_path / "random"
    for _ in range(10):
        kills += not kill_at_random(second, loader, workers, log, rng, most=2.0 if workers else 1.0)
    goes_on(second, loader, workers, log)
    check_same(second, reference)
    print(f"\n{loader}, {workers} workers: {kills + 1} kills survived")
    assert kills >= 20

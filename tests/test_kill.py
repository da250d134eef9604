"""A run that was killed again and again is the same to the last bit as the one that was not.

Real processes, ended by SIGKILL: themselves at chosen points (see small_run.py), or from outside at
random moments.
"""

import json
import random
import signal
import time

import pytest
from small_run import end_orphans, finish, same, start, weights

from extras.checkpoint import LOCK_SECONDS

SMALL = ["--limit", 40, "--batch-size", 16, "--epochs", 3, "--seed", 3]
KILLED = -signal.SIGKILL


@pytest.fixture(autouse=True)
def no_orphans():
    yield
    end_orphans()


def arguments(out, loader, workers):
    return [*SMALL, "--loader", loader, "--workers", workers, "--out", out]


def history(out):
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))["history"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def uninterrupted(folder, loader, workers):
    """Returns its folder, and how many seconds it took."""
    out = folder / "uninterrupted"
    begin = time.monotonic()
    assert finish(arguments(out, loader, workers), folder / "uninterrupted.txt") == 0
    return out, time.monotonic() - begin


def kill_at_random(out, loader, workers, log, rng, most):
    """Killed from outside after a random time; it may have ended before."""
    process = start(arguments(out, loader, workers), log)
    process.join(rng.uniform(0, most))
    process.kill()
    process.join()
    assert process.exitcode in (0, KILLED)


def goes_on(out, loader, workers, log, **options):
    """Start again; a worker of the killed process may hold the folder longer than one waits."""
    for _ in range(3):
        code = finish(arguments(out, loader, workers), log, **options)
        if code != 1 or "in use by another process" not in log.read_text().splitlines()[-1]:
            return code
    return pytest.fail(f"locked for more than {3 * LOCK_SECONDS} s: {log.read_text()}")


def check_same(out, reference):
    assert same(weights(out), weights(reference))
    assert history(out) == history(reference)
    assert not list(out.glob("*damaged*"))


def test_kills_do_not_change_a_bit(tmp_path):
    """In the second epoch, in its evaluation, and at each step of writing its checkpoint."""
    reference, _ = uninterrupted(tmp_path, "torchvision", 0)
    out = tmp_path / "run"
    log = tmp_path / "log.txt"
    points = [
        ("train", 5),
        ("test", 1),
        ("write", 1),
        ("truncate", 1),
        ("rename", 1),
        ("renamed", 1),
        ("renamed", 1),
    ]
    for point in points:
        code = finish(arguments(out, "torchvision", 0), log, stop=point)
        assert code == KILLED, (point, log.read_text())
    assert finish(arguments(out, "torchvision", 0), log) == 0
    check_same(out, reference)
    lines = [line for line in log.read_text().splitlines() if line.startswith("resumed")]
    resumed = [line.split(" from ")[0] for line in lines]
    assert resumed == ["resumed after epoch 1 of 3"] * 6 + ["resumed after epoch 2 of 3"]


# In this order every one is reached: what is finished once is not done again. A run saves five
# times (range test, beginning, three epochs), and renames twice and truncates where there are older
# files.
POINTS = [
    ("range", 1),
    ("range", 15),
    ("write", 1),
    ("flush", 1),
    ("rename", 1),
    ("renamed", 1),
    ("rename", 2),
    ("train", 1),
    ("train", 3),
    ("test", 1),
    ("write", 1),
    ("flush", 1),
    ("truncate", 1),
    ("rename", 1),
    ("renamed", 1),
    ("rename", 2),
    ("train", 2),
    ("test", 1),
    ("renamed", 2),
    ("train", 1),
    ("write", 1),
    ("truncate", 1),
    ("write", 2),
    ("write", 2),
    ("draw", 1),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("loader", "workers"),
    [
        ("device", 0),
        ("torchvision", 0),
        ("albumentations", 0),
        ("torchvision", 2),
        ("albumentations", 2),
    ],
)
def test_kills_at_every_point_and_at_random_moments_do_not_change_a_bit(tmp_path, loader, workers):
    reference, seconds = uninterrupted(tmp_path, loader, workers)
    out = tmp_path / "run"
    log = tmp_path / "log.txt"
    for point in POINTS:
        assert goes_on(out, loader, workers, log, stop=point) == KILLED, (point, log.read_text())
    assert goes_on(out, loader, workers, log) == 0
    check_same(out, reference)

    rng = random.Random(f"{loader} {workers}")
    second = tmp_path / "random"
    for _ in range(20):
        kill_at_random(second, loader, workers, log, rng, seconds)
    assert goes_on(second, loader, workers, log) == 0
    check_same(second, reference)

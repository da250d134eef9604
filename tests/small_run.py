"""The real command line around a tiny network and a few pictures, so that tests can afford it in real processes.

    python tests/small_run.py --data sample --out DIR …       # the arguments of train.py
    process = start(["--out", "DIR", …], "DIR/log.txt")       # forked off a server that has paid for the imports
    process = start([…], log, stop=("train", 5))              # kills itself with SIGKILL in its fifth training step
    SMALL_RUN_STOP="1 train 5" torchrun … tests/small_run.py  # the second of several processes does

Points to stop at, each with the number of the call: "range", "train" and "test" (a pass through the network in the
range test, in training, in evaluation), "write" (half of a file is written), "flush" (before fsync), "rename" (before a
rename), "renamed" (after it), "draw" (before the figures).
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # before tests/ and before the standard library's `test`

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

import checkpoint  # noqa: E402
import dataset  # noqa: E402
import models  # noqa: E402
import run  # noqa: E402
import settings  # noqa: E402


class TinyNet(nn.Sequential):
    """What can go wrong in a resume is in it: BatchNorm's statistics, and dropout's random numbers."""

    def __init__(self, classes=10):
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8 * 64, classes),
            nn.LogSoftmax(dim=1),
        )
        TinyNet.built = id(self)  # a copy, as the range test makes one, is not built

    @property
    def phase(self):
        """Who is using the network: "range", "train" or "test"."""
        if id(self) != TinyNet.built:
            return "range"
        return "train" if self.training else "test"


def tiny_sample(train=True, n=100):
    """Noise whose brightness and side depend on the class: quick to draw, and it can be learnt."""
    rng, labels = np.random.default_rng(int(train)), np.arange(n) % 10
    pictures = rng.integers(0, 128, (n, 32, 32, 3))
    for picture, label in zip(pictures, labels, strict=True):
        picture[:, 3 * label : 3 * label + 5, label % 3] += 120
    return pictures.astype(np.uint8), labels


def stop_at(point, number, how=signal.SIGKILL):
    """Send this process the signal at the given call; the product has no code for it."""
    calls = itertools.count(1)

    def reached():
        if next(calls) == number:
            os.kill(0 if how == signal.SIGINT else os.getpid(), how)  # Ctrl-C reaches the workers too

    def before(function):
        return lambda *args, **options: (reached(), function(*args, **options))[1]

    if point in ("range", "train", "test"):
        forward = TinyNet.forward
        TinyNet.forward = lambda net, x: (net.phase == point and reached(), forward(net, x))[1]
    elif point == "flush":
        os.fsync = before(os.fsync)
    elif point == "rename":
        Path.replace = before(Path.replace)
    elif point == "draw":
        run.draw = before(run.draw)
    elif point == "renamed":
        rename = Path.replace
        Path.replace = lambda *args: (rename(*args), reached())[0]
    elif point == "write":
        checkpoint.open = lambda *args: HalfWritten(open(*args), reached)  # noqa: SIM115
    else:
        raise ValueError(f"point is {point!r}")


class HalfWritten:
    """A file whose first half is on the disk when `reached` is called."""

    def __init__(self, file, reached):
        self.file, self.reached = file, reached

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.reached()
        self.file.write(content[len(content) // 2 :])


def main(arguments):
    rank, *stop = os.environ.get("SMALL_RUN_STOP", "none").split()
    if rank == os.environ.get("RANK"):
        stop_at(stop[0], int(stop[1]))
    models.s10_model, dataset.draw_sample = TinyNet, tiny_sample
    settings.QUICK = dataclasses.replace(settings.QUICK, iterations=20)
    run.main(["--data", "sample", *arguments])


def child(arguments, log, stop, figures, room):
    """A process of its own group, as from a terminal, whose words go to a file; no file may outgrow `room` bytes."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # for the loader's workers: as in any other program
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)
    if room:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    if not figures:
        run.draw = lambda *_: None
    if stop:
        stop_at(*stop)
    main(arguments)


STARTED = []


def end_orphans():
    """End the workers that killed processes left behind: one that lost its parent at birth waits for ever."""
    while STARTED:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(STARTED.pop(), signal.SIGKILL)


def start(arguments, log, stop=None, figures=False, room=None):
    """Start the command line in a process of its own; `exitcode` is -9 after SIGKILL."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_run"])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent)])  # for the server, which starts now
    os.environ["OMP_NUM_THREADS"] = "1"
    process = context.Process(target=child, args=([str(a) for a in arguments], str(log), stop, figures, room))
    process.start()
    STARTED.append(process.pid)
    return process


def finish(*args, timeout=60, **options):
    """Start, wait, and give the exit code."""
    process = start(*args, **options)
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"still running after {timeout} s: {args}")
    return process.exitcode


def weights(out):
    return torch.load(Path(out) / "s10_model.pt", weights_only=True)


def same(first, second):
    """Two state dicts, to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


if __name__ == "__main__":
    main(sys.argv[1:])

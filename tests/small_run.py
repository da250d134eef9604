"""The real command line around a tiny network and a few images, so that tests can afford it.

    process = start(["--out", "DIR", …], "DIR/log.txt")
    process = start([…], log, stop=("train", 5))        # SIGKILL in its fifth training step
    SMALL_RUN_STOP="1 train 5" torchrun … tests/small_run.py        # the second of two processes

Every process is forked off a server that has paid for the imports, and writes a checkpoint after
each epoch (least_seconds=0).

Points to stop at, each with the number of the call: "range", "train", "test" (a pass through the
network), "write" (half of a file is written), "flush", "truncate", "rename", "draw" (before each of
these), "renamed" (after a rename).
"""

import contextlib
import dataclasses
import io
import itertools
import multiprocessing
import os
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # before tests/ and before the standard library's `test`
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch._dynamo  # noqa: E402, F401  an optimizer imports it: paid once, by the server
from torch import nn  # noqa: E402

import extras.files  # noqa: E402
import extras.sample  # noqa: E402
import main as command  # noqa: E402
import models  # noqa: E402
from extras import checkpoint, hardware, lr_finder, settings  # noqa: E402


class TinyNet(nn.Sequential):
    """What can go wrong in a resume is in it: BatchNorm's statistics, dropout's random numbers."""

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
        with torch.no_grad():
            self[6].weight.mul_(1 / 8)  # as in CustomResNet: the range test begins at guessing


def tiny_sample(train=True, n=100):
    """Noise whose brightness depends on the class: quick to draw, and it can be learnt."""
    rng = np.random.default_rng(int(train))
    labels = np.arange(n) % 10
    images = rng.integers(0, 100, (n, 32, 32, 3))
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * label : 3 * label + 5, label % 3] += 150
    return images.astype(np.uint8), labels


def stop_at(point, number, how=signal.SIGKILL):
    """Send this process the signal at the given call; the product has no code for it."""
    calls = itertools.count(1)

    def reached():
        if next(calls) == number:
            everybody = how == signal.SIGINT  # Ctrl-C reaches the workers too
            os.kill(0 if everybody else os.getpid(), how)

    class HalfWritten(io.FileIO):
        def write(self, content):
            super().write(content[: len(content) // 2])
            reached()
            super().write(content[len(content) // 2 :])

    before = {
        "flush": (os, "fsync"),
        "truncate": (os, "truncate"),
        "rename": (Path, "replace"),
        "draw": (command, "draw"),
    }
    if point in before:
        owner, name = before[point]
        function = getattr(owner, name)

        def stopping(*args):
            reached()
            return function(*args)

        setattr(owner, name, stopping)
    elif point == "renamed":
        rename = Path.replace

        def renamed(*args):
            result = rename(*args)
            reached()
            return result

        Path.replace = renamed
    elif point == "write":
        extras.files.open = HalfWritten
    else:
        stop_in_network(point, reached)


def stop_in_network(phase, reached):
    """Call `reached` in each pass of the network that belongs to "range", "train" or "test"."""
    forward = TinyNet.forward
    run_test = lr_finder.run_test
    is_range_test = False

    def marked_test(*args):
        nonlocal is_range_test
        is_range_test = True
        try:
            return run_test(*args)
        finally:
            is_range_test = False

    def stopping(network, x):
        now = "range" if is_range_test else "train" if network.training else "test"
        if now == phase:
            reached()
        return forward(network, x)

    lr_finder.run_test = marked_test
    TinyNet.forward = stopping


def main(arguments):
    """main.py around the tiny network, on the CPU whatever the machine has."""
    rank, *stop = os.environ.get("SMALL_RUN_STOP", "none").split()
    if rank == os.environ.get("RANK"):
        stop_at(stop[0], int(stop[1]))
    models.s10_model = TinyNet
    extras.sample.draw_sample = tiny_sample
    settings.QUICK = dataclasses.replace(settings.QUICK, iterations=40)
    hardware.pick_device = lambda device: torch.device("cpu")
    checkpoint.Checkpoint.__init__.__kwdefaults__["least_seconds"] = 0
    command.main(["--data", "sample", *arguments])


def child(arguments, log, stop, figures, room, wait, encoding):
    """A process of its own group, as from a terminal, whose output goes to a file.

    No file may outgrow `room` bytes; it waits `wait` seconds for a lock; `encoding` is the log's.
    """
    os.setsid()
    # a shell that starts a process in the background lets it ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # for the loader's workers: as in any other program
    multiprocessing.set_start_method(None, force=True)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # as Python opens a log, whatever PYTHONUNBUFFERED says: what is printed waits in a buffer
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    if room:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    if wait is not None:
        checkpoint.LOCK_SECONDS = wait
    if not figures:
        command.draw = lambda *_: None
    if stop:
        stop_at(*stop)
    main(arguments)


STARTED = []


def end_orphans():
    """End the workers of killed processes: one that lost its parent at birth waits for ever."""
    while STARTED:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(STARTED.pop(), signal.SIGKILL)


def server():
    """A server that has paid for the imports, and forks new processes off itself."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent)])
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_run", "torch_lr_finder.lr_finder"])
    return context


def start(arguments, log, stop=None, figures=False, room=None, wait=None, encoding="utf-8"):
    """Start the command line in a process of its own; `exitcode` is -9 after SIGKILL."""
    arguments = [str(argument) for argument in arguments]
    options = (stop, figures, room, wait, encoding)
    process = server().Process(target=child, args=(arguments, str(log), *options))
    process.start()
    STARTED.append(process.pid)
    return process


def finish(*args, timeout=300, **options):
    """Start, wait, and give the exit code."""
    process = start(*args, **options)
    process.join(timeout)
    assert process.exitcode is not None, f"still running after {timeout} s: {args}"
    return process.exitcode


def weights(out):
    return torch.load(Path(out) / "s10_model.pt", weights_only=True)


def same(first, second):
    """Two state dicts, to the last bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


if __name__ == "__main__":
    main(sys.argv[1:])

"""The real command line around a tiny network and a few images, so that tests can afford it in real
processes.

    process = start(["--out", "DIR", …], "DIR/log.txt")       # forked off a server that has paid
    for the imports process = start([…], log, stop=("train", 5))              # kills itself with
    SIGKILL in its fifth training step SMALL_RUN_STOP="1 train 5" torchrun … tests/small_run.py  #
    the second of several processes does

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
from extras import checkpoint, lr_finder, settings  # noqa: E402, F401


class TinyNet(nn.Sequential):
    """What can go wrong in a resume is in it: BatchNorm's statistics, and dropout's random
    numbers.
    """

    def __init__(self, classes=10):
        super().__init__(
            *(
                nn.Conv2d(3, 8, 3, padding=1, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.MaxPool2d(4),
            ),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * 64, classes), nn.LogSoftmax(dim=1)),
        )
        TinyNet.built = id(self)  # a copy, as the range test makes one, is not built

    # who uses the network
    phase = property(
        lambda net: "range" if id(net) != TinyNet.built else "train" if net.training else "test"
    )


def tiny_sample(train=True, n=100):
    """Noise whose brightness depends on the class: quick to draw, and it can be learnt."""
    rng, labels = np.random.default_rng(int(train)), np.arange(n) % 10
    images = rng.integers(0, 100, (n, 32, 32, 3))
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * label : 3 * label + 5, label % 3] += 150
    return images.astype(np.uint8), labels


def stop_at(point, number, how=signal.SIGKILL):
    """Send this process the signal at the given call; the product has no code for it."""
    calls = itertools.count(1)

    def reached():
        if next(calls) == number:
            os.kill(
                0 if how == signal.SIGINT else os.getpid(), how
            )  # Ctrl-C reaches the workers too

    class HalfWritten(io.FileIO):
        def write(self, content):
            super().write(content[: len(content) // 2])
            reached()
            super().write(content[len(content) // 2 :])

    places = dict(
        flush=(os, "fsync"),
        truncate=(os, "truncate"),
        rename=(Path, "replace"),
        draw=(command, "draw"),
    )
    if point in places:
        function = getattr(*places[point])
        setattr(*places[point], lambda *args: (reached(), function(*args))[1])
    elif point == "renamed":
        rename = Path.replace
        Path.replace = lambda *args: (rename(*args), reached())[0]
    elif point == "write":
        extras.files.open = HalfWritten
    else:
        forward = TinyNet.forward
        TinyNet.forward = lambda net, x: (net.phase == point and reached(), forward(net, x))[1]


def main(arguments):
    rank, *stop = os.environ.get("SMALL_RUN_STOP", "none").split()
    if rank == os.environ.get("RANK"):
        stop_at(stop[0], int(stop[1]))
    models.s10_model, extras.sample.draw_sample = TinyNet, tiny_sample
    settings.QUICK = dataclasses.replace(settings.QUICK, iterations=40)
    settings.pick_device = lambda: torch.device("cpu")
    command.main(["--data", "sample", *arguments])


def child(arguments, log, stop, figures, room):
    """A process of its own group, as from a terminal, whose output goes to a file; no file may
    outgrow `room` bytes.
    """
    os.setsid()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell that starts in the background ignores it
    multiprocessing.set_start_method(
        None, force=True
    )  # for the loader's workers: as in any other program
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)
    torch.set_num_threads(1)
    if room:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    if not figures:
        command.draw = lambda *_: None
    if stop:
        stop_at(*stop)
    main(arguments)


STARTED = []


def end_orphans():
    """End the workers that killed processes left behind: one that lost its parent at birth waits
    for ever.
    """
    while STARTED:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(STARTED.pop(), signal.SIGKILL)


def server():
    """A server that has paid for the imports, and forks new processes off itself."""
    os.environ |= dict(
        PYTHONPATH=os.pathsep.join([str(HERE), str(HERE.parent)]), OMP_NUM_THREADS="1"
    )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_run", "torch_lr_finder.lr_finder"])
    return context


def start(arguments, log, stop=None, figures=False, room=None):
    """Start the command line in a process of its own; `exitcode` is -9 after SIGKILL."""
    process = server().Process(
        target=child, args=([str(a) for a in arguments], str(log), stop, figures, room)
    )
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

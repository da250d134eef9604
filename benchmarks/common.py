"""What the benchmarks share: timing in alternation, sizes that suit the machine, goals, and results
as JSON.

A benchmark is a module with `measure(size)`, which returns rows and goals. Start all of them, or
one:

    python -m benchmarks                     # all, then the tables of README.md; the same as `make
    bench` python -m benchmarks.pipeline            # one; it writes
    benchmarks/results/pipeline-cpu.json python -m benchmarks.pipeline --tiny     # does it still
    run? The numbers mean nothing
"""

import argparse
import itertools
import re
import statistics
import sys
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import dataset
import main
import train
from extras import report
from extras import settings as st

ORDER = ("pipeline", "step", "overhead", "course", "start", "scaling")
HERE = Path(__file__).parent
TINY = Path("runs/bench-tiny")  # numbers that mean nothing never come near the results


def parse(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--tiny", action="store_true", help=f"as little as runs; the numbers go to {TINY}"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: benchmarks/results)"
    )
    args = parser.parse_args()
    args.out = args.out or (TINY if args.tiny else HERE / "results")
    return args


def command(name, measure):
    """The command line of one benchmark: measure, print, and write a result with the keys of the
    contract.
    """
    args = parse(f"The benchmark {name}; see benchmarks/README.md.")
    st.set_deterministic(False)  # as in a run: cuDNN picks its fastest algorithms
    size = Size(st.pick_device(), args.tiny)
    rows, goals = measure(size)
    for row in rows:
        print(f"  {row['name']:<58} {row['value']:>12,.4g} {row['unit']}")
    for goal in goals:
        verdict = "met" if goal["met"] else "MISSED"
        print(
            f"  goal: {goal['name']}: {goal['sense']} {goal['goal']:g}; it is {goal['value']:.3g}: {verdict}"
        )
    if not rows:
        return
    device, place, versions = st.device_name(size.device), "cpu", report.versions()
    if size.device.type != "cpu":
        device, place = f"{device}, {st.cpu_name()}", re.sub(r"[^a-z0-9]+", "-", device.lower())
    if "kornia" in sys.modules:
        versions["kornia"] = sys.modules["kornia"].__version__
    result = dict(benchmark=name, device=device, versions=versions, rows=rows, goals=goals)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{name}-{place}.json"
    path.write_bytes(report.to_json(result))
    print(f"  {path}", flush=True)


class Size:
    """How much is measured: by the machine's speed, so that all of it takes under 15 minutes at 60
    images/s.
    """

    def __init__(self, device="cpu", tiny=False):
        self.device, self.tiny = torch.device(device), tiny
        self.precision = st.choose_precision("auto", device)[0]  # of a run on this machine
        self.precisions = list(dict.fromkeys(["float32", self.precision]))

    @cached_property
    def speed(self):
        """Images/s in training, from one step of 64 images after a warm-up step."""
        step = bare_step(build(self, 64, batch=64), self)
        return 64 / alternate({"step": step}, 1, self.device)["step"][0]

    @property
    def batch(self):
        return (
            4 if self.tiny else 512 if self.speed > 1000 else 64
        )  # of 512, a slow CPU would take too few steps

    def images(self, seconds, most, batch):
        """As many images as are trained in so many seconds, in whole batches."""
        return (
            2 * batch
            if self.tiny
            else batch * max(1, min(round(seconds * self.speed), most) // batch)
        )

    def repeats(self, n):
        return 1 if self.tiny else n


def noise_data(n, n_test=10):
    """Random images of CIFAR-10's size. No step looks at what is in an image, so that real ones
    take as long.
    """
    draw, classes = np.random.default_rng(0), dataset.CLASSES
    images = (draw.integers(0, 256, (k, 32, 32, 3), np.uint8) for k in (n, n_test))
    return dataset.Data(
        "noise", *(dataset.ArrayDataset(x, np.arange(len(x)) % 10, classes) for x in images)
    )


def build(size, n, n_test=10, *, batch=None, loader="device", precision=None):
    """What a run trains with, from `main.build`, on n random images."""
    return main.build(
        noise_data(n, n_test),
        epochs=1000,
        batch_size=batch or size.batch,
        device=size.device,
        loader=loader,
        dtype=getattr(torch, precision or size.precision),
        log=lambda *_: None,
    )


def bare_step(parts, size, precision=None):
    """A function that takes one training step (forward, backward, Adam), without train.py.

    Its batch, the loader's first one, lies ready on the device.
    """
    dtype, kind = getattr(torch, precision or size.precision), size.device.type
    ready = next(iter(parts.train_loader))
    scaler = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)
    parts.model.train()

    def step(images=ready[0], labels=ready[1]):
        with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            loss = parts.criterion(parts.model(images), labels)
        parts.optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(parts.optimizer)
        scaler.update()

    return step


def epoch(parts, size, precision=None):
    """A function that trains for one epoch with `train.train`, the next one at each call."""
    dtype = getattr(torch, precision or size.precision)
    scaler = torch.amp.GradScaler(size.device.type, enabled=dtype == torch.float16)
    scheduler, epochs = parts.schedule(1e-3), itertools.count(1)

    def run(train_loader=parts.train_loader, model=parts.model):
        train_loader.set_epoch(next(epochs))
        options = dict(scaler=scaler, dtype=dtype)
        train.train(
            model, size.device, train_loader, parts.optimizer, parts.criterion, scheduler, **options
        )

    return run


def now(device):
    """The time once the device has finished all that it was given."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
    return time.perf_counter()


def alternate(contestants, repeats, device):
    """Time functions in turn, in reverse order every other round: a machine that slows down slows
    all of them.

    Args:
        contestants: {name: function without arguments}.
        repeats: timed rounds; one round before them, to warm up, is not counted.

    Returns:
        {name: list of seconds, one for each round}.
    """
    seconds = {name: [] for name in contestants}
    for turn in range(1 + repeats):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            start = now(device)
            contestants[name]()
            seconds[name].append(now(device) - start)
    return {name: times[1:] for name, times in seconds.items()}


def ratios(above, below):
    """above / below, round by round: what slows both in a round cancels out."""
    return [a / b for a, b in zip(above, below, strict=True)]


def row(name, value, unit):
    """One number of a result; of a list it is the median, with lowest, highest, and how many there
    were.
    """
    if not isinstance(value, list):
        return dict(name=name, value=float(value), unit=unit)
    spread = dict(low=min(value), high=max(value), repeats=len(value))
    return dict(name=name, value=statistics.median(value), unit=unit, **spread)


def speed_row(name, images, seconds):
    """Images/s from the seconds that so many images took."""
    return row(name, [images / s for s in seconds], "images/s")


def goal(row, sense, bound, name=None):
    """What the number of a row should be; `sense` is "at least" or "at most"."""
    met = row["value"] >= bound if sense == "at least" else row["value"] <= bound
    return dict(
        name=name or row["name"], sense=sense, goal=float(bound), value=row["value"], met=met
    )

"""How is something timed here, and how are the results kept?

Every benchmark is a module with SIZES and `measure(device, sizes)`; `main` does the rest. Start one, or all:

    python -m benchmarks.pipeline            # writes benchmarks/results/pipeline-<device>.json
    python -m benchmarks                     # all of them, then the tables (the same as `make bench`)
    python -m benchmarks.pipeline --tiny     # seconds instead of minutes: does it still run? The numbers mean nothing
"""

import argparse
import platform
import re
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import models
from dataset import CLASSES, ArrayDataset, Data
from report import to_json, versions
from settings import device_name, pick_device, precision, set_deterministic
from train import make_criterion, make_optimizer

RESULTS = Path(__file__).parent / "results"
TINY = Path("runs/bench-tiny")  # numbers that mean nothing never come near the results


def main(name, measure, sizes):
    """The command line of one benchmark: measure, print, write `<name>-<device>.json`.

    Args:
        name: of the benchmark.
        measure: (device, sizes) -> (rows, goals), from `row`, `rows_of` and `goal`.
        sizes: {"tiny": …, "cpu": …, "cuda": …}, each a dict of settings; any other device takes the CPU's.
    """
    parser = argparse.ArgumentParser(description=f"The benchmark {name}; see benchmarks/README.md.")
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes; the numbers mean nothing")
    parser.add_argument("--out", type=Path, help="folder of the result")
    args = parser.parse_args()
    device = pick_device()
    set_deterministic(False)  # as in a run: cuDNN picks its fastest algorithms
    chosen = sizes["tiny"] if args.tiny else sizes.get(device.type, sizes["cpu"])
    rows, goals = measure(device, chosen)
    path = write(args.out or (TINY if args.tiny else RESULTS), name, device, chosen, rows, goals)
    for one in rows:
        print(f"  {one['name']:<58} {one['value']:>12,.4g} {one['unit']}")
    for one in goals:
        verdict = "met" if one["met"] else "MISSED"
        print(f"  goal: {one['name']}: {one['sense']} {one['goal']:g}; it is {one['value']:.3g}: {verdict}")
    print(f"  {path}", flush=True)


def write(folder, name, device, sizes, rows, goals):
    """Write a result with the keys of the contract; returns its path."""
    result = dict(benchmark=name, device=machine(device), versions=versions(), sizes=sizes, rows=rows, goals=goals)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{slug(device)}.json"
    path.write_bytes(to_json(result))
    return path


def machine(device):
    """For people: "NVIDIA H200", or the processor's name and threads."""
    threads = torch.get_num_threads()
    return device_name(device) if device.type != "cpu" else f"{processor()}, {threads} thread{'s' * (threads > 1)}"


def processor():
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def slug(device):
    """For file names: "cpu", "nvidia-h200"."""
    return "cpu" if device.type == "cpu" else re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def now(device):
    """The time once the device has finished all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def alternate(contestants, repeats, device, warmups=1):
    """Time functions side by side: in turn, and in reverse order every other round, so that none has the better hour.

    Args:
        contestants: {name: function without arguments}.
        repeats: timed rounds; `warmups` rounds before them are not counted.

    Returns:
        {name: list of seconds, one a round}.
    """
    seconds = {name: [] for name in contestants}
    for turn in range(warmups + repeats):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            began = now(device)
            contestants[name]()
            seconds[name].append(now(device) - began)
    return {name: times[warmups:] for name, times in seconds.items()}


def ratio(above, below):
    """The median over the rounds of above / below: what slows both in a round cancels out."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def row(name, value, unit, **more):
    """One measured number."""
    return dict(name=name, value=float(value), unit=unit, **more)


def rows_of(name, seconds, unit="s", amount=None):
    """A row from repeated times: their median, lowest and highest; as amount / seconds where an amount is given."""
    values = sorted(seconds if amount is None else [amount / s for s in seconds])
    return row(name, statistics.median(values), unit, low=values[0], high=values[-1], repeats=len(values))


def goal(name, sense, bound, value):
    """What a number should be: `sense` is "at least" or "at most"."""
    met = value >= bound if sense == "at least" else value <= bound
    return dict(name=name, sense=sense, goal=float(bound), value=float(value), met=bool(met))


def noise_data(n):
    """n random pictures of CIFAR-10's size. No step looks at what is in a picture, so that real ones take as long."""
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (n, 32, 32, 3), np.uint8)
    train = ArrayDataset(pictures, np.arange(n) % len(CLASSES), CLASSES)
    return Data("noise", train, train.first(len(CLASSES)))


class Trainer:
    """The network with what trains it, as `run.py` makes them: channels last, fused Adam, mixed precision on CUDA."""

    def __init__(self, device):
        torch.manual_seed(0)
        self.device, self.dtype = device, precision(device)
        self.model = models.s10_model().to(device, memory_format=torch.channels_last).train()
        self.optimizer, self.criterion = make_optimizer(self.model), make_criterion()
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def batch(self, size):
        """One batch that lies ready on the device, as the device loader makes it."""
        pictures = torch.randn(size, 3, 32, 32, device=self.device, dtype=self.dtype)
        labels = torch.arange(size, device=self.device) % len(CLASSES)
        return pictures.contiguous(memory_format=torch.channels_last), labels

    def forward(self, pictures, labels):
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.criterion(self.model(pictures), labels)

    def backward(self, loss):
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()

    def update(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def step(self, pictures, labels):
        """A bare training step: forward, backward, Adam."""
        self.backward(self.forward(pictures, labels))
        self.update()

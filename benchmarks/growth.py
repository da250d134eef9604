"""Do time and memory grow in straight lines with the number of pictures and with the batch size?

Each point is measured in a process of its own, so that its peak memory is its own. See benchmarks/README.md.
"""

import json
import re
import statistics
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.common import Trainer, main, noise_data, now, row
from benchmarks.overhead import epochs_of
from loader import make_loaders
from settings import pick_device, set_deterministic

SIZES = dict(
    tiny=dict(pictures=[40, 80], batches=[2, 4], batch=20, most=1, network=False),
    cpu=dict(pictures=[1000, 2000, 4000, 8000], batches=[64, 128, 256, 512, 1024], batch=500, most=3, network=False),
    cuda=dict(
        pictures=[5_000, 10_000, 25_000, 50_000],
        batches=[64, 128, 256, 512, 1024],
        batch=500,
        most=20,
        network=True,
    ),
)
PICTURES = 256  # a point of the batch size repeats its step until it has seen about so many, and at least once


def peak_memory(device):
    """The most memory this process has held so far, in MB: the GPU's where there is one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:  # not `ru_maxrss`, which on Linux counts in the process that started this one
        return int(found[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def forget_peak():
    """Let Linux count the peak anew from here, so that it is not that of the imports."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def epoch_of(n, sizes, device):
    """Seconds of a training epoch of n pictures: loader, tally, schedule, Adam; the network if affordable."""
    trainer = Trainer(device)
    if not sizes["network"]:  # a picture's time in the network does not depend on how many others there are
        trainer.model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
        trainer.optimizer = torch.optim.Adam(trainer.model.parameters(), fused=True)
    loader, _ = make_loaders(noise_data(n), "device", sizes["batch"], device=device, dtype=trainer.dtype)
    epoch = epochs_of(trainer, loader)
    return repeated(epoch, 3, device)


def step_of(batch, sizes, device):
    """Seconds of one bare training step with the real network. The warm-up has its size on a GPU, which must choose."""
    trainer = Trainer(device)
    trainer.step(*trainer.batch(batch if device.type == "cuda" else 2))
    ready = trainer.batch(batch)
    repeats = min(max(PICTURES // batch, 1), sizes["most"]) if device.type == "cpu" else sizes["most"]
    return repeated(lambda: trainer.step(*ready), repeats, device, warmups=0)


def repeated(function, repeats, device, warmups=1):
    times = []
    for _ in range(warmups + repeats):
        began = now(device)
        function()
        times.append(now(device) - began)
    return statistics.median(times[warmups:])


def point(what, size, sizes):
    """One point of a line: {"seconds", "memory"}, measured in this process."""
    device = pick_device()
    set_deterministic(False)
    forget_peak()
    seconds = {"pictures": epoch_of, "batches": step_of}[what](size, sizes, device)
    return dict(seconds=seconds, memory=peak_memory(device))


def point_elsewhere(what, size, sizes):
    """The same in a fresh process."""
    code = "import json, sys; from benchmarks.growth import point; print(json.dumps(point(*json.loads(sys.argv[1]))))"
    command = [sys.executable, "-c", code, json.dumps([what, size, sizes])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise RuntimeError(f"{what} {size}: the process failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def line(sizes, values):
    """(slope, value at 0, r²) of the straight line nearest to the points."""
    slope, start = np.polyfit(sizes, values, 1)
    rest = np.asarray(values) - (slope * np.asarray(sizes) + start)
    spread = np.var(values)
    return float(slope), float(start), float(1 - np.var(rest) / spread) if spread else 1.0


def describe(what, sizes, points):
    """The rows of one line: each point's seconds and peak memory, then both slopes."""
    unit = "pictures" if what == "pictures" else "pictures a batch"
    rows = []
    for key, measured, per in (("seconds", "s", 1e6), ("memory", "MB", 1e3)):
        values = [one[key] for one in points]
        name = dict(seconds="time", memory="peak memory")[key]
        rows += [row(f"{n:,} {unit}: {name}", v, measured, size=n) for n, v in zip(sizes, values, strict=True)]
        slope, start, r2 = line(sizes, values)
        slope_unit = dict(seconds="µs/picture", memory="kB/picture")[key]
        rows.append(row(f"slope of {name}, by {unit}", slope * per, slope_unit, start=start, r2=r2))
    return rows


def measure(device, sizes, point=point_elsewhere):
    rows = []
    for what in ("pictures", "batches"):
        rows += describe(what, sizes[what], [point(what, size, sizes) for size in sizes[what]])
    return rows, []


if __name__ == "__main__":
    main("growth", measure, SIZES)

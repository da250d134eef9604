"""What the benchmarks share: sizes, a run to train, timing in turn, rows and goals."""

import contextlib
import io
import itertools
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

import dataset
import train
from experiments.build import build
from extras import hardware


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and where."""

    device: torch.device
    batch_size: int
    images: int  # in an epoch
    repeats: int  # timed rounds

    @property
    def precisions(self):
        """float32, and what a run on this device takes."""
        best = hardware.choose_precision("auto", self.device)[0]
        return list(dict.fromkeys(["float32", best]))


def noise_data(n):
    """n random images of CIFAR-10's size. No step looks into an image: real ones take as long."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)
    images = dataset.ArrayDataset(pixels, np.arange(n) % 10, dataset.CLASSES)
    return dataset.Data("noise", images, images.balanced_subset(10))


class Run:
    """What a run trains with, on random images: the same parts as in main.py."""

    def __init__(self, sizes, precision, loader="device"):
        self.device = sizes.device
        self.dtype = getattr(torch, precision)
        self.scaler = torch.amp.GradScaler(enabled=self.dtype == torch.float16)
        with contextlib.redirect_stdout(io.StringIO()):  # it says each time which loader it is
            self.parts = build(
                noise_data(sizes.images),
                epochs=1000,
                batch_size=sizes.batch_size,
                device=self.device,
                loader=loader,
                dtype=self.dtype,
            )
        self.scheduler = self.parts.schedule(1e-3)
        self.epochs = itertools.count(1)
        self.batch = next(iter(self.parts.train_loader))

    def step(self):
        """A bare training step, without train.py, on one batch that lies ready on the device."""
        images, labels = self.batch
        self.parts.model.train()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.parts.criterion(self.parts.model(images), labels)
        self.parts.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.parts.optimizer)
        self.scaler.update()

    def epoch(self, loader=None, model=None):
        """An epoch of `train.train`, the next one at each call."""
        model = model or self.parts.model
        loader = loader or self.parts.train_loader
        loader.set_epoch(next(self.epochs))
        given = (model, self.device, loader, self.parts.optimizer, self.parts.criterion)
        train.train(*given, self.scheduler, scaler=self.scaler, dtype=self.dtype)


def alternate(contestants, repeats, device):
    """Time functions in turn: a machine that slows down for a while slows all of them.

    Every other round goes in reverse order, and a round before them, to warm up, is not counted.

    Args:
        contestants: {name: function without arguments}.

    Returns:
        {name: list of seconds, one for each round}.
    """

    def now():  # when the device has finished all that it was given
        if device.type in ("cuda", "mps"):
            getattr(torch, device.type).synchronize()
        return time.perf_counter()

    seconds = {name: [] for name in contestants}
    for turn in range(1 + repeats):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            start = now()
            contestants[name]()
            seconds[name].append(now() - start)
    return {name: times[1:] for name, times in seconds.items()}


def ratios(above, below):
    """above / below, round by round: what slows both in a round cancels out."""
    return [a / b for a, b in zip(above, below, strict=True)]


def row(name, values, unit):
    """The median of a list, with its lowest and its highest."""
    spread = {"low": min(values), "high": max(values), "repeats": len(values)}
    return {"name": name, "value": statistics.median(values), "unit": unit, **spread}


def speed_row(name, images, seconds):
    """Images/s from the seconds that so many images took."""
    return row(name, [images / s for s in seconds], "images/s")


def goal(row, sense, bound):
    """What the number of a row should be; `sense` is "at least" or "at most"."""
    value = row["value"]
    met = value >= bound if sense == "at least" else value <= bound
    return {"name": row["name"], "sense": sense, "goal": bound, "value": value, "met": met}

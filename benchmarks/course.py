"""How much faster is an epoch than in the course's notebook of 2023?

`epoch_2023` is that notebook's training loop, re-created (misc/original-2023.json); beside it, `train.train` with the
device loader. The same network, pictures and batch size. See benchmarks/README.md.
"""

import io

import cv2
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import models
from benchmarks.common import Trainer, alternate, goal, main, noise_data, ratio, row, rows_of
from benchmarks.overhead import epochs_of
from loader import make_loaders
from transform import MEAN, STD, A, ToTensorV2

SIZES = dict(
    tiny=dict(batch=4, steps=2, repeats=1),
    cpu=dict(batch=64, steps=2, repeats=7),
    cuda=dict(batch=512, steps=98, repeats=3),
)


HOLE = (10, 10)  # side, pixels: from 10 to 10


def transforms_2023():
    """The notebook's transforms, written for albumentations 2: the arguments of 2023 mean something else there."""
    steps = [
        A.Normalize(MEAN, STD),
        A.PadIfNeeded(40, 40, border_mode=cv2.BORDER_REFLECT_101),
        A.RandomCrop(32, 32),
        A.HorizontalFlip(p=0.5),
        A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=HOLE, hole_width_range=HOLE, fill=MEAN, p=0.5),
        ToTensorV2(),
    ]
    return A.Compose(steps, strict=True)


class Notebook2023:
    """Network, loader, optimizer and schedule as the notebook made them: float32, NCHW, Adam with coupled decay."""

    def __init__(self, dataset, device, batch):
        torch.manual_seed(0)
        pin = device.type == "cuda"
        dataset = dataset.with_transform(transforms_2023())
        self.loader = DataLoader(dataset, batch, shuffle=True, num_workers=2, pin_memory=pin)
        self.device, self.model, self.criterion = device, models.s10_model().to(device), nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.03, weight_decay=1e-4)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 1e-3, steps_per_epoch=len(self.loader), epochs=1000, anneal_strategy="linear"
        )

    def epoch(self):
        """One epoch, with the notebook's progress bar and its three `.item()` a step, each of which waits for a GPU."""
        self.model.train()
        hits, seen, losses = 0, 0, 0.0
        bar = tqdm(self.loader, file=io.StringIO())
        for pictures, labels in bar:
            pictures, labels = pictures.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            output = self.model(pictures)
            loss = self.criterion(output, labels)
            losses += loss.item()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            hits += output.argmax(dim=1).eq(labels).sum().item()
            seen += len(pictures)
            bar.set_description(f"Train: Loss={loss.item():0.4f} Accuracy={100 * hits / seen:0.2f}")


def measure(device, sizes):
    batch, data = sizes["batch"], noise_data(sizes["batch"] * sizes["steps"])
    old, new = Notebook2023(data.train, device, batch), Trainer(device)
    loader, _ = make_loaders(data, "device", batch, device=device, dtype=new.dtype)
    epoch = epochs_of(new, loader)

    def flags(function, fastest):
        def run():
            torch.backends.cudnn.benchmark = fastest  # off by default, and so in 2023
            function()

        return run

    found = alternate({"2023": flags(old.epoch, False), "ours": flags(epoch, True)}, sizes["repeats"], device)
    faster = ratio(found["2023"], found["ours"])
    n = len(data.train)
    rows = [rows_of(f"epoch of {n:,} pictures, {name}", seconds) for name, seconds in found.items()]
    rows += [rows_of(f"training, {name}", seconds, "pictures/s", amount=n) for name, seconds in found.items()]
    rows.append(row("2023 / ours", faster, "times"))
    return rows, [goal("2023 / ours", "at least", 8 if device.type == "cuda" else 1.2, faster)]


if __name__ == "__main__":
    main("course", measure, SIZES)

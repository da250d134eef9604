"""How many pictures a second does each way to augment prepare?

The same three steps and the normalisation (`transform.py`) in five libraries, from uint8 pictures in memory to
batches of normalised float32 pictures. See benchmarks/README.md.
"""

import os

import cv2
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from benchmarks.common import alternate, goal, main, noise_data, ratio, rows_of
from loader import DeviceLoader
from transform import HOLE, MEAN, PADDING, SIZE, STD, albumentations_transforms, colour, torchvision_transforms

SIZES = dict(
    tiny=dict(single=32, kornia=32, ours=64, batch=16, repeats=2, workers=1),
    cpu=dict(single=2_048, kornia=4_096, ours=20_480, batch=512, repeats=5, workers=os.cpu_count()),
    cuda=dict(single=2_048, kornia=4_096, ours=50_176, batch=512, repeats=5, workers=os.cpu_count()),
)
SHARE = (HOLE / SIZE) ** 2  # of the picture, that the hole takes; one value instead of a range makes it exact
OURS, SINGLE = "ours", ("albumentations", "torchvision", "torchvision v2")


def v2_transforms():
    """torchvision's v2 transforms, on tensors: PIL takes no part."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomCrop(SIZE, padding=PADDING, fill=colour(MEAN)),
            v2.RandomHorizontalFlip(p=0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(p=1, scale=(SHARE, SHARE), ratio=(1, 1), value=0),
        ]
    )


def kornia_transforms(cropping):
    """kornia's, on batches. Normalised first, so that padding and hole are zero, as with all others."""
    import kornia.augmentation as K

    return torch.nn.Sequential(
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        K.RandomCrop((SIZE, SIZE), padding=PADDING, fill=0, cropping_mode=cropping),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomErasing(p=1, scale=(SHARE, SHARE), ratio=(1, 1), value=0),
    )


class KorniaLoader:
    """All pictures on the device, shuffled and augmented in batches: what `DeviceLoader` does, with kornia."""

    def __init__(self, dataset, batch_size, device, cropping):
        self.pictures = torch.from_numpy(dataset.data).to(device).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.as_tensor(dataset.targets).to(device)
        self.dataset, self.batch_size, self.augment = dataset, batch_size, kornia_transforms(cropping).to(device)

    def __iter__(self):
        order = torch.randperm(len(self.pictures)).to(self.pictures.device)
        for chosen in order.split(self.batch_size):
            yield self.augment(self.pictures[chosen].float() / 255), self.labels[chosen]


def single_loaders(dataset, batch_size, workers):
    """The libraries that take one picture at a time. Their workers stay alive between the repeats."""
    transforms = albumentations_transforms()[0], torchvision_transforms()[0], v2_transforms()
    return {
        name: DataLoader(
            dataset.with_transform(transform),
            batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for name, transform in zip(SINGLE, transforms, strict=True)
    }


def batched_loaders(sizes, device):
    """The libraries that take a batch at a time; kornia crops in two ways; which is faster depends on the device."""
    loaders = {OURS: DeviceLoader(noise_data(sizes["ours"]).train, sizes["batch"], device)}
    few = noise_data(sizes["kornia"]).train
    try:
        for cropping in ("slice", "resample"):
            loaders[f"kornia, {cropping}"] = KorniaLoader(few, sizes["batch"], device, cropping)
    except ImportError:
        print("  kornia is not installed, so its rows are left out: pip install -r requirements-bench.txt")
    return loaders


def exhaust(loader):
    for _ in loader:
        pass


def race(loaders, repeats, device):
    """Times of an epoch of each loader, taken in turn: {name: (list of seconds, pictures)}."""
    epochs = {name: lambda loader=loader: exhaust(loader) for name, loader in loaders.items()}
    seconds = alternate(epochs, repeats, device)
    return {name: (seconds[name], len(loader.dataset)) for name, loader in loaders.items()}


def speedup(found, name):
    """How many times as many pictures a second ours prepares as `name` does."""
    (ours, n), (theirs, m) = found[OURS], found[name]
    return ratio(theirs, ours) * n / m


def rows(found, where):
    return [rows_of(f"{name} ({where})", s, "pictures/s", amount=n) for name, (s, n) in found.items()]


def over_kornia(found, where):
    """The goal against the faster one of kornia's two ways; none where kornia is absent."""
    factors = [speedup(found, name) for name in found if name.startswith("kornia")]
    return [goal(f"ours / kornia, {where}", "at least", 2, min(factors))] if factors else []


def measure(device, sizes):
    cpu, threads, repeats, workers = torch.device("cpu"), torch.get_num_threads(), sizes["repeats"], sizes["workers"]
    batched = batched_loaders(sizes, cpu)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    one = race(single_loaders(noise_data(sizes["single"]).train, sizes["batch"], 0) | batched, repeats, cpu)
    torch.set_num_threads(threads)
    # batches so small that each worker has several to prepare
    many, small = noise_data(sizes["single"] * workers).train, min(sizes["batch"], sizes["single"] // 16)
    together = race(single_loaders(many, small, workers) | batched, repeats, cpu)
    found = rows(one, "one CPU thread") + rows(together, f"CPU, {workers} workers or {threads} threads")
    goals = [goal("ours / albumentations, one CPU thread", "at least", 10, speedup(one, "albumentations"))]
    goals += over_kornia(one, "one CPU thread")
    if device.type != "cpu":
        there = race(batched_loaders(sizes, device), repeats, device)
        found += rows(there, device.type)
        goals += over_kornia(there, device.type)
    return found, goals


if __name__ == "__main__":
    main("pipeline", measure, SIZES)

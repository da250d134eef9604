"""Where do the pictures come from?

    data = load("auto")        # CIFAR-10 where it is or can be fetched, else the built-in sample
    data = load("photos/")     # a folder: photos/train/<class>/* and photos/test/<class>/*
    data.train, data.test      # ArrayDataset: all pictures in memory as uint8

and, alone, for torchvision's official files with albumentations transforms:

    CifarDataset("data", train=True, transform=train_transforms, download=True)
"""

import dataclasses
import hashlib
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info
from torchvision.datasets import CIFAR10

from cache import cached_arrays
from download import DownloadError, fetch_cifar10
from folder import read_folder
from sample import SAMPLE_CLASSES, draw_sample
from transform import MEAN, SIZE, STD, A

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SOURCES = ("auto", "cifar10", "sample")


def is_albumentations(transform):
    return isinstance(transform, A.BaseCompose | A.BasicTransform)


class Transformed(Dataset):
    """What the data sets here share: `data` (N, H, W, 3) uint8, `targets`, `classes`, `transform`, and taking one out.

    albumentations ignores the seeds that a DataLoader gives its workers: all of them would draw the same stream, and
    the same again in every epoch. So each worker seeds it here, once an epoch, with its own seed.
    """

    seeded_with = None

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        """(picture, label): the transformed picture, or the (H, W, 3) uint8 array where there is no transform."""
        worker = get_worker_info()
        if worker is not None and worker.seed != self.seeded_with:
            self.seed_transform(worker.seed)
        picture, label = self.data[index], int(self.targets[index])
        if is_albumentations(self.transform):
            picture = self.transform(image=picture)["image"]
        elif self.transform is not None:
            picture = self.transform(picture)
        return picture, label

    def seed_transform(self, seed):
        """Start the transform's random stream at `seed`; one stream for all steps, so that they draw independently."""
        self.seeded_with = seed
        if is_albumentations(self.transform):
            self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))


class CifarDataset(Transformed, CIFAR10):
    """`torchvision.datasets.CIFAR10` that takes albumentations transforms.

    Args:
        root: folder that holds, or will hold, `cifar-10-batches-py`.
        train: the 50,000 training pictures, or the 10,000 test pictures.
        transform: an albumentations transform, or None for the uint8 arrays.
        download: fetch the files from the first source that works (see `download.py`) where they are missing.

    Raises:
        TypeError: the transform is not an albumentations one.
        RuntimeError: the files are missing or damaged (torchvision checks their md5).
    """

    def __init__(self, root="data", train=True, transform=None, download=False):
        if transform is not None and not is_albumentations(transform):
            raise TypeError(
                f"transform is a {type(transform).__name__}, not an albumentations transform: "
                "use albumentations.Compose([...]), or torchvision.datasets.CIFAR10 for torchvision's transforms"
            )
        if download:
            fetch_cifar10(root)
        CIFAR10.__init__(self, root, train=train, transform=transform, download=False)


class ArrayDataset(Transformed):
    """Pictures in memory, with any transform: albumentations', torchvision's or another function of one picture.

    Args:
        data: (N, H, W, 3) uint8 array.
        targets: N labels, 0 … len(classes) - 1.
        classes: the classes' names.

    Raises:
        ValueError: shapes, types or labels do not fit.
    """

    def __init__(self, data, targets, classes, transform=None):
        data, targets = np.asarray(data), np.asarray(targets)
        if data.dtype != np.uint8 or data.ndim != 4 or data.shape[3] != 3:
            raise ValueError(
                f"pictures are {data.dtype} of shape {data.shape}: give uint8 of shape (N, height, width, 3)"
            )
        if len(data) != len(targets):
            raise ValueError(f"{len(data)} pictures have {len(targets)} labels: give one label for each picture")
        if targets.ndim != 1 or (targets != targets.astype(np.int64)).any():
            raise ValueError(f"labels are {targets.dtype} of shape {targets.shape}: give N whole numbers")
        targets = targets.astype(np.int64)
        wrong = np.flatnonzero((targets < 0) | (targets >= len(classes)))
        if len(wrong):
            raise ValueError(
                f"picture {wrong[0]} has label {targets[wrong[0]]}: "
                f"with {len(classes)} classes, labels go from 0 to {len(classes) - 1}"
            )
        self.data, self.targets, self.classes, self.transform = data, targets, tuple(classes), transform

    def with_transform(self, transform):
        """The same pictures with another transform; the pixels are shared, not copied."""
        return ArrayDataset(self.data, self.targets, self.classes, transform)

    def first(self, n):
        """The first n pictures, balanced by class: sizes differ by one at most. The same ones in every run."""
        turn = np.empty(len(self.targets), dtype=np.int64)  # 0 for the first picture of its class, 1 for the second, …
        for label in range(len(self.classes)):
            mine = np.flatnonzero(self.targets == label)
            turn[mine] = np.arange(len(mine))
        chosen = np.sort(np.lexsort((self.targets, turn))[:n])
        return ArrayDataset(self.data[chosen], self.targets[chosen], self.classes, self.transform)


class UnNormalize:
    """Undo a normalisation: (tensor - mean) / std -> pixels in [0, 1], as a new tensor.

    Args:
        mean, std: the very statistics that normalised, by channel.
    """

    def __init__(self, mean=MEAN, std=STD):
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, tensor):
        """(C, H, W) or (N, C, H, W), any device -> a new tensor of the same shape."""
        if tensor.ndim < 3 or tensor.shape[-3] != len(self.mean):
            raise ValueError(
                f"tensor has shape {tuple(tensor.shape)}: give ({len(self.mean)}, H, W), or a batch of these"
            )
        pixels = tensor.float() * self.std.to(tensor.device) + self.mean.to(tensor.device)
        return pixels.clamp_(0, 1)


@dataclass
class Data:
    """A data set and what is known of it: two splits without transforms, and the statistics to normalise with."""

    name: str  # for people: "CIFAR-10", "CIFAR-10, JPEG edition", "sample data, not CIFAR-10", …
    train: ArrayDataset
    test: ArrayDataset
    mean: tuple = MEAN
    std: tuple = STD
    limit: int | None = None

    def describe(self):
        return (
            f"data: {self.name}, {len(self.train):,} training and {len(self.test):,} test pictures, "
            f"{len(self.classes)} classes"
        )

    @property
    def classes(self):
        return self.train.classes

    @property
    def fingerprint(self):
        """A digest of every pixel and label: the same pictures in the same order, and no others, have the same."""
        digest = hashlib.blake2b(digest_size=8)
        for split in (self.train, self.test):
            digest.update(np.ascontiguousarray(split.data))
            digest.update(split.targets)
        return digest.hexdigest()

    def limited(self, limit):
        """The first `limit` training and `limit` / 5 test pictures, balanced by class, the same for every run."""
        if limit is None or limit >= len(self.train):
            return self
        if limit < 10:
            raise ValueError(f"limit is {limit}: take 10 pictures or more")
        return dataclasses.replace(self, train=self.train.first(limit), test=self.test.first(limit // 5), limit=limit)


def load(source="auto", root="data", size=SIZE, log=print):
    """Load a data set into memory.

    Args:
        source: "cifar10", "sample", "auto" (CIFAR-10 where it is or can be fetched, else the sample), or a folder that
            holds either `cifar-10-batches-py`, or train/<class>/* and test/<class>/* (see `folder.py`).
        root: where CIFAR-10 is kept, and decoded pictures are cached so that a second start is quick.
        size: side in pixels that a folder's pictures are brought to.

    Raises:
        DownloadError: CIFAR-10 was asked for and cannot be had.
        folder.FolderError, ValueError: the folder, or the name of the source, is wrong.
    """
    check_source(source)
    if source == "sample":
        return sample_data()
    if source in ("auto", "cifar10"):
        try:
            return official_data(root, root)
        except DownloadError as error:
            if source == "cifar10":
                raise
            log(f"{error}\nCIFAR-10 cannot be had here: the run goes on with sample data, simple drawings instead.")
            return sample_data()
    if is_official(source):
        return official_data(source, root)
    return folder_data(Path(os.path.abspath(source)), root, size, log)  # absolute: "." has no name


def check_source(source):
    """Refuse a name that is none of SOURCES and no folder."""
    if source not in SOURCES and not os.path.isdir(source):
        raise ValueError(f"data is {source!r}: give one of {', '.join(SOURCES)}, or a folder that exists")


def is_official(folder):
    return any((Path(folder) / name).exists() for name in (CIFAR10.base_folder, CIFAR10.filename))


def sample_data():
    """The built-in sample: 4,096 training and 1,024 test pictures drawn by code."""
    train, test = (ArrayDataset(*draw_sample(train), SAMPLE_CLASSES) for train in (True, False))
    return Data("sample data, not CIFAR-10", train, test, *statistics(train.data))


def official_data(root, cache_root):
    """CIFAR-10 from the official files in `root`; fetched and checked once, then taken from the cache."""
    folder = Path(root) / CIFAR10.base_folder
    if not folder.is_dir():
        fetch_cifar10(root)

    def read():
        fetch_cifar10(root)  # has them right: a damaged file is set aside and fetched anew
        splits = {train: CifarDataset(root, train=train) for train in (True, False)}
        return {
            f"{what}{train}": np.asarray(getattr(split, what))
            for train, split in splits.items()
            for what in ("data", "targets")
        }

    files = sorted(folder.iterdir())
    key = "cifar10 " + " ".join(f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    arrays = cached_arrays(Path(cache_root) / "cache", key, read)
    return Data("CIFAR-10", *(ArrayDataset(arrays[f"data{t}"], arrays[f"targets{t}"], CLASSES) for t in (True, False)))


def folder_data(path, root, size, log):
    """A folder of pictures; statistics are CIFAR-10's where the classes are, else those of the training split."""
    found = read_folder(path, size=size, cache_dir=Path(root) / "cache")
    for note in found.notes:
        log(f"{path.name}: {note}")
    train, test = (ArrayDataset(*split, found.classes) for split in (found.train, found.test))
    if found.classes != CLASSES:
        return Data(path.name, train, test, *statistics(train.data))
    files = (file for up in ("", "*/") for file in path.glob(f"{up}train/{CLASSES[0]}/*"))  # "*/": as archives unpack
    compressed = any(file.suffix.lower() in (".jpg", ".jpeg", ".jfif") for file in files)
    return Data("CIFAR-10, JPEG edition" if compressed else f"CIFAR-10 from {path.name}", train, test)


def statistics(pictures):
    """Mean and standard deviation of (N, H, W, 3) uint8 pictures by channel, for pixels in [0, 1]."""
    counts = np.stack([np.bincount(pictures[..., channel].ravel(), minlength=256) for channel in range(3)])
    share, level = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = share @ level
    std = np.sqrt(np.maximum(share @ level**2 - mean**2, 0)).round(4)
    for name, spread in zip(("red", "green", "blue"), std, strict=True):
        if spread == 0:
            raise ValueError(f"all training pictures have one and the same {name} everywhere: give pictures in colour")
    return tuple(mean.round(4).tolist()), tuple(std.tolist())

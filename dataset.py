"""Data sets and loaders: images in memory from any source, and batches in an order that a seed
decides.

data = load("auto")         # CIFAR-10 where it is or can be downloaded, else the built-in sample
data = load("photos/")      # a folder with train/<class>/* and test/<class>/*
train_loader, test_loader = loaders(data, batch_size=512, device=device, seed=0)

CifarDataset("data", train=True, transform=train_transforms, download=True)     # as in the course
UnNormalize(MEAN, STD)(tensor)                                                  # back to pixels in
[0, 1]
"""

import copy
import dataclasses
import hashlib
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, get_worker_info

import transform as tf
from transform import MEAN, SIZE, STD

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SOURCES = ("auto", "cifar10", "sample")
LOADERS = ("auto", "albumentations", "torchvision", "device")
TEST_BATCH = 1000  # images; without gradients there is memory for large batches


class ArrayDataset(Dataset):
    """Images in memory, with any transform: one of albumentations, of torchvision, or a function of
    one image.

    Args:
        data: (N, H, W, 3) uint8 array.
        targets: N labels, 0 … len(classes) - 1.
        classes: names of the classes.
        transform: applied to each image when it is taken out; None gives the (H, W, 3) uint8 array.

    Raises:
        ValueError: shapes, types or labels do not fit.
    """

    seeded_with = None  # the seed of the worker that last seeded the transform

    def __init__(self, data, targets, classes, transform=None):
        data, targets = np.asarray(data), np.asarray(targets)
        if data.dtype != np.uint8 or data.ndim != 4 or data.shape[3] != 3:
            raise ValueError(
                f"images are {data.dtype} of shape {data.shape}: give uint8 of shape (N, H, W, 3)"
            )
        if targets.shape != data.shape[:1] or (targets != targets.astype(np.int64)).any():
            raise ValueError(
                f"{len(data)} images have labels of shape {targets.shape}: give one whole number for each"
            )
        targets = targets.astype(np.int64)
        wrong = np.flatnonzero((targets < 0) | (targets >= len(classes)))
        if len(wrong):
            bad = f"image {wrong[0]} has label {targets[wrong[0]]}"
            raise ValueError(
                f"{bad}: with {len(classes)} classes, labels go from 0 to {len(classes) - 1}"
            )
        self.data, self.targets, self.classes, self.transform = (
            data,
            targets,
            tuple(classes),
            transform,
        )

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        worker = get_worker_info()
        if worker is not None and worker.seed != self.seeded_with:
            self.seed_transform(worker.seed)
        image, label = self.data[index], int(self.targets[index])
        if hasattr(self.transform, "set_random_state"):  # albumentations
            image = self.transform(image=image)["image"]
        elif self.transform is not None:
            image = self.transform(image)
        return image, label

    def seed_transform(self, seed):
        """Seed albumentations, which ignores the seeds that a DataLoader gives its workers.

        Otherwise all workers would draw the same random numbers, and the same ones again in every
        epoch.
        """
        self.seeded_with = seed
        if hasattr(self.transform, "set_random_state"):
            self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))

    def with_transform(self, transform):
        """The same images with another transform; the pixels are shared, not copied."""
        return ArrayDataset(self.data, self.targets, self.classes, transform)

    def first(self, n):
        """The first n images, balanced by class: numbers differ by one at most. The same ones in
        every run.
        """
        turn = np.empty(
            len(self.targets), dtype=np.int64
        )  # 0 for the first image of its class, 1 for the second, …
        for label in range(len(self.classes)):
            mine = np.flatnonzero(self.targets == label)
            turn[mine] = np.arange(len(mine))
        chosen = np.sort(np.lexsort((self.targets, turn))[:n])
        return ArrayDataset(self.data[chosen], self.targets[chosen], self.classes, self.transform)


class CifarDataset(ArrayDataset):
    """CIFAR-10 from the official files, like torchvision's CIFAR10, for transforms of
    albumentations too.

    Args:
        root: folder that holds, or with download=True will hold, `cifar-10-batches-py`.
        train: the 50,000 training images, or the 10,000 test images.

    Raises:
        RuntimeError: the files are missing, damaged, or cannot be downloaded.
    """

    def __init__(self, root="data", train=True, transform=None, download=False):
        from extras import download as files

        folder = files.fetch_cifar10(root) if download else Path(root).expanduser() / files.FOLDER
        super().__init__(*files.read_batches(folder, train), CLASSES, transform)


class UnNormalize:
    """Undo a normalisation with this mean and std: a new tensor of pixels in [0, 1]."""

    def __init__(self, mean=MEAN, std=STD):
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, tensor):
        """(C, H, W) or (N, C, H, W), on any device -> a new tensor of the same shape."""
        if tensor.ndim < 3 or tensor.shape[-3] != len(self.mean):
            raise ValueError(
                f"tensor has shape {tuple(tensor.shape)}: give ({len(self.mean)}, H, W), or a batch"
            )
        return (tensor.float() * self.std.to(tensor.device) + self.mean.to(tensor.device)).clamp_(
            0, 1
        )


def normalise_images(images, mean=MEAN, std=STD):
    """(N, H, W, 3) uint8 array -> (N, 3, H, W) float32 tensor, as the network wants it;
    `UnNormalize` undoes it.
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (torch.tensor(np.asarray(images)).permute(0, 3, 1, 2) / 255 - mean) / std


@dataclass
class Data:
    """A data set in memory: training and test images without a transform, and the statistics to
    normalise with.
    """

    # for people: "CIFAR-10" (the official files alone), "sample data, not CIFAR-10", a folder's
    # name
    name: str
    train: ArrayDataset
    test: ArrayDataset
    mean: tuple = MEAN
    std: tuple = STD
    kind: str = "folder"  # or "cifar10", "sample"
    limit: int | None = None

    def describe(self):
        sizes = f"{len(self.train):,} training and {len(self.test):,} test images"
        return f"data: {self.name}, {sizes}, {len(self.classes)} classes"

    @property
    def classes(self):
        return self.train.classes

    @property
    def guess(self):
        """What guessing costs, in nats: the entropy of the training labels' frequencies."""
        counts = np.bincount(self.train.targets)
        share = counts[counts > 0] / counts.sum()
        return float(-(share * np.log(share)).sum())

    @property
    def fingerprint(self):
        """A digest of every pixel and label: only the same images in the same order have the
        same.
        """
        digest = hashlib.blake2b(digest_size=8)
        for split in (self.train, self.test):
            digest.update(np.ascontiguousarray(split.data))
            digest.update(split.targets)
        return digest.hexdigest()

    def limited(self, limit):
        """The first `limit` training and `limit` / 5 test images, balanced by class, the same ones
        in every run.
        """
        if limit is None or limit >= len(self.train):
            return self
        if limit < 10:
            raise ValueError(f"limit is {limit}: take 10 images or more")
        return dataclasses.replace(
            self, train=self.train.first(limit), test=self.test.first(limit // 5), limit=limit
        )


def load(source="auto", root="data", size=SIZE, log=print):
    """Load a data set into memory.

    Args:
        source: "cifar10", "sample", "auto" (CIFAR-10 where it is or can be downloaded, else the
            sample), or a folder with `cifar-10-batches-py`, or with train/<class>/* and
            test/<class>/*.
        root: where CIFAR-10 is kept, and where decoded images are cached.
        size: side in pixels that a folder's images are brought to.

    Raises ValueError for a wrong folder or source, extras.download.DownloadError where "cifar10"
    cannot be had.
    """
    from extras.download import ARCHIVE, FOLDER, DownloadError

    if source not in SOURCES:
        folder = Path(os.path.abspath(Path(str(source)).expanduser()))  # "..", too, gets its name
        if not str(source) or not folder.is_dir():
            raise ValueError(
                f"data is {str(source)!r}: give one of {', '.join(SOURCES)}, or a folder that exists"
            )
        is_official = (folder / FOLDER).exists() or (folder / ARCHIVE).exists()
        return load_cifar10(folder) if is_official else load_folder(folder, root, size, log)
    if source != "sample":
        try:
            return load_cifar10(root)
        except DownloadError as error:
            if source == "cifar10":
                raise
            log(
                f"{error}\nCIFAR-10 cannot be had here: the run goes on with sample data, simple drawings instead."
            )

    from extras.sample import SAMPLE_CLASSES, draw_sample

    train, test = (ArrayDataset(*draw_sample(train), SAMPLE_CLASSES) for train in (True, False))
    return Data("sample data, not CIFAR-10", train, test, *statistics(train.data), kind="sample")


def load_cifar10(root):
    train, test = (CifarDataset(root, train, download=True) for train in (True, False))
    return Data("CIFAR-10", train, test, kind="cifar10")


def load_folder(folder, root, size, log):
    """A folder of images; statistics are CIFAR-10's where the classes are, else those of the
    training images.
    """
    from extras.folder import read_folder

    found = read_folder(folder, size=size, cache_dir=Path(root) / "cache")
    for note in found.notes:
        log(f"{folder.name}: {note}")
    train, test = (ArrayDataset(*split, found.classes) for split in (found.train, found.test))
    mean, std = (MEAN, STD) if found.classes == CLASSES else statistics(train.data)
    # the name "CIFAR-10" belongs to the official files
    return Data(
        f"{folder.name}, a folder" if folder.name == "CIFAR-10" else folder.name,
        train,
        test,
        mean,
        std,
    )


def statistics(images):
    """Mean and standard deviation of (N, H, W, 3) uint8 images by channel, for pixels in [0, 1]."""
    counts = np.stack(
        [np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)]
    )
    share, level = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = share @ level
    std = np.sqrt(np.maximum(share @ level**2 - mean**2, 0)).round(4)
    if (std == 0).any():
        raise ValueError(
            "a channel of the training images is the same everywhere: give images with some contrast"
        )
    return tuple(mean.round(4).tolist()), tuple(std.tolist())


class SeededLoader(DataLoader):
    """A DataLoader whose order and augmentation are a function of (seed, epoch); each pass is the
    next epoch.

    PyTorch seeds `random`, NumPy and itself in its workers; without workers, iterating seeds all
    three here.
    """

    def __init__(self, dataset, *, seed=0, **arguments):
        if arguments.get("persistent_workers"):
            raise ValueError(
                "persistent_workers is True: such workers go on with old random numbers, so leave it out"
            )
        self.seed, self.epoch = seed, 0
        super().__init__(dataset, generator=torch.Generator(), **arguments)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        start = self.seed * 1_000_003 + self.epoch
        self.epoch += 1  # until `set_epoch` says otherwise
        self.generator.manual_seed(
            start
        )  # DataLoader draws the order and the seeds of the workers from it
        if self.num_workers == 0:
            random.seed(start)
            np.random.seed(start % 2**32)
            torch.manual_seed(start)
            if hasattr(self.dataset, "seed_transform"):
                self.dataset.seed_transform(start)
        return super().__iter__()


class DeviceLoader:
    """Batches made on the device, where all images lie as uint8 (CIFAR-10: 0.5 GB, mirror images
    included).

    The random choices of an epoch are one table, drawn on the CPU from (seed, epoch): the same on
    every device. Under torchrun each process takes its rows of every batch, and its share of the
    test images.

    Args:
        dataset: has `data` (N, H, W, 3) uint8, square, and `targets`.
        batch_size: images in a batch; the last batch holds what is left.
        train: shuffle, crop, flip and cut out; False: normalise only.
        dtype: of the batches, torch.bfloat16 where the network computes in it.
    """

    def __init__(
        self,
        dataset,
        batch_size,
        device="cpu",
        *,
        train=True,
        seed=0,
        mean=MEAN,
        std=STD,
        dtype=torch.float32,
    ):
        self.n, self.size = dataset.data.shape[:2]
        self.batch_size, self.device, self.train, self.seed, self.epoch = (
            batch_size,
            device,
            train,
            seed,
            0,
        )
        self.rank, self.world_size = (
            (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)
        )
        smallest = min(batch_size, self.n % batch_size or batch_size) if train else self.n
        if smallest < self.world_size:
            shares = f"a batch of {smallest} images for {self.world_size} processes"
            raise ValueError(f"{shares}: start fewer, or change the batch size")
        images = torch.from_numpy(dataset.data).to(device)
        self.images = tf.crop_windows(images) if train else images.flatten(2)
        self.labels = torch.as_tensor(dataset.targets).to(device)
        self.factors = tf.normaliser(self.size, mean, std, device, dtype)

    def __len__(self):
        return -(-self.n // self.batch_size)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def whole(self):
        """The same loader for one process alone, which then takes all rows; nothing is copied."""
        loader = copy.copy(self)
        loader.rank, loader.world_size = 0, 1
        return loader

    def share(self, n):
        """Which of n rows are this process's: every row is somebody's, and shares differ by one row
        at most.
        """
        return slice(n * self.rank // self.world_size, n * (self.rank + 1) // self.world_size)

    def __iter__(self):
        """Yields (images (B, 3, H, W) in channels-last format, labels (B,))."""
        if not self.train:
            mine = self.share(self.n)
            parts = (part[mine].split(self.batch_size) for part in (self.images, self.labels))
            for images, labels in zip(*parts, strict=True):
                yield tf.normalise(images, *self.factors), labels
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        self.epoch += (
            1  # until `set_epoch` says otherwise: a loop of your own gets new draws in each pass
        )
        table = tf.Draws(
            *(column.to(self.device) for column in tf.draw_epoch(self.n, generator, self.size))
        )
        for batch in table.order.split(self.batch_size):
            mine = batch[self.share(len(batch))]
            draws = tf.Draws(mine, *(column[mine] for column in table[1:]))
            yield tf.augment(self.images, draws, *self.factors), self.labels[mine]


def test_loader(data, device="cpu", *, dtype=torch.float32):
    """The loader of a data set's test images, in their order: whole batches, only normalised."""
    return DeviceLoader(
        data.test, TEST_BATCH, device, train=False, mean=data.mean, std=data.std, dtype=dtype
    )


def is_distributed():
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def choose_loader(loader, device):
    """What "auto" means: batches on the device where there is an accelerator or torchrun, else
    albumentations.
    """
    if loader not in LOADERS:
        raise ValueError(f"loader is {loader!r}: choose one of {', '.join(LOADERS)}")
    if loader != "auto":
        return loader
    return "device" if torch.device(device).type != "cpu" or is_distributed() else "albumentations"


def loaders(
    data,
    batch_size=512,
    *,
    loader="auto",
    device="cpu",
    seed=0,
    workers=2,
    dtype=torch.float32,
    log=print,
):
    """The training and the test loader.

    Args:
        loader: "albumentations" or "torchvision" (image by image, in worker processes), "device"
            (whole batches on the device, see `DeviceLoader`), or "auto" (see `choose_loader`).
        device: where the network is.
        seed: of order and augmentation.
        workers: processes that prepare images; not used by "device".

    Raises:
        ValueError: a value makes no sense, or the images are not square.
    """
    loader = choose_loader(loader, device)
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}: it must be 1 or more")
    for split in (data.train, data.test):
        if split.data.shape[1] != split.data.shape[2]:
            raise ValueError(
                f"images are of shape {split.data.shape[1:]}: the crop needs square ones"
            )
    if loader == "device":
        log(
            "batches are made on the device from the constants of transform.py: an edit of its train_transforms has no "
            'effect here (loader="albumentations" makes it have one)'
        )
        common = dict(device=device, seed=seed, mean=data.mean, std=data.std, dtype=dtype)
        train_loader = DeviceLoader(data.train, batch_size, **common)
        return train_loader, DeviceLoader(data.test, TEST_BATCH, train=False, **common)
    if is_distributed():
        raise ValueError(
            f'loader is {loader!r}: several processes need "device"; without torchrun it goes on'
        )
    make = tf.albumentations_transforms if loader == "albumentations" else tf.torchvision_transforms
    for_train, for_test = make(data.mean, data.std, data.train.data.shape[1])
    common = dict(seed=seed, num_workers=workers, pin_memory=torch.device(device).type == "cuda")
    train_loader = SeededLoader(
        data.train.with_transform(for_train), batch_size=batch_size, shuffle=True, **common
    )
    return train_loader, SeededLoader(
        data.test.with_transform(for_test), batch_size=TEST_BATCH, **common
    )

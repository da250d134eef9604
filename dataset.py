"""Data sets and loaders: images in memory, and batches in an order that a seed decides.

data = load("auto")      # CIFAR-10 where it is or can be downloaded, else the built-in sample
data = load("photos/")   # a folder with train/<class>/* and test/<class>/*
train_loader, test_loader = loaders(data, batch_size=512, device=device, seed=0)

CifarDataset("data", train=True, transform=train_transforms, download=True)  # as in the course
UnNormalize(MEAN, STD)(tensor)                                               # back to [0, 1]
"""

import copy
import dataclasses
import hashlib
import itertools
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, get_worker_info

import transform
from transform import MEAN, SIZE, STD

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SOURCES = ("auto", "cifar10", "sample")
LOADERS = ("auto", "albumentations", "torchvision", "device")
TEST_BATCH = 1000  # images; without gradients there is memory for large batches


class ArrayDataset(Dataset):
    """Images in memory, with any transform.

    Args:
        images: (N, H, W, 3) uint8 array, kept as `data`.
        labels: N whole numbers, kept as `targets`, 0 … len(classes) - 1.
        classes: names of the classes.
        transform: albumentations and any other function get the (H, W, 3) uint8 array,
            torchvision's transforms a PIL image. None leaves the array as it is.

    Raises ValueError where shapes, types or labels do not fit.
    """

    seeded_with = None  # the seed of the worker that last seeded the transform

    def __init__(self, images, labels, classes, transform=None):
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images are {images.dtype} {images.shape}: give uint8 (N, H, W, 3)")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images have {labels.shape} labels: give one for each")
        wrong = np.flatnonzero(~np.isin(labels, np.arange(len(classes))))
        if len(wrong):
            label, last = labels[wrong[0]], len(classes) - 1
            raise ValueError(f"image {wrong[0]} has label {label}: give whole numbers 0 … {last}")
        self.data = images
        self.targets = labels.astype(np.int64)
        self.classes = tuple(classes)
        self.transform = transform

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        worker = get_worker_info()
        if worker is not None and worker.seed != self.seeded_with:
            self.seed_transform(worker.seed)
        image, label = self.data[index], int(self.targets[index])
        if hasattr(self.transform, "set_random_state"):  # albumentations
            image = self.transform(image=image)["image"]
        elif is_from_torchvision(self.transform):
            image = self.transform(transform.to_pil(image))
        elif self.transform is not None:
            image = self.transform(image)
        return image, label

    def seed_transform(self, seed):
        """Seed albumentations, which ignores the seeds that a DataLoader gives its workers.

        Otherwise all workers draw the same random numbers, and the same ones again in every epoch.
        """
        self.seeded_with = seed
        for each in transform.seedable(self.transform):
            each.set_random_state(np.random.default_rng(seed), random.Random(seed))

    def with_transform(self, transform):
        """The same images with another transform; the pixels are shared, not copied."""
        return ArrayDataset(self.data, self.targets, self.classes, transform)

    def balanced_subset(self, n):
        """The first images of each class, n in all, as evenly by class as they allow."""
        by_class = [np.flatnonzero(self.targets == label) for label in range(len(self.classes))]
        turns = itertools.zip_longest(*by_class)  # the first image of each class, the second, …
        in_turn = [index for turn in turns for index in turn if index is not None]
        chosen = sorted(in_turn[:n])
        return ArrayDataset(self.data[chosen], self.targets[chosen], self.classes, self.transform)


def is_from_torchvision(transform):
    """Whether it wants PIL images: torchvision's v2 transforms do nothing to arrays, silently."""
    if isinstance(transform, torch.nn.Sequential):
        return any(is_from_torchvision(step) for step in transform)
    kinds = [transform, *type(transform).__mro__]  # a function, an object, or one of a subclass
    return any(str(getattr(kind, "__module__", "")).startswith("torchvision.") for kind in kinds)


class CifarDataset(ArrayDataset):
    """CIFAR-10 from the official files, like torchvision's CIFAR10, for albumentations too.

    Args:
        root: folder that holds, or with download=True will hold, `cifar-10-batches-py`.
        train: the 50,000 training images, or the 10,000 test images.
        transform: see ArrayDataset.

    Raises DownloadError (extras/download.py) for missing or damaged files that cannot be fetched.
    """

    def __init__(self, root="data", train=True, transform=None, download=False):
        from extras.download import read_cifar10

        super().__init__(*read_cifar10(root, train, download), CLASSES, transform)


class UnNormalize:
    """Undo a normalisation with this mean and std: a new tensor of pixels in [0, 1]."""

    def __init__(self, mean=MEAN, std=STD):
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, tensor):
        """(C, H, W) or (N, C, H, W), on any device -> a new tensor of the same shape."""
        if tensor.ndim < 3 or tensor.shape[-3] != len(self.mean):
            raise ValueError(f"tensor is {tuple(tensor.shape)}: give (…, {len(self.mean)}, H, W)")
        pixels = tensor.float() * self.std.to(tensor.device) + self.mean.to(tensor.device)
        return pixels.clamp_(0, 1)


def normalise_images(images, mean=MEAN, std=STD):
    """(N, H, W, 3) uint8 array -> (N, 3, H, W) float32 tensor; `UnNormalize` undoes it."""
    mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
    return (torch.tensor(np.asarray(images)).permute(0, 3, 1, 2) / 255 - mean) / std


@dataclass
class Data:
    """A data set in memory: images without a transform, and the statistics to normalise with."""

    name: str  # for display: "CIFAR-10" (the official files alone), a folder's name, …
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
        """The loss of guessing: the entropy of the training labels, in nats; CIFAR-10: ln 10."""
        counts = np.bincount(self.train.targets)
        share = counts[counts > 0] / counts.sum()
        return float(-(share * np.log(share)).sum())

    @property
    def fingerprint(self):
        """A digest of every pixel and label, the same for the same images in the same order."""
        digest = hashlib.blake2b(digest_size=8)
        for split in (self.train, self.test):
            digest.update(np.ascontiguousarray(split.data))
            digest.update(split.targets)
        return digest.hexdigest()

    def limited(self, limit):
        """`limit` training and `limit` / 5 test images, balanced by class, always the same ones."""
        if limit is None or limit >= len(self.train):
            return self
        if limit < 10:
            raise ValueError(f"limit is {limit}: take 10 images or more")
        test = self.test.balanced_subset(limit // 5)
        untested = len(np.unique(self.test.targets)) - len(np.unique(test.targets))
        if untested:
            print(f"limit {limit} leaves {len(test)} test images: {untested} classes have none")
        train = self.train.balanced_subset(limit)
        return dataclasses.replace(self, train=train, test=test, limit=limit)


def load(source="auto", root="data", size=SIZE):
    """Load a data set into memory, and print what had to be adapted or replaced.

    Args:
        source: "cifar10", "sample", "auto" (CIFAR-10 where it is or can be downloaded, else the
            sample), or a folder: of CIFAR-10's official files or their archive, or with
            train/<class>/* and test/<class>/*.
        root: where CIFAR-10 is kept, and where decoded images are cached.
        size: side in pixels that a folder's images are brought to.

    Raises ValueError for a wrong folder or source, extras.download.DownloadError where "cifar10"
    cannot be downloaded.
    """
    from extras.download import ARCHIVE, DownloadError, fetch_cifar10, folder_of
    from extras.sample import SAMPLE_CLASSES, draw_sample

    if source not in SOURCES:
        folder = Path(os.path.abspath(Path(str(source)).expanduser()))  # "..", too, gets its name
        if not str(source) or not folder.is_dir():
            raise ValueError(f"data is {str(source)!r}: give a folder, or {', '.join(SOURCES)}")
        if folder_of(folder).is_dir():
            return load_cifar10(folder)
        if (folder / ARCHIVE).is_file():  # unpacked into root, since this folder may be read-only
            fetch_cifar10(root, folder / ARCHIVE)
            return load_cifar10(root)
        return load_folder(folder, root, size)
    if source != "sample":
        try:
            return load_cifar10(root)
        except DownloadError as error:
            if source == "cifar10":
                raise
            print(f"{error}\nThe run goes on with the built-in sample instead of CIFAR-10.")
    train = ArrayDataset(*draw_sample(train=True), SAMPLE_CLASSES)
    test = ArrayDataset(*draw_sample(train=False), SAMPLE_CLASSES)
    return Data("sample data, not CIFAR-10", train, test, *statistics(train.data), kind="sample")


def load_cifar10(root):
    train, test = (CifarDataset(root, is_train, download=True) for is_train in (True, False))
    return Data("CIFAR-10", train, test, kind="cifar10")


def load_folder(folder, root, size):
    """A folder of images, with CIFAR-10's mean and std where it has the same classes."""
    from extras.folder import read_folder

    found = read_folder(folder, size=size, cache_dir=Path(root) / "cache")
    for note in found.notes:
        print(f"{folder.name}: {note}")
    train, test = (ArrayDataset(*split, found.classes) for split in (found.train, found.test))
    mean, std = (MEAN, STD) if found.classes == CLASSES else statistics(train.data)
    # the name "CIFAR-10" belongs to the official files
    name = f"{folder.name}, a folder" if folder.name == "CIFAR-10" else folder.name
    return Data(name, train, test, mean, std)


def statistics(images):
    """Mean and standard deviation of (N, H, W, 3) uint8 images by channel, for pixels in [0, 1]."""
    # how often each level occurs, 100 images at a time: bincount takes 8 bytes for each pixel
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(images), 100):
        part = images[start : start + 100]
        for channel in range(3):
            counts[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
    share, level = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = share @ level
    std = np.sqrt(np.maximum(share @ level**2 - mean**2, 0)).round(4)
    if (std == 0).any():
        raise ValueError(f"the images have standard deviation {std}: give images with contrast")
    return tuple(mean.round(4).tolist()), tuple(std.tolist())


def epoch_seed(seed, epoch):
    """One seed for each (seed, epoch): the sum of both would be the same for (0, 1) and (1, 0)."""
    return (seed * 1_000_003 + epoch) % 2**63


class SeededLoader(DataLoader):
    """A DataLoader whose order and augmentation are a function of (seed, epoch, workers).

    Each pass is the next epoch. PyTorch seeds `random`, NumPy and itself in its workers; without
    workers, iterating seeds all three here. The draws depend on the number of workers, since each
    worker draws for its own batches. (Persistent workers would not be seeded in the next epoch.)
    """

    def __init__(self, dataset, *, seed=0, **arguments):
        self.seed = seed
        self.epoch = 0
        super().__init__(dataset, generator=torch.Generator(), **arguments)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        start = epoch_seed(self.seed, self.epoch)
        self.epoch += 1  # until `set_epoch` says otherwise
        self.generator.manual_seed(start)  # decides the order and the seeds of the workers
        if self.num_workers == 0:
            random.seed(start)
            np.random.seed(start % 2**32)
            torch.manual_seed(start)
            dataset = self.dataset
            while hasattr(dataset, "dataset"):  # of a Subset
                dataset = dataset.dataset
            if hasattr(dataset, "seed_transform"):
                dataset.seed_transform(start)
        return explain_shared_memory(super().__iter__())


def explain_shared_memory(batches):
    """Pass batches on; where a worker dies or cannot hand one over, an OSError says what to try."""
    try:
        yield from batches
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("shared memory", "</torch_", "worker (pid")):
            raise
        raise OSError(
            f"{str(error).strip().splitlines()[-1]}: is shared memory short, as in Docker? "
            'Take workers=0 (--workers 0), loader="device" (--loader device), or more --shm-size'
        ) from None


class DeviceLoader:
    """Batches made on the device, where all images lie as uint8.

    CIFAR-10's training images take 0.5 GB, mirror images included. The random choices of an epoch
    are one table, drawn on the CPU from (seed, epoch): the same on every device. Under torchrun
    each process takes its rows of every training batch, and all of the test images.

    Args:
        dataset: has `data` (N, H, W, 3) uint8, square, and `targets`.
        batch_size: images in a batch; the last batch holds what is left.
        train: shuffle, crop, flip and cut out; False: normalise only.
        normalisation: mean, std, and the batches' dtype, see `transform.normaliser`.

    Raises ValueError where the processes cannot share a batch equally.
    """

    def __init__(self, dataset, batch_size, device="cpu", *, train=True, seed=0, **normalisation):
        self.n, self.size = dataset.data.shape[:2]
        self.batch_size = batch_size
        self.device = device
        self.train = train
        self.seed = seed
        self.epoch = 0
        self.rank, self.world_size = 0, 1
        if train and is_distributed():
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
            check_shares(self.n, batch_size, self.world_size)
        images = torch.from_numpy(dataset.data).to(device)
        self.images = transform.crop_windows(images) if train else images.flatten(2)
        self.labels = torch.as_tensor(dataset.targets).to(device)
        self.factors = transform.normaliser(self.size, device=device, **normalisation)

    def __len__(self):
        return -(-self.n // self.batch_size)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def whole(self):
        """The same loader for one process alone, with all rows of a batch; images are shared."""
        loader = copy.copy(self)
        loader.rank, loader.world_size = 0, 1
        return loader

    def __iter__(self):
        """Yields (images (B, 3, H, W), labels (B,))."""
        if not self.train:
            parts = (part.split(self.batch_size) for part in (self.images, self.labels))
            for images, labels in zip(*parts, strict=True):
                yield transform.normalise(images, *self.factors), labels
            return
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
        self.epoch += 1  # until `set_epoch` says otherwise
        # one tensor (6, N): one copy to the device an epoch, one look-up a batch
        table = torch.stack(transform.draw_epoch(self.n, generator, self.size)).to(self.device)
        for batch in table[0].split(self.batch_size):  # numbers of images, in the epoch's order
            mine = batch.tensor_split(self.world_size)[self.rank]
            draws = transform.Draws(mine, *table[1:, mine])  # an image's draws, whatever its place
            yield transform.augment(self.images, draws, *self.factors), self.labels[mine]


def is_distributed():
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_shares(n, batch_size, processes):
    """Refuse a batch size that processes cannot share equally; say where the last batch differs."""

    def fits(size):
        return size % processes == 0 and not 0 < n % size < processes

    if not fits(batch_size):
        larger = range(batch_size + 1, max(n, batch_size) + processes + 1)
        take = next(filter(fits, larger), "fewer processes")
        raise ValueError(f"{processes} processes cannot share batches of {batch_size}: take {take}")
    if n % batch_size % processes:
        print(f"{processes} processes share a last batch of {n % batch_size}: not quite equally")


def choose_loader(loader, device):
    """What "auto" means: "device" on an accelerator and under torchrun, else albumentations."""
    if loader not in LOADERS:
        raise ValueError(f"loader is {loader!r}: choose one of {', '.join(LOADERS)}")
    if loader != "auto":
        return loader
    return "device" if torch.device(device).type != "cpu" or is_distributed() else "albumentations"


def loaders(
    data, batch_size=512, *, loader="auto", device="cpu", seed=0, workers=2, dtype=torch.float32
):
    """The training and the test loader. Raises ValueError where a value makes no sense.

    Args:
        loader: "albumentations" or "torchvision" (image by image, in worker processes), "device"
            (whole batches on the device, see `DeviceLoader`), or "auto" (see `choose_loader`).
        device: where the network is.
        seed: of order and augmentation.
        workers: processes that prepare training images, where it is not "device".
        dtype: of the batches of "device".
    """
    loader = choose_loader(loader, device)
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}: it must be 1 or more")
    for split in (data.train, data.test):
        height, width = split.data.shape[1:3]
        if height != width or width <= transform.HOLE:
            raise ValueError(f"images are {height}x{width}: give square ones, larger than the hole")
    if loader == "device":
        print('batches are made on the device: edited transforms need loader="albumentations"')
        options = dict(seed=seed, mean=data.mean, std=data.std, dtype=dtype)
        train_loader = DeviceLoader(data.train, batch_size, device, **options)
        return train_loader, test_loader(data, device, dtype=dtype)
    if is_distributed():
        raise ValueError(f'loader is {loader!r}: several processes need loader="device"')

    make = getattr(transform, f"{loader}_transforms")
    for_train, for_test = make(data.mean, data.std, data.train.data.shape[1])
    train, test = data.train.with_transform(for_train), data.test.with_transform(for_test)
    pin = dict(pin_memory=torch.device(device).type == "cuda")
    options = dict(batch_size=batch_size, shuffle=True, num_workers=workers)
    train_loader = SeededLoader(train, seed=seed, **options, **pin)
    # no workers, since it only normalises; its own generator, or it would move the global one
    return train_loader, DataLoader(test, TEST_BATCH, generator=torch.Generator(), **pin)


def test_loader(data, device="cpu", *, dtype=torch.float32):
    """The test images in their order, normalised on the device: a DeviceLoader."""
    options = dict(mean=data.mean, std=data.std, dtype=dtype)
    return DeviceLoader(data.test, TEST_BATCH, device, train=False, **options)

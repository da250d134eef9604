"""In which order and batches do the pictures come?

    train_loader, test_loader = make_loaders(data, "albumentations", batch_size=512, seed=0)
    for epoch in range(1, 25):
        train_loader.set_epoch(epoch)          # order and augmentation are a function of (seed, epoch)
        for pictures, labels in train_loader:  # (B, 3, 32, 32) float32, (B,) int64
            ...

Three loaders do the same work: "albumentations" and "torchvision" prepare picture by picture in worker processes, as
every PyTorch program does; "device" keeps all pictures on the device and prepares a batch with a few tensor operations.
`DeviceLoader` is usable alone, with any model.
"""

import numpy as np
import torch
from torch.utils.data import DataLoader

import distributed
from transform import (
    MEAN,
    STD,
    albumentations_transforms,
    augment,
    crop_windows,
    draw_epoch,
    normalise,
    normaliser,
    torchvision_transforms,
)

LOADERS = ("albumentations", "torchvision", "device")
TEST_BATCH = 1000  # pictures; without gradients there is room for large batches


def stream(*numbers):
    """Mix (seed, epoch, …) into one 63-bit seed, so that no two of them share a stream."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class SeededLoader(DataLoader):
    """A DataLoader whose order and augmentation are a function of (seed, epoch, worker), so a run can be resumed.

    Arguments are DataLoader's, and `seed`. Call `set_epoch` before each epoch. Without workers, iterating seeds
    PyTorch's global generator, which torchvision's transforms draw from; workers have generators of their own.
    """

    def __init__(self, dataset, *, seed=0, **arguments):
        self.seed, self.epoch = seed, 0
        super().__init__(dataset, generator=torch.Generator(), **arguments)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        start = stream(self.seed, self.epoch)
        self.generator.manual_seed(start)  # DataLoader draws the order and the workers' seeds from it
        if self.num_workers == 0:
            torch.manual_seed(start)
            if hasattr(self.dataset, "seed_transform"):  # as `dataset.ArrayDataset` has
                self.dataset.seed_transform(start)
        return super().__iter__()


class DeviceLoader:
    """Batches made on the device, where the whole data set lives as uint8 (CIFAR-10: 0.5 GB with mirror images).

    An epoch's random choices are one table, drawn on the CPU from (seed, epoch): the same on every device. Of several
    processes (torchrun) each takes its rows of every batch, and its share of the test pictures.

    Args:
        dataset: has `data` (N, H, W, 3) uint8, square, and `targets`.
        batch_size: pictures a batch; the last one holds what is left.
        device: where the pictures live.
        train: shuffle, crop, flip and cut out; otherwise only normalise.
        seed, mean, std: as for the transforms.
        dtype: of the batches, e.g. torch.bfloat16 where the network computes in it.
    """

    def __init__(
        self, dataset, batch_size, device="cpu", *, train=True, seed=0, mean=MEAN, std=STD, dtype=torch.float32
    ):
        if batch_size < 1:
            raise ValueError(f"batch size is {batch_size}: it must be 1 or more")
        if dataset.data.shape[1] != dataset.data.shape[2]:
            raise ValueError(f"pictures are of shape {dataset.data.shape[1:]}: the device loader takes square ones")
        pictures = torch.from_numpy(dataset.data).to(device)
        self.size = pictures.shape[1]
        self.dataset, self.batch_size, self.device = dataset, batch_size, device
        self.train, self.seed, self.epoch = train, seed, 0
        self.labels = torch.as_tensor(dataset.targets).to(device)
        self.pictures = crop_windows(pictures, mean) if train else pictures.flatten(2)
        self.factors = normaliser(self.size, mean, std, device, dtype)

    def __len__(self):
        return -(-len(self.dataset) // self.batch_size)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        """Yields (pictures (B, 3, H, W) in channels-last format, labels (B,))."""
        if not self.train:
            mine = distributed.share(len(self.dataset))
            batches = (part[mine].split(self.batch_size) for part in (self.pictures, self.labels))
            for pictures, labels in zip(*batches, strict=True):
                yield normalise(pictures, *self.factors), labels
            return
        generator = torch.Generator().manual_seed(stream(self.seed, self.epoch))
        draws = draw_epoch(len(self.dataset), generator, self.size).to(self.device)
        for batch in draws.order.split(self.batch_size):
            chosen = batch[distributed.share(len(batch))]
            yield augment(self.pictures, draws.of(chosen), *self.factors), self.labels[chosen]


def make_loaders(
    data, loader="albumentations", batch_size=512, *, seed=0, device="cpu", workers=2, dtype=torch.float32
):
    """The training and the test loader of a run.

    Args:
        data: a `dataset.Data`.
        loader: "albumentations", "torchvision" or "device".
        batch_size: pictures a training step.
        seed: of order and augmentation.
        device: where the network is; batches of the CPU loaders wait in pinned memory for CUDA.
        workers: processes that prepare pictures (CPU loaders).
        dtype: of the batches of the device loader.
    """
    if loader not in LOADERS:
        raise ValueError(f"loader is {loader!r}: choose one of {', '.join(LOADERS)}")
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}: it must be 1 or more")
    if loader != "device" and distributed.size() > 1:
        raise ValueError(f'loader is {loader!r}: several processes share one table of draws, so give "device"')
    if loader == "device":
        distributed.check_shares(batch_size, len(data.train), len(data.test))
        common = dict(mean=data.mean, std=data.std, seed=seed, dtype=dtype)
        train = DeviceLoader(data.train, batch_size, device, **common)
        return train, DeviceLoader(data.test, TEST_BATCH, device, train=False, **common)
    transforms = albumentations_transforms if loader == "albumentations" else torchvision_transforms
    for_train, for_test = transforms(data.mean, data.std, data.train.data.shape[1])
    common = dict(seed=seed, num_workers=workers, pin_memory=torch.device(device).type == "cuda")
    train = SeededLoader(data.train.with_transform(for_train), batch_size=batch_size, shuffle=True, **common)
    return train, SeededLoader(data.test.with_transform(for_test), batch_size=TEST_BATCH, **common)

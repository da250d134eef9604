"""Is order and augmentation a function of (seed, epoch), and is every picture there once?"""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from decoding import decode, ruled
from torch import nn
from torch.utils.data import DataLoader

from dataset import ArrayDataset, CifarDataset, Data
from loader import LOADERS, DeviceLoader, SeededLoader, make_loaders, stream
from lr_finder import Batches, find_lr
from transform import MEAN, STD, albumentations_transforms, torchvision_transforms, train_transforms

N, BATCH = 50, 16
EVERY = [("albumentations", 0), ("albumentations", 2), ("torchvision", 0), ("torchvision", 2), ("device", 0)]
NAMES = tuple(f"class {i}" for i in range(N))


@pytest.fixture(scope="module")
def data():
    """The `ruled` picture 50 times, to decode; its label says which one it is. The test pictures are noise."""
    same = np.broadcast_to(ruled(), (N, 32, 32, 3)).copy()
    noise = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
    return Data("fake", ArrayDataset(same, range(N), NAMES), ArrayDataset(noise, range(N), NAMES))


def epoch_of(loader, epoch):
    """One epoch of a training loader: (pictures, labels), joined."""
    loader.set_epoch(epoch)
    pictures, labels = zip(*loader, strict=True)
    return torch.cat(pictures), torch.cat(labels)


def scramble():
    """What a notebook may do to the global generators between two runs."""
    random.seed(99), np.random.seed(99), torch.manual_seed(99)


@pytest.mark.parametrize(("kind", "workers"), EVERY)
def test_an_epoch_is_a_function_of_seed_and_epoch(data, kind, workers):
    def make(seed):
        return make_loaders(data, kind, BATCH, seed=seed, workers=workers)[0]

    straight = make(seed=3)
    first, second = epoch_of(straight, 1), epoch_of(straight, 2)
    scramble()
    resumed = epoch_of(make(seed=3), 2)  # as after a cut, in a new process
    other = epoch_of(make(seed=4), 2)

    assert torch.equal(second[0], resumed[0]) and torch.equal(second[1], resumed[1])
    for pictures, labels in (first, other):
        assert not torch.equal(labels, second[1])  # another order
        drawn, of_second = decode(pictures), decode(second[0])
        assert (drawn == of_second).all(axis=1).mean() < 0.1  # and other draws, place by place
    assert len(np.unique(decode(second[0]), axis=0)) >= N - 1  # two pictures of one epoch differ too


@pytest.mark.parametrize(("kind", "workers"), EVERY)
def test_every_picture_comes_once_an_epoch(data, kind, workers):
    loader, _ = make_loaders(data, kind, BATCH, workers=workers)
    assert len(loader) == 4
    sizes, seen = [], []
    for pictures, labels in loader:
        assert pictures.shape == (len(labels), 3, 32, 32) and pictures.dtype == torch.float32
        assert labels.dtype == torch.int64
        sizes.append(len(labels))
        seen += labels.tolist()
    assert sizes == [16, 16, 16, 2]
    assert sorted(seen) == list(range(N)) != seen


@pytest.fixture(scope="module")
def fifty_thousand():
    tiny = np.zeros((50_000, 8, 8, 3), np.uint8)
    return Data("fake", ArrayDataset(tiny, np.zeros(50_000), NAMES), ArrayDataset(tiny[:20], np.zeros(20), NAMES))


@pytest.mark.parametrize("kind", ["albumentations", "torchvision"])
def test_50_000_pictures_are_98_steps_for_the_cpu_loaders(fifty_thousand, kind):
    loader, _ = make_loaders(fifty_thousand, kind, 512)
    assert len(loader) == 98
    assert [len(batch) for batch in loader.batch_sampler] == [512] * 97 + [336]


def test_50_000_pictures_are_98_steps_for_the_device_loader(fifty_thousand):
    loader, _ = make_loaders(fifty_thousand, "device", 512)
    assert len(loader) == 98
    assert [len(labels) for _, labels in loader] == [512] * 97 + [336]


def test_test_loaders_give_all_pictures_in_order_and_only_normalised(data):
    reference = ((data.test.data / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    for kind in LOADERS:
        _, loader = make_loaders(data, kind, BATCH, workers=0)
        for _ in range(2):
            pictures, labels = zip(*loader, strict=True)
            assert torch.cat(labels).tolist() == list(range(N))
            assert torch.cat(pictures).dtype == torch.float32
            np.testing.assert_allclose(torch.cat(pictures).numpy(), reference, atol=1e-6, rtol=0)


def test_test_loaders_take_large_batches(fifty_thousand):
    many = Data("fake", fifty_thousand.test, fifty_thousand.train.first(2500))
    for kind in LOADERS:
        _, loader = make_loaders(many, kind, 4)
        assert len(loader) == 3


@pytest.mark.parametrize("kind", LOADERS)
def test_the_statistics_of_the_data_are_used(data, kind):
    own = Data("fake", data.train, data.test, mean=(0.2, 0.5, 0.6), std=(0.5, 0.4, 0.3))
    loader, test_loader = make_loaders(own, kind, N, workers=0)
    (pictures, _), (test_pictures, _) = next(iter(loader)), next(iter(test_loader))
    assert decode(pictures, own.mean, own.std).shape == (N, 5)
    reference = ((data.test.data / 255 - own.mean) / own.std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(test_pictures.numpy(), reference, atol=1e-6, rtol=0)


def two_epochs(loader, batch_size):
    """What each of two workers drew in each of two epochs: four lists of draws. Worker w has every batch 2k + w."""
    epochs = []
    for epoch in (1, 2):
        if isinstance(loader, SeededLoader):
            loader.set_epoch(epoch)
        epochs.append(decode(torch.cat([pictures for pictures, _ in loader])))
    worker = np.arange(len(epochs[0])) // batch_size % 2
    return [[tuple(row) for row in draws[worker == w]] for draws in epochs for w in (0, 1)]


def fake_dataset(kind, fake_cifar, transform):
    if kind == "CifarDataset":
        dataset = CifarDataset(fake_cifar[0], transform=transform)
        dataset.data[:] = ruled()
        return dataset
    return ArrayDataset(np.broadcast_to(ruled(), (96, 32, 32, 3)).copy(), np.zeros(96), NAMES, transform)


@pytest.mark.parametrize("loader", [DataLoader, SeededLoader])
@pytest.mark.parametrize(
    ("dataset", "transforms"),
    [
        ("ArrayDataset", albumentations_transforms),
        ("ArrayDataset", torchvision_transforms),
        ("CifarDataset", albumentations_transforms),
    ],
)
def test_no_two_workers_and_no_two_epochs_draw_the_same(fake_cifar, loader, dataset, transforms):
    """albumentations 2 alone: both workers draw one stream, and start it again in every epoch."""
    pictures = fake_dataset(dataset, fake_cifar, transforms()[0])
    streams = two_epochs(loader(pictures, batch_size=8, num_workers=2), batch_size=8)
    everything = [draws for stream in streams for draws in stream]
    assert len(everything) >= 192
    assert len(set(everything)) >= len(everything) - 3  # of 101,250 possible ones: chance alone repeats one or none
    for one in range(4):
        for other in range(one):
            assert sum(a == b for a, b in zip(streams[one], streams[other], strict=False)) <= 1


def test_workers_that_stay_go_on_drawing(fake_cifar):
    pictures = fake_dataset("ArrayDataset", fake_cifar, train_transforms)
    streams = two_epochs(DataLoader(pictures, batch_size=8, num_workers=2, persistent_workers=True), batch_size=8)
    assert len({draws for stream in streams for draws in stream}) >= 2 * len(pictures) - 3


def test_streams_differ_for_all_neighbouring_seeds_and_epochs():
    starts = {stream(seed, epoch) for seed in range(30) for epoch in range(30)}
    assert len(starts) == 900 and min(starts) >= 0 and max(starts) < 2**63


def test_a_seeded_loader_takes_other_data_sets():
    """As a DataLoader does; what the data set draws itself is then its own affair."""
    numbers = torch.utils.data.TensorDataset(torch.arange(10))
    loader = SeededLoader(numbers, seed=1, batch_size=4, shuffle=True)
    loader.set_epoch(1)
    first = [batch.tolist() for (batch,) in loader]
    scramble()
    assert [batch.tolist() for (batch,) in loader] == first
    loader.set_epoch(2)
    assert [batch.tolist() for (batch,) in loader] != first


def test_the_device_loader_is_usable_alone(fake_cifar):
    dataset = CifarDataset(fake_cifar[0])  # any data set with `data` and `targets`
    loader = DeviceLoader(dataset, 32, seed=5, dtype=torch.bfloat16)
    assert len(loader) == 4 and loader.dataset is dataset
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [32, 32, 32, 4]
    assert batches[0][0].dtype == torch.bfloat16
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches)
    labels = torch.cat([labels for _, labels in batches])
    assert labels.sort().values.tolist() == sorted(dataset.targets)

    plain = DeviceLoader(dataset, 100, train=False)
    pictures, labels = next(iter(plain))
    assert labels.tolist() == dataset.targets
    assert pictures.is_contiguous(memory_format=torch.channels_last)


def test_the_device_loader_draws_by_picture_not_by_batch(data):
    small, large = (epoch_of(DeviceLoader(data.train, size, seed=1), 3) for size in (7, 50))
    assert torch.equal(small[0], large[0]) and torch.equal(small[1], large[1])


def test_what_is_done_to_a_batch_does_not_reach_the_next_epoch(data):
    for train in (True, False):
        loader = DeviceLoader(data.test, BATCH, train=train)
        before = torch.cat([pictures.clone() for pictures, _ in loader])
        for pictures, labels in loader:
            pictures.zero_()
            if train:  # there labels are a copy as well
                labels.zero_()
        assert torch.equal(torch.cat([pictures for pictures, _ in loader]), before)
    assert data.test.targets.tolist() == list(range(N))


def test_iterating_the_device_loader_leaves_the_global_generator_alone(data):
    before = torch.get_rng_state()
    list(DeviceLoader(data.train, BATCH))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_loader_is_refused(data):
    with pytest.raises(ValueError, match="loader is 'gpu': choose one of albumentations, torchvision, device"):
        make_loaders(data, "gpu")


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_impossible_batch_size_is_refused(data, kind, batch_size):
    with pytest.raises(ValueError, match=f"batch size is {batch_size}"):
        make_loaders(data, kind, batch_size)


def test_the_range_test_takes_the_device_loader(data):
    loader = DeviceLoader(data.test, BATCH)
    loader.set_epoch(0)
    once = [labels for _, labels in loader]
    got = [labels for _, labels in islice(iter(Batches(loader)), 6)]  # longer than an epoch: begun again
    assert all(torch.equal(*pair) for pair in zip(got, once + once[:2], strict=True))

    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, N))
    optimizer = torch.optim.Adam(model.parameters())
    found = find_lr(model, torch.device("cpu"), loader, optimizer, nn.CrossEntropyLoss(), iterations=30)
    assert len(found.losses) == 30 and 1e-6 < found.lr_max < 1 and found.lr_min == found.lr_max / 100

"""The right images come from every source, and batches are a function of (seed, epoch)."""

import random
from itertools import product
from unittest.mock import Mock

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

import dataset
import transform as tf
from dataset import (
    CLASSES,
    ArrayDataset,
    CifarDataset,
    Data,
    DeviceLoader,
    SeededLoader,
    UnNormalize,
    load,
    loaders,
)
from extras import download
from transform import MEAN, STD

N, BATCH = 50, 16
EVERY = [
    ("albumentations", 0),
    ("albumentations", 2),
    ("torchvision", 0),
    ("torchvision", 2),
    ("device", 0),
]
NAMES = tuple(f"class {i}" for i in range(N))


def noise(n, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("mean", "std"), [(MEAN, STD), ((0.1, 0.5, 0.9), (0.3, 0.02, 0.5)), ((0, 0, 0), (1, 1, 1))]
)
def test_unnormalize_undoes_a_normalisation_in_a_new_tensor_and_refuses_other_channels(mean, std):
    batch, exact = (
        dataset.normalise_images(noise(4), mean, std),
        (noise(4) / 255).transpose(0, 3, 1, 2),
    )
    before = batch.clone()
    for given, right in ((batch, exact), (batch[0], exact[0])):
        undone = UnNormalize(mean, std)(given)
        np.testing.assert_allclose(undone.numpy(), right, atol=1e-6, rtol=0)
        undone.zero_()
    assert torch.equal(batch, before)
    far = UnNormalize()(torch.tensor([-90, 0, 90], dtype=torch.bfloat16).view(3, 1, 1))
    assert (far.min(), far.max(), far.dtype) == (0, 1, torch.float32)
    for shape in [(1, 32, 32), (32, 32, 3), (8, 4, 32, 32), (3, 32), (3,)]:
        with pytest.raises(ValueError, match=r"tensor has shape .*: give \(3, H, W\)"):
            UnNormalize()(torch.zeros(shape))


def test_statistics_are_those_of_numpy_and_a_channel_without_contrast_is_refused():
    images = noise(50, 8) // np.array([1, 2, 5], np.uint8)
    mean, std = dataset.statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=5.1e-5, rtol=0)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=5.1e-5, rtol=0)
    images[..., 1] = 77
    with pytest.raises(ValueError, match="the same everywhere"):
        dataset.statistics(images)


def test_array_dataset_takes_any_transform_or_none():
    images = noise(3)
    plain = ArrayDataset(images, [0, 1, 1], ("a", "b"))
    np.testing.assert_array_equal(plain[2][0], images[2])
    assert plain[2][1] == 1 and type(plain[2][1]) is int and len(plain) == 3
    for transform in (tf.test_transforms, T.ToTensor(), lambda image: torch.zeros(3, 32, 32)):
        changed = plain.with_transform(transform)
        assert (
            changed[0][0].shape == (3, 32, 32)
            and changed.data is plain.data
            and plain.transform is None
        )
    np.testing.assert_array_equal(
        plain.with_transform(A.HorizontalFlip(p=1))[1][0], images[1][:, ::-1]
    )


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (noise(3), [0, 2, 1], "image 1 has label 2: with 2 classes, labels go from 0 to 1"),
        (noise(3), [0, 1], r"3 images have labels of shape \(2,\)"),
        (noise(3), [0, 0.5, 1], "give one whole number for each"),
        (noise(3) / 255, [0, 1, 1], r"images are float64 of shape \(3, 32, 32, 3\): give uint8"),
        (noise(3).transpose(0, 3, 1, 2), [0, 1, 1], r"images are uint8 of shape \(3, 3, 32, 32\)"),
    ],
)
def test_array_dataset_refuses_what_does_not_fit(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(images, labels, ("a", "b"))


def test_the_first_images_are_balanced_and_always_the_same():
    labels = np.random.default_rng(4).permutation(np.repeat(np.arange(10), 30))
    whole = ArrayDataset(noise(300, 4), labels, CLASSES, tf.test_transforms)
    where = {image.tobytes(): i for i, image in enumerate(whole.data)}
    for n in (7, 10, 55, 120, 299):
        some = whole.first(n)
        assert len(some) == n and some.classes == CLASSES and some.transform is tf.test_transforms
        assert np.ptp(np.bincount(some.targets, minlength=10)) <= 1
        chosen = [where[image.tobytes()] for image in some.data]
        assert chosen == sorted(chosen) and some.targets.tolist() == labels[chosen].tolist()


def test_cifar_dataset_reads_the_official_files_and_refuses_missing_and_damaged_ones(
    fake_cifar, tmp_path
):
    root, splits = fake_cifar
    for train, (images, labels) in ((True, splits["train"]), (False, splits["test"])):
        for found in (
            CifarDataset(root, train),
            CifarDataset(root, train, tf.train_transforms, download=True),
        ):
            np.testing.assert_array_equal(found.data, images)
            assert found.targets.tolist() == labels.tolist() and found.classes == CLASSES
        assert found[7][0].shape == (3, 32, 32) and found[7][1] == labels[7]
    batch = root / download.FOLDER / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1] + b"!")
    for wrong in (tmp_path / "nothing here", root):
        with pytest.raises(RuntimeError, match="is missing or damaged: use download=True"):
            CifarDataset(wrong)


@pytest.fixture
def small():
    return Data(
        "small", *(ArrayDataset(noise(n, 4, seed=n), np.arange(n) % 10, CLASSES) for n in (200, 60))
    )


def test_a_limit_takes_n_training_and_a_fifth_as_many_test_images(small):
    limited = small.limited(100)
    assert (len(limited.train), len(limited.test), limited.limit, limited.name) == (
        100,
        20,
        100,
        "small",
    )
    assert np.bincount(limited.test.targets).tolist() == [2] * 10
    assert limited.fingerprint == small.limited(100).fingerprint != small.fingerprint
    assert small.limited(None) is small and small.limited(200) is small and small.limit is None
    with pytest.raises(ValueError, match="limit is 9: take 10 images or more"):
        small.limited(9)


def test_the_fingerprint_depends_on_every_pixel_label_and_place(small):
    seen = {small.fingerprint}
    for split in (small.train, small.test):
        for array, place in ((split.data, (7, 3, 2, 1)), (split.targets, 5)):
            array[place] ^= 1
            seen.add(small.fingerprint)
    turned = ArrayDataset(small.train.data[::-1], small.train.targets[::-1], CLASSES)
    seen |= {
        Data("swapped", small.test, small.train).fingerprint,
        Data("turned", turned, small.test).fingerprint,
    }
    assert len(seen) == 7


def test_the_official_files_are_found_in_the_root_and_in_a_folder(fake_cifar, tmp_path):
    root, splits = fake_cifar
    right = Data(
        "CIFAR-10", *(ArrayDataset(*split, CLASSES) for split in (splits["train"], splits["test"]))
    )
    for found in (load("cifar10", root), load("auto", root), load(root, tmp_path / "else")):
        assert (found.name, found.kind, found.classes, found.mean) == (
            "CIFAR-10",
            "cifar10",
            CLASSES,
            MEAN,
        )
        assert found.fingerprint == right.fingerprint


def test_auto_falls_back_to_the_sample_and_says_so_but_cifar10_does_not(monkeypatch, tmp_path):
    monkeypatch.setattr(
        download,
        "fetch_cifar10",
        Mock(side_effect=download.DownloadError("host.example is silent")),
    )
    said = []
    with pytest.raises(download.DownloadError, match="host.example"):
        load("cifar10", tmp_path, log=said.append)
    sample = load("auto", tmp_path, log=said.append)
    assert (
        len(said) == 1
        and "host.example" in said[0]
        and "CIFAR-10 cannot be had" in said[0]
        and "sample" in said[0]
    )
    assert (sample.name, sample.kind) == ("sample data, not CIFAR-10", "sample")
    assert (sample.mean, sample.std) == dataset.statistics(sample.train.data)
    assert load("sample").fingerprint == sample.fingerprint


@pytest.mark.parametrize("name", ["cifar100", "CIFAR10", "no/such/folder", "", 2024])
def test_an_unknown_source_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=f"data is '{name}': give one of auto, cifar10, sample, or a folder"
    ):
        load(name)


def write_folder(root, classes, size=32):
    """train/<class>/ and test/<class>/ with one image each."""
    for seed, (split, name) in enumerate(product(("train", "test"), classes)):
        place = root / split / name
        place.mkdir(parents=True)
        Image.fromarray(noise(1, size, seed)[0]).save(place / "1.png")
    return root


@pytest.mark.parametrize(
    ("folder", "name"), [("images", "images"), ("CIFAR-10", "CIFAR-10, a folder")]
)
def test_a_folder_with_the_classes_of_cifar10_is_not_called_cifar10(tmp_path, folder, name):
    found = load(write_folder(tmp_path / folder, CLASSES), tmp_path)
    assert (found.name, found.kind, found.classes, found.mean) == (name, "folder", CLASSES, MEAN)


def test_a_folder_of_other_classes_has_its_own_name_and_statistics(tmp_path, monkeypatch):
    place, said = write_folder(tmp_path / "2024", ("oak", "ash", "elm"), size=48), []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for source in (place, "~/2024", "2024/train/..", 2024):
        found = load(source, tmp_path, size=24, log=said.append)
        assert (found.name, found.classes) == ("2024", ("ash", "elm", "oak"))
    assert found.train.data.shape == found.test.data.shape == (3, 24, 24, 3)
    assert (found.mean, found.std) == dataset.statistics(found.train.data) != (MEAN, STD)
    assert "24x24" in said[0]  # that they were made smaller


@pytest.fixture(scope="module")
def data():
    """One image 50 times, so that two results differ only where the draws do; the label says which
    one it is.
    """
    same = np.broadcast_to(noise(1), (N, 32, 32, 3)).copy()
    return Data(
        "fake", ArrayDataset(same, range(N), NAMES), ArrayDataset(noise(N), range(N), NAMES)
    )


def epoch_of(loader, epoch):
    """One epoch of a training loader: (images, labels), joined."""
    loader.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize(("kind", "workers"), EVERY)
def test_an_epoch_is_a_function_of_seed_and_epoch(data, kind, workers):
    def make(seed):
        return loaders(data, BATCH, loader=kind, seed=seed, workers=workers, log=Mock())[0]

    straight = make(seed=3)
    first, second = epoch_of(straight, 1), epoch_of(straight, 2)
    (
        random.seed(99),
        np.random.seed(99),
        torch.manual_seed(99),
    )  # what a notebook may do between two runs
    resumed, other = epoch_of(make(seed=3), 2), epoch_of(make(seed=4), 2)
    assert torch.equal(second[0], resumed[0]) and torch.equal(second[1], resumed[1])
    for images, labels in (first, other):
        assert not torch.equal(labels, second[1])  # another order
        different = torch.cat([images, second[0]]).unique(dim=0)
        assert len(different) >= 2 * N - 3  # and other draws, of 101,250 possible ones
    assert len(straight) == 4 and sorted(second[1].tolist()) == list(range(N)) != second[1].tolist()
    assert [len(labels) for _, labels in straight] == [16, 16, 16, 2]  # no image is dropped


@pytest.mark.parametrize("workers", [0, 2])
def test_transforms_that_draw_from_random_and_numpy_are_seeded(data, workers):
    transform = lambda image: torch.tensor([random.random(), np.random.rand(), torch.rand(())])  # noqa: E731
    loader = SeededLoader(
        data.train.with_transform(transform), seed=3, num_workers=workers, batch_size=BATCH
    )
    first, second, again = epoch_of(loader, 1)[0], epoch_of(loader, 2)[0], epoch_of(loader, 1)[0]
    assert (
        torch.equal(first, again)
        and not (first == second).any()
        and len(torch.unique(first)) == 3 * N
    )
    with pytest.raises(
        ValueError, match="persistent_workers is True"
    ):  # they would go on with old random numbers
        SeededLoader(data.train, num_workers=2, persistent_workers=True)


@pytest.mark.parametrize("kind", dataset.LOADERS[1:])
def test_test_loaders_give_all_images_in_order_normalised_by_the_statistics_of_the_data(data, kind):
    own = Data("fake", data.train, data.test, mean=(0.2, 0.5, 0.6), std=(0.5, 0.4, 0.3))
    train_loader, test_loader = loaders(own, N, loader=kind, workers=0, log=Mock())
    ((images, labels),) = test_loader
    assert labels.tolist() == list(range(N)) and images.dtype == torch.float32
    reference = dataset.normalise_images(data.test.data, own.mean, own.std)
    torch.testing.assert_close(images, reference, atol=1e-5, rtol=0)
    ((images, _),) = train_loader
    assert ((images.abs() < 0.01).all(1).sum((1, 2)) >= 64).all()  # the hole has their mean colour


def test_the_device_loader_draws_by_image_and_leaves_generator_and_data_alone(data):
    before = torch.get_rng_state()
    small, large = (epoch_of(DeviceLoader(data.train, size, seed=1), 3) for size in (7, 50))
    assert torch.equal(small[0], large[0]) and torch.equal(small[1], large[1])
    for train in (True, False):
        loader = DeviceLoader(data.test, N, train=train, dtype=torch.bfloat16)
        ((images, _),) = loader
        assert images.dtype == torch.bfloat16 and images.is_contiguous(
            memory_format=torch.channels_last
        )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_processes_share_the_rows_of_every_batch(data, world_size):
    loader, parts = DeviceLoader(data.test.first(39), BATCH, seed=2), []  # batches of 16, 16 and 7
    whole, other = list(loader), list(loader)  # a second pass draws anew
    for rank in range(world_size):
        loader.rank, loader.world_size, loader.epoch = rank, world_size, 0
        parts.append(list(loader))
    for right, *shares in zip(whole, *parts, strict=True):
        images, labels = (torch.cat(column) for column in zip(*shares, strict=True))
        assert torch.equal(images, right[0]) and torch.equal(labels, right[1])
        assert np.ptp([len(labels) for _, labels in shares]) <= 1 and not torch.equal(
            whole[0][1], other[0][1]
        )


@pytest.mark.parametrize("kind", dataset.LOADERS)
def test_images_that_are_not_square_are_refused_by_every_loader(data, kind):
    wide = ArrayDataset(np.zeros((20, 32, 40, 3), np.uint8), np.zeros(20), NAMES)
    for splits in ((wide, data.test), (data.train, wide)):
        with pytest.raises(
            ValueError, match=r"images are of shape \(32, 40, 3\): the crop needs square ones"
        ):
            loaders(Data("wide", *splits), BATCH, loader=kind)


def test_auto_takes_the_device_where_there_is_an_accelerator_and_says_what_that_means(data):
    chosen = [dataset.choose_loader("auto", device) for device in ("cpu", "cuda", "mps")]
    assert chosen == ["albumentations", "device", "device"]
    said = []
    for kind in ("auto", "torchvision"):
        assert isinstance(loaders(data, loader=kind, log=said.append)[0], SeededLoader) and not said
    assert isinstance(loaders(data, loader="device", log=said.append)[0], DeviceLoader)
    assert len(said) == 1 and "train_transforms" in said[0] and 'loader="albumentations"' in said[0]
    for wrong, message in (
        (dict(loader="gpu"), "loader is 'gpu': choose one of"),
        (dict(batch_size=0), "size is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            loaders(data, **wrong)

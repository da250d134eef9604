"""The right images come from every source, and batches are a function of (seed, epoch)."""

import math
import os
import random
import signal
import tarfile
import tracemalloc
from itertools import product
from unittest.mock import Mock

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image
from rights import public_folder, rights
from torchvision import transforms as T
from torchvision.transforms import v2

import dataset
import transform
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
    batch = dataset.normalise_images(noise(4), mean, std)
    exact, before = (noise(4) / 255).transpose(0, 3, 1, 2), batch.clone()
    for given, right in ((batch, exact), (batch[0], exact[0])):
        undone = UnNormalize(mean, std)(given)
        np.testing.assert_allclose(undone.numpy(), right, atol=1e-6, rtol=0)
        undone.zero_()
    assert torch.equal(batch, before)
    far = UnNormalize()(torch.tensor([-90, 0, 90], dtype=torch.bfloat16).view(3, 1, 1))
    assert (far.min(), far.max(), far.dtype) == (0, 1, torch.float32)
    for shape in [(1, 32, 32), (32, 32, 3), (8, 4, 32, 32), (3, 32), (3,)]:
        with pytest.raises(ValueError, match=str(shape[0])):
            UnNormalize()(torch.zeros(shape))


def test_statistics_are_those_of_numpy_and_a_channel_without_contrast_is_refused():
    images = noise(250, 8) // np.array([1, 2, 5], np.uint8)
    mean, std = dataset.statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=5.1e-5, rtol=0)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=5.1e-5, rtol=0)
    images[..., 1] = 77
    with pytest.raises(ValueError, match="0.0"):
        dataset.statistics(images)


def test_statistics_of_many_photos_take_little_memory():
    images = noise(400, 160)
    tracemalloc.start()
    dataset.statistics(images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes


def test_array_dataset_takes_any_transform_or_none():
    images = noise(3)
    plain = ArrayDataset(images, [0, 1, 1], ("a", "b"))
    np.testing.assert_array_equal(plain[2][0], images[2])
    assert plain[2][1] == 1 and type(plain[2][1]) is int and len(plain) == 3
    changed = plain.with_transform(transform.test_transforms)
    assert changed[0][0].shape == (3, 32, 32) and changed.data is plain.data
    assert plain.transform is None
    seen = plain.with_transform(lambda image: image)[1][0]  # a function gets the array
    assert isinstance(seen, np.ndarray) and np.array_equal(seen, images[1])


class Mirror(v2.Transform):
    """A transform of one's own, as torchvision's guide writes it."""

    def transform(self, inpt, params):
        return v2.functional.horizontal_flip(inpt)


@pytest.mark.parametrize(
    "mirror",
    [
        A.HorizontalFlip(p=1),
        A.Compose([A.HorizontalFlip(p=1)]),
        T.RandomHorizontalFlip(p=1),
        v2.RandomHorizontalFlip(p=1),
        v2.Compose([v2.Resize(32), v2.RandomHorizontalFlip(p=1)]),
        torch.nn.Sequential(v2.Resize(32), v2.RandomHorizontalFlip(p=1)),
        v2.functional.horizontal_flip,
        Mirror(),
    ],
)
def test_transforms_of_both_libraries_and_both_versions_change_the_image(mirror):
    images = ArrayDataset(noise(3), [0, 1, 1], ("a", "b"), mirror)
    np.testing.assert_array_equal(np.asarray(images[1][0]), noise(3)[1][:, ::-1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (noise(3), [0, 2, 1], "image 1 has label 2"),
        (noise(3), [0, 1, -1], "image 2 has label -1"),
        (noise(3), [0, 0.5, 1], "image 1 has label 0.5"),
        (noise(3), [0, 1], r"3 images .*\(2,\)"),
        (noise(3) / 255, [0, 1, 1], r"float64 \(3, 32, 32, 3\)"),
        (noise(3).transpose(0, 3, 1, 2), [0, 1, 1], r"uint8 \(3, 3, 32, 32\)"),
    ],
)
def test_array_dataset_refuses_what_does_not_fit(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(images, labels, ("a", "b"))


def test_a_subset_is_balanced_and_always_the_same():
    available = np.arange(21, 40, 2)  # images of each class, 300 in all
    labels = np.random.default_rng(4).permutation(np.repeat(np.arange(10), available))
    whole = ArrayDataset(noise(300, 4), labels, CLASSES, transform.test_transforms)
    where = {image.tobytes(): i for i, image in enumerate(whole.data)}
    for n in (7, 10, 55, 120, 270, 299):
        subset = whole.balanced_subset(n)
        assert (len(subset), subset.classes) == (n, CLASSES)
        assert subset.transform is transform.test_transforms
        counts = np.bincount(subset.targets, minlength=10)
        assert np.ptp(counts[counts < available]) <= 1
        assert counts[counts < available].max() == counts.max()
        chosen = [where[image.tobytes()] for image in subset.data]
        assert chosen == sorted(chosen) and subset.targets.tolist() == labels[chosen].tolist()
        for label in set(subset.targets):  # the first ones of each class
            of_class = np.flatnonzero(labels == label)
            count = (subset.targets == label).sum()
            assert np.isin(of_class[:count], chosen).all()


def test_cifar_dataset_reads_the_official_files_and_refuses_missing_and_damaged_ones(
    fake_cifar, tmp_path
):
    root, splits = fake_cifar
    for train, (images, labels) in ((True, splits["train"]), (False, splits["test"])):
        for found in (
            CifarDataset(root, train),
            CifarDataset(root / download.FOLDER, train),
            CifarDataset(root, train, transform.train_transforms, download=True),
        ):
            np.testing.assert_array_equal(found.data, images)
            assert found.targets.tolist() == labels.tolist() and found.classes == CLASSES
        assert found[7][0].shape == (3, 32, 32) and found[7][1] == labels[7]
    batch = root / download.FOLDER / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1] + b"!")
    for wrong in (tmp_path / "nothing here", root):
        with pytest.raises(RuntimeError, match="missing or damaged: use download=True"):
            CifarDataset(wrong)


@pytest.fixture
def small():
    splits = (ArrayDataset(noise(n, 4, n), np.arange(n) % 10, CLASSES) for n in (200, 60))
    return Data("small", *splits)


def test_a_limit_takes_n_training_and_a_fifth_as_many_test_images(small, capsys):
    limited = small.limited(100)
    assert (len(limited.train), len(limited.test), limited.limit) == (100, 20, 100)
    assert limited.name == "small" and np.bincount(limited.test.targets).tolist() == [2] * 10
    assert limited.fingerprint == small.limited(100).fingerprint != small.fingerprint
    assert small.limited(None) is small and small.limited(200) is small and small.limit is None
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="limit is 9"):
        small.limited(9)


def test_a_limit_that_leaves_classes_without_a_test_image_says_so(capsys):
    names = [f"class {i}" for i in range(100)]
    splits = (ArrayDataset(noise(n, 4), np.arange(n) % 100, names) for n in (1000, 200))
    limited = Data("a hundred", *splits).limited(100)
    assert len(np.unique(limited.test.targets)) == 20
    assert "80 classes" in capsys.readouterr().out


def test_what_guessing_costs_is_the_loss_of_the_frequencies():
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    data = Data("uneven", *2 * [ArrayDataset(noise(100, 4), labels, ("a", "b", "c", "none"))])
    scores = torch.tensor([[0.7, 0.2, 0.1, 1e-30]]).log().repeat(100, 1).double()
    loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels))
    assert data.guess == pytest.approx(loss.item(), abs=1e-6)


def test_guessing_ten_balanced_classes_costs_ln_10(small):
    assert small.guess == pytest.approx(math.log(10), abs=1e-12)


def test_the_fingerprint_depends_on_every_pixel_label_and_place(small):
    seen = {small.fingerprint}
    for split in (small.train, small.test):
        for array, place in ((split.data, (7, 3, 2, 1)), (split.targets, 5)):
            array[place] ^= 1
            seen.add(small.fingerprint)
    turned = ArrayDataset(small.train.data[::-1], small.train.targets[::-1], CLASSES)
    seen.add(Data("swapped", small.test, small.train).fingerprint)
    seen.add(Data("turned", turned, small.test).fingerprint)
    assert len(seen) == 7


def is_official(found, splits):
    images, labels = splits["train"]
    known = ("CIFAR-10", "cifar10", CLASSES, MEAN)
    return (
        (found.name, found.kind, found.classes, found.mean) == known
        and np.array_equal(found.train.data, images)
        and np.array_equal(found.train.targets, labels)
        and np.array_equal(found.test.data, splits["test"][0])
    )


def test_the_official_files_are_found_in_the_root_and_in_a_folder_and_hashed_once(
    fake_cifar, tmp_path, monkeypatch
):
    root, splits = fake_cifar
    sizes = {path.name: path.stat().st_size for path in (root / download.FOLDER).iterdir()}
    md5, hashed = download.hashlib.md5, []
    monkeypatch.setattr(
        download.hashlib, "md5", lambda data=b"", **o: hashed.append(len(data)) or md5(data, **o)
    )
    elsewhere = tmp_path / "else"
    for source, place in (
        ("cifar10", root),
        ("auto", root),
        (root, elsewhere),
        (root / download.FOLDER, elsewhere),
    ):
        hashed.clear()
        assert is_official(load(source, place), splits)
        assert sorted(hashed) == sorted(sizes[name] for name in sizes if name != "batches.meta")
    assert not elsewhere.exists()


def test_an_archive_in_a_folder_that_cannot_be_written_is_unpacked_in_the_root(
    fake_cifar, monkeypatch
):
    root, splits = fake_cifar
    with public_folder() as given, public_folder() as data:
        data.chmod(0o777)
        with tarfile.open(given / download.ARCHIVE, "w:gz") as tar:
            tar.add(root / download.FOLDER, download.FOLDER)
        archive = (given / download.ARCHIVE).read_bytes()
        monkeypatch.setattr(download, "ARCHIVE_MD5", download.hashlib.md5(archive).hexdigest())
        monkeypatch.setattr(download, "MIRRORS", ())
        monkeypatch.setattr(download, "URL", "http://127.0.0.1:9/")  # nobody listens
        with rights(given, 0o555):
            for _ in range(2):
                assert is_official(load(given, data / "root"), splits)
        assert [path.name for path in given.iterdir()] == [download.ARCHIVE]


def test_auto_falls_back_to_the_sample_and_says_so_but_cifar10_does_not(
    monkeypatch, tmp_path, capsys
):
    silent = Mock(side_effect=download.DownloadError("host.example is silent"))
    monkeypatch.setattr(download, "fetch_cifar10", silent)
    with pytest.raises(download.DownloadError, match="host.example"):
        load("cifar10", tmp_path)
    assert capsys.readouterr().out == ""
    sample = load("auto", tmp_path)
    said = capsys.readouterr().out
    assert "host.example" in said and "built-in sample instead of CIFAR-10" in said
    assert (sample.name, sample.kind) == ("sample data, not CIFAR-10", "sample")
    assert (sample.mean, sample.std) == dataset.statistics(sample.train.data)
    assert load("sample").fingerprint == sample.fingerprint


@pytest.mark.parametrize("name", ["cifar100", "CIFAR10", "no/such/folder", "", 2024])
def test_an_unknown_source_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"data is '{name}'"):
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


def test_a_folder_of_other_classes_has_its_own_name_and_statistics(tmp_path, monkeypatch, capsys):
    place = write_folder(tmp_path / "2024", ("oak", "ash", "elm"), size=48)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for source in (place, "~/2024", "2024/train/..", 2024):
        found = load(source, tmp_path, size=24)
        assert (found.name, found.classes) == ("2024", ("ash", "elm", "oak"))
        assert "24x24" in capsys.readouterr().out  # that they were made smaller
    assert found.train.data.shape == found.test.data.shape == (3, 24, 24, 3)
    assert (found.mean, found.std) == dataset.statistics(found.train.data) != (MEAN, STD)


@pytest.fixture(scope="module")
def data():
    """One image 50 times: two results differ only where the draws do; labels number the images."""
    same = ArrayDataset(np.repeat(noise(1), N, axis=0), range(N), NAMES)
    return Data("fake", same, ArrayDataset(noise(N), range(N), NAMES))


def epoch_of(loader, epoch):
    """One epoch of a training loader: (images, labels), joined."""
    loader.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize(("kind", "workers"), EVERY)
def test_an_epoch_is_a_function_of_seed_and_epoch(data, kind, workers):
    def make(seed):
        return loaders(data, BATCH, loader=kind, seed=seed, workers=workers)[0]

    straight = make(seed=3)
    first, second = epoch_of(straight, 1), epoch_of(straight, 2)
    # what a notebook may do between two runs
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    resumed, other = epoch_of(make(seed=3), 2), epoch_of(make(seed=4), 2)
    mixed = epoch_of(make(seed=4), 1)  # the sum of seed and epoch is the same
    assert torch.equal(second[0], resumed[0]) and torch.equal(second[1], resumed[1])
    for images, labels in (first, other, mixed):
        assert not torch.equal(labels, second[1])  # another order
        different = torch.cat([images, second[0]]).unique(dim=0)
        assert len(different) >= 2 * N - 3  # and other draws, of 101,250 possible ones
    assert len(straight) == 4 and sorted(second[1].tolist()) == list(range(N)) != second[1].tolist()
    assert [len(labels) for _, labels in straight] == [16, 16, 16, 2]  # no image is dropped


def test_albumentations_behind_a_subset_is_seeded_too(data):
    augmented = data.train.with_transform(transform.albumentations_transforms()[0])
    subset = torch.utils.data.Subset(augmented, range(N))
    first, again = (epoch_of(SeededLoader(subset, batch_size=N), 1)[0] for _ in range(2))
    assert torch.equal(first, again)


class Pipeline:
    """As in many notebooks: albumentations inside of an object."""

    def __init__(self, augment):
        self.augment = augment

    def __call__(self, image):
        return self.augment(image=image)["image"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "wrap",
    [lambda augment: lambda image: augment(image=image)["image"], Pipeline],
    ids=["function", "object"],
)
def test_albumentations_inside_of_a_function_or_an_object_is_seeded_too(data, wrap, workers):
    wrapped = data.train.with_transform(wrap(transform.albumentations_transforms()[0]))
    loader = SeededLoader(wrapped, batch_size=N // 2, num_workers=workers)
    first, second, again = (epoch_of(loader, epoch)[0] for epoch in (1, 2, 1))
    assert torch.equal(first, again)
    halves = torch.stack([*first.chunk(2), *second.chunk(2)])
    assert len(halves.unique(dim=0)) == 4  # workers and epochs draw differently


@pytest.mark.parametrize("kind", ["albumentations", "device"])
def test_large_seeds_are_seeds_too(data, kind):
    orders = [
        epoch_of(loaders(data, BATCH, loader=kind, seed=seed, workers=0)[0], 1)[1].tolist()
        for seed in (20260115093000, 20260115093001)
    ]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_transforms_that_draw_from_random_and_numpy_are_seeded(data, workers):
    def three_draws(image):
        return torch.tensor([random.random(), np.random.rand(), torch.rand(())])

    images = data.train.with_transform(three_draws)
    loader = SeededLoader(images, seed=3, num_workers=workers, batch_size=BATCH)
    first, second, again = (epoch_of(loader, epoch)[0] for epoch in (1, 2, 1))
    assert torch.equal(first, again) and not (first == second).any()
    assert len(torch.unique(first)) == 3 * N


@pytest.mark.parametrize("kind", dataset.LOADERS[1:])
def test_test_loaders_give_all_images_in_order_normalised_by_the_statistics_of_the_data(data, kind):
    own = Data("fake", data.train, data.test, mean=(0.2, 0.5, 0.6), std=(0.5, 0.4, 0.3))
    train_loader, in_order = loaders(own, N, loader=kind, workers=0)
    reference = dataset.normalise_images(data.test.data, own.mean, own.std)
    for loader in (in_order, dataset.test_loader(own)):
        ((images, labels),) = loader
        assert labels.tolist() == list(range(N)) and images.dtype == torch.float32
        torch.testing.assert_close(images, reference, atol=1e-5, rtol=0, check_stride=False)
    ((images, _),) = train_loader
    assert ((images.abs() < 0.01).all(1).sum((1, 2)) >= 64).all()  # the hole has their mean colour
    colours = set(map(tuple, data.train.data[0].reshape(-1, 3).tolist()))
    levels = (255 * UnNormalize(own.mean, own.std)(images[0])).round().int().flatten(1).T
    assert sum(tuple(level) in colours for level in levels.tolist()) >= 32 * 32 - 64


@pytest.mark.parametrize("kind", dataset.LOADERS[1:])
def test_test_images_are_made_in_this_process_and_no_random_state_moves(data, kind, monkeypatch):
    _, in_order = loaders(data, BATCH, loader=kind, workers=2)
    monkeypatch.setattr(torch.multiprocessing.Process, "start", Mock(side_effect=AssertionError))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert sum(len(labels) for _, labels in in_order) == N
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


def out_of_shared_memory(image):
    """What PyTorch says when /dev/shm of 64 MB is full."""
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_17_29_0>")


def killed_by_the_system(image):
    os.kill(os.getpid(), signal.SIGBUS)


@pytest.mark.parametrize("lack", [out_of_shared_memory, killed_by_the_system])
def test_a_lack_of_shared_memory_is_one_sentence_with_the_cure(data, lack):
    loader = SeededLoader(data.train.with_transform(lack), num_workers=1, batch_size=BATCH)
    with pytest.raises(OSError, match="workers=0.*--loader device.*--shm-size"):
        list(loader)


def test_other_errors_of_workers_stay_as_they_are(data):
    broken = data.train.with_transform(Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        list(SeededLoader(broken, num_workers=0))


def test_the_device_loader_draws_by_image_and_leaves_generator_and_data_alone(data):
    before = torch.get_rng_state()
    few, many = (epoch_of(DeviceLoader(data.train, size, seed=1), 3) for size in (7, 50))
    assert torch.equal(few[0], many[0]) and torch.equal(few[1], many[1])
    default, zero = (epoch_of(DeviceLoader(data.train, N, **seed), 3) for seed in ({}, {"seed": 0}))
    assert torch.equal(default[1], zero[1])
    for train in (True, False):
        ((images, _),) = DeviceLoader(data.test, N, train=train, dtype=torch.bfloat16)
        assert images.dtype == torch.bfloat16
        assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.get_rng_state(), before)


def as_processes(monkeypatch, rank, world_size):
    """From here on, this is one of several processes of torchrun."""
    for name, value in dict(
        is_available=True, is_initialized=True, get_rank=rank, get_world_size=world_size
    ).items():
        monkeypatch.setattr(dataset.dist, name, lambda value=value: value)


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_processes_share_the_rows_of_every_training_batch_and_each_has_all_test_images(
    data, world_size, monkeypatch, capsys
):
    images = data.test.balanced_subset(40)  # batches of 16, 16 and 8
    whole, parts = list(DeviceLoader(images, BATCH, seed=2)), []
    for rank in range(world_size):
        as_processes(monkeypatch, rank, world_size)
        loader = DeviceLoader(images, BATCH, seed=2)
        parts.append(list(loader))
        alone = epoch_of(loader.whole(), 0)
        assert torch.equal(alone[0], torch.cat([images for images, _ in whole]))
        tested = epoch_of(DeviceLoader(images, 13, train=False), 0)[1]
        assert tested.tolist() == images.targets.tolist()
    for right, *shares in zip(whole, *parts, strict=True):
        batch, labels = (torch.cat(column) for column in zip(*shares, strict=True))
        assert torch.equal(batch, right[0]) and torch.equal(labels, right[1])
        assert {len(labels) for _, labels in shares} == {len(right[1]) // world_size}
    assert capsys.readouterr().out == ""


def test_only_a_last_batch_may_be_shared_unequally_and_that_is_said(data, monkeypatch, capsys):
    as_processes(monkeypatch, 0, 4)
    shares = [len(labels) for _, labels in DeviceLoader(data.train, 44)]
    assert shares == [11, 2] and "last batch of 6" in capsys.readouterr().out
    # of 50 images, batches of 48 leave 2 for four processes
    for size, enough in ((45, 52), (48, 52), (1, 20), (18, 20), (99, 100)):
        with pytest.raises(ValueError, match=f"4 processes .* {size}: take {enough}$"):
            DeviceLoader(data.train, size)
        DeviceLoader(data.train, enough)
    with pytest.raises(ValueError, match="take fewer processes"):
        DeviceLoader(data.train.balanced_subset(3), 4)
    with pytest.raises(ValueError, match="torchvision"):
        loaders(data, 44, loader="torchvision")


@pytest.mark.parametrize("kind", dataset.LOADERS)
def test_images_that_are_not_square_are_refused_by_every_loader(data, kind):
    wide = ArrayDataset(np.zeros((20, 32, 40, 3), np.uint8), np.zeros(20), NAMES)
    for splits in ((wide, data.test), (data.train, wide)):
        with pytest.raises(ValueError, match="32x40"):
            loaders(Data("wide", *splits), BATCH, loader=kind)


def test_auto_takes_the_device_where_there_is_an_accelerator_and_says_what_that_means(data, capsys):
    chosen = [dataset.choose_loader("auto", device) for device in ("cpu", "cuda", "mps")]
    assert chosen == ["albumentations", "device", "device"]
    for kind in ("auto", "torchvision"):
        assert isinstance(loaders(data, loader=kind)[0], SeededLoader)
    assert capsys.readouterr().out == ""
    assert isinstance(loaders(data, loader="device")[0], DeviceLoader)
    said = capsys.readouterr().out
    assert "edited transforms" in said and 'loader="albumentations"' in said
    for wrong, message in (
        (dict(loader="gpu"), "loader is 'gpu'"),
        (dict(batch_size=0), "batch size is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            loaders(data, **wrong)

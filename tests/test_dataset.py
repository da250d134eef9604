"""Do the right pictures come out of every source, and a clear sentence where they cannot?"""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.datasets import CIFAR10

import dataset
import folder
from dataset import CLASSES, ArrayDataset, CifarDataset, Data, UnNormalize, load, statistics
from download import DownloadError
from transform import MEAN, STD, A, train_transforms
from transform import test_transforms as only_normalise

ROOT = Path(__file__).parent.parent


def noise(n, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def sample():
    return load("sample")


# UnNormalize


def test_unnormalize_undoes_the_very_statistics():
    pictures = noise(4)
    exact = (pictures / 255).transpose(0, 3, 1, 2)
    for mean, std in ((MEAN, STD), ((0.1, 0.5, 0.9), (0.3, 0.02, 0.5))):
        shift, scale = (np.reshape(values, (3, 1, 1)) for values in (mean, std))
        batch = torch.tensor((exact - shift) / scale, dtype=torch.float32)
        np.testing.assert_allclose(UnNormalize(mean, std)(batch).numpy(), exact, atol=1e-6, rtol=0)
        np.testing.assert_allclose(UnNormalize(mean, std)(batch[0]).numpy(), exact[0], atol=1e-6, rtol=0)


def test_unnormalize_undoes_the_transform_by_default():
    picture = noise(1)[0]
    undone = UnNormalize()(only_normalise(image=picture)["image"])
    np.testing.assert_allclose(undone.numpy().transpose(1, 2, 0), picture / 255, atol=1e-6, rtol=0)


def test_unnormalize_gives_a_new_tensor_of_pixels():
    for mean, std in ((MEAN, STD), ((0, 0, 0), (1, 1, 1))):
        batch = torch.rand(2, 3, 4, 4)
        before = batch.clone()
        undone = UnNormalize(mean, std)(batch)
        undone.zero_()
        assert torch.equal(batch, before)
    far = UnNormalize()(torch.tensor([-90.0, 0.0, 90.0]).view(3, 1, 1).expand(3, 2, 2))
    assert far.min() == 0 and far.max() == 1 and far.shape == (3, 2, 2)
    assert UnNormalize()(torch.zeros(3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 32, 32), (32, 32, 3), (8, 4, 32, 32), (3, 32), (3,)])
def test_unnormalize_refuses_other_channels(shape):
    with pytest.raises(ValueError, match=r"tensor has shape .*: give \(3, H, W\)"):
        UnNormalize()(torch.zeros(shape))


# CifarDataset


def test_cifar_dataset_reads_the_official_files(fake_cifar):
    root, splits = fake_cifar
    for train, (pictures, labels) in ((True, splits["train"]), (False, splits["test"])):
        for found in (CifarDataset(root, train=train), CifarDataset(root, train=train, download=True)):
            assert isinstance(found, CIFAR10) and len(found) == len(pictures)
            np.testing.assert_array_equal(found.data, pictures)
            assert found.targets == labels.tolist() and tuple(found.classes) == CLASSES
            picture, label = found[7]
            assert picture.dtype == np.uint8 and label == labels[7]
            np.testing.assert_array_equal(picture, pictures[7])


def test_cifar_dataset_takes_albumentations_transforms(fake_cifar):
    root, splits = fake_cifar
    found = CifarDataset(root, transform=only_normalise)
    picture, label = found[3]
    assert picture.dtype == torch.float32 and picture.shape == (3, 32, 32) and label == 9
    np.testing.assert_allclose(UnNormalize()(picture).permute(1, 2, 0) * 255, splits["train"][0][3], atol=1e-3)
    flipped, _ = CifarDataset(root, transform=A.HorizontalFlip(p=1))[3]  # a single step will do
    np.testing.assert_array_equal(flipped, splits["train"][0][3][:, ::-1])
    assert CifarDataset(root, transform=train_transforms)[0][0].shape == (3, 32, 32)


@pytest.mark.parametrize("wrong", [T.Compose([T.ToTensor()]), T.ToTensor(), lambda image: image, [A.HorizontalFlip()]])
def test_cifar_dataset_refuses_other_transforms(fake_cifar, wrong):
    with pytest.raises(TypeError, match=f"transform is a {type(wrong).__name__}, not an albumentations transform"):
        CifarDataset(fake_cifar[0], transform=wrong)


def test_cifar_dataset_says_when_files_are_missing_or_damaged(fake_cifar, tmp_path):
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        CifarDataset(tmp_path / "nothing here")
    batch = fake_cifar[0] / CIFAR10.base_folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1] + b"!")
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        CifarDataset(fake_cifar[0])


def test_cifar_dataset_downloads_from_our_sources(monkeypatch, tmp_path):
    def nothing(root):
        raise DownloadError(f"no source for {root}")

    monkeypatch.setattr(dataset, "fetch_cifar10", nothing)
    with pytest.raises(DownloadError, match=f"no source for {tmp_path}"):
        CifarDataset(tmp_path, download=True)


# ArrayDataset


def test_array_dataset_takes_any_transform_or_none():
    pictures = noise(3)
    plain = ArrayDataset(pictures, [0, 1, 1], ("a", "b"))
    picture, label = plain[2]
    assert label == 1 and isinstance(label, int) and len(plain) == 3
    np.testing.assert_array_equal(picture, pictures[2])
    for transform in (only_normalise, T.ToTensor(), lambda picture: torch.zeros(3, 32, 32)):
        changed = plain.with_transform(transform)
        assert changed[0][0].shape == (3, 32, 32)
        assert changed.data is plain.data and plain.transform is None
    np.testing.assert_allclose(plain.with_transform(T.ToTensor())[1][0].permute(1, 2, 0) * 255, pictures[1], atol=1e-4)


@pytest.mark.parametrize(
    ("pictures", "labels", "message"),
    [
        (noise(3), [0, 2, 1], "picture 1 has label 2: with 2 classes, labels go from 0 to 1"),
        (noise(3), [0, 1, -1], "picture 2 has label -1"),
        (noise(3), [0, 1], "3 pictures have 2 labels"),
        (noise(3), [0, 0.5, 1], "labels are float64 of shape .*: give N whole numbers"),
        (noise(3), [[0], [1], [1]], r"labels are int64 of shape \(3, 1\): give N whole numbers"),
        (noise(3) / 255, [0, 1, 1], r"pictures are float64 of shape \(3, 32, 32, 3\): give uint8"),
        (noise(3).transpose(0, 3, 1, 2), [0, 1, 1], r"pictures are uint8 of shape \(3, 3, 32, 32\)"),
        (noise(1)[0], [0] * 32, r"pictures are uint8 of shape \(32, 32, 3\)"),
        (noise(3)[..., :1], [0, 1, 1], r"pictures are uint8 of shape \(3, 32, 32, 1\)"),
    ],
)
def test_array_dataset_refuses_what_does_not_fit(pictures, labels, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(pictures, labels, ("a", "b"))


def test_the_first_pictures_are_balanced_and_always_the_same():
    labels = np.random.default_rng(4).permutation(np.repeat(np.arange(10), 30))
    pictures = noise(300, size=4)
    whole = ArrayDataset(pictures, labels, CLASSES, only_normalise)
    inside = set()
    for n in (7, 10, 55, 120, 299):
        some, again = whole.first(n), whole.first(n)
        assert len(some) == n and some.classes == CLASSES and some.transform is only_normalise
        sizes = np.bincount(some.targets, minlength=10)
        assert sizes.max() - sizes.min() <= 1
        np.testing.assert_array_equal(some.data, again.data)
        where = {picture.tobytes(): i for i, picture in enumerate(pictures)}
        chosen = [where[picture.tobytes()] for picture in some.data]
        assert chosen == sorted(chosen)  # in the order they had
        np.testing.assert_array_equal(some.targets, labels[chosen])
        assert inside < set(chosen)  # a larger choice holds the smaller one
        inside = set(chosen)


def test_the_first_pictures_of_an_unbalanced_set():
    uneven = ArrayDataset(noise(20, size=4), [0] * 17 + [1] * 2 + [2], ("a", "b", "c"))
    assert np.bincount(uneven.first(9).targets).tolist() == [6, 2, 1]
    assert len(uneven.first(50)) == 20


# Data


@pytest.fixture
def small():
    return Data(
        "small",
        ArrayDataset(noise(200, 4), np.arange(200) % 10, CLASSES),
        ArrayDataset(noise(60, 4, 1), np.arange(60) % 10, CLASSES),
    )


def test_a_limit_is_n_and_a_fifth_of_n(small):
    limited = small.limited(100)
    assert (len(limited.train), len(limited.test), limited.limit) == (100, 20, 100)
    assert np.bincount(limited.train.targets).tolist() == [10] * 10
    assert np.bincount(limited.test.targets).tolist() == [2] * 10
    assert (limited.name, limited.mean, limited.std) == (small.name, small.mean, small.std)
    assert limited.fingerprint == small.limited(100).fingerprint != small.fingerprint
    assert (len(small.train), small.limit) == (200, None)
    assert len(small.limited(13).test) == 2


@pytest.mark.parametrize("limit", [None, 200, 10**9])
def test_no_limit_or_a_large_one_is_all(small, limit):
    assert small.limited(limit) is small


@pytest.mark.parametrize("limit", [9, 1, 0, -20])
def test_a_limit_under_10_is_refused(small, limit):
    with pytest.raises(ValueError, match=f"limit is {limit}: take 10 pictures or more"):
        small.limited(limit)


def test_a_description_names_the_data_and_counts(small):
    text = small.describe()
    assert "small" in text and "200 training" in text and "60 test" in text and "10 classes" in text


def test_the_fingerprint_knows_every_pixel_label_and_place(small):
    seen = {small.fingerprint}
    again = Data(
        "other name", *(ArrayDataset(s.data.copy(), s.targets.copy(), CLASSES) for s in (small.train, small.test))
    )
    assert again.fingerprint in seen
    for split in (again.train, again.test):
        split.data[7, 3, 2, 1] ^= 1
        seen.add(again.fingerprint)
        split.data[7, 3, 2, 1] ^= 1
        split.targets[5] = 9
        seen.add(again.fingerprint)
        split.targets[5] = 5
    assert again.fingerprint == small.fingerprint
    seen.add(Data("swapped", small.test, small.train).fingerprint)
    order = np.arange(200)[::-1]
    seen.add(
        Data(
            "turned", ArrayDataset(small.train.data[order], small.train.targets[order], CLASSES), small.test
        ).fingerprint
    )
    assert len(seen) == 7


# load


def test_the_sample(sample):
    assert sample.name == "sample data, not CIFAR-10"
    assert (len(sample.train), len(sample.test), len(sample.classes)) == (4096, 1024, 10)
    assert not set(sample.classes) & set(CLASSES)
    assert (sample.mean, sample.std) == statistics(sample.train.data)


def test_the_official_files(fake_cifar, tmp_path):
    root, splits = fake_cifar
    for _ in range(2):  # the second time from the cache
        for found in (load("cifar10", root=root), load("auto", root=root), load(str(root), root=tmp_path / "else")):
            assert found.name == "CIFAR-10" and found.classes == CLASSES and (found.mean, found.std) == (MEAN, STD)
            for split, (pictures, labels) in ((found.train, splits["train"]), (found.test, splits["test"])):
                np.testing.assert_array_equal(split.data, pictures)
                np.testing.assert_array_equal(split.targets, labels)
    assert list((tmp_path / "else" / "cache").glob("*.npz")) and not (root / "else").exists()


def test_changed_official_files_do_not_come_from_the_cache(fake_cifar, monkeypatch):
    root, splits = fake_cifar
    before = load("cifar10", root=root).fingerprint
    batch = root / CIFAR10.base_folder / "test_batch"
    content = pickle.loads(batch.read_bytes())
    content["data"][0, 0] ^= 1
    raw = pickle.dumps(content, protocol=2)
    batch.write_bytes(raw)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", hashlib.md5(raw).hexdigest()]])
    after = load("cifar10", root=root)
    assert after.fingerprint != before
    assert after.test.data[0, 0, 0, 0] == splits["test"][0][0, 0, 0, 0] ^ 1


def no_download(monkeypatch):
    def fetch(root):
        raise DownloadError("tried host.example: silent for 20 s.")

    monkeypatch.setattr(dataset, "fetch_cifar10", fetch)


def test_auto_falls_back_to_the_sample_and_says_so(monkeypatch, tmp_path, sample):
    no_download(monkeypatch)
    said = []
    found = load("auto", root=tmp_path, log=said.append)
    assert found.name == sample.name and found.fingerprint == sample.fingerprint
    (paragraph,) = said
    assert "host.example" in paragraph and "CIFAR-10 cannot be had" in paragraph and "sample data" in paragraph


def test_cifar10_does_not_fall_back(monkeypatch, tmp_path):
    no_download(monkeypatch)
    said = []
    with pytest.raises(DownloadError, match="host.example"):
        load("cifar10", root=tmp_path, log=said.append)
    assert said == []


@pytest.mark.parametrize("name", ["cifar100", "CIFAR10", "no/such/folder", ""])
def test_an_unknown_source_is_refused(name):
    with pytest.raises(ValueError, match=f"data is {name!r}: give one of auto, cifar10, sample, or a folder"):
        load(name)


def write_folder(root, classes, extension, n=3, size=32):
    """train/<class>/ and test/<class>/ with n and 1 pictures, each class in its own brightness."""
    for split, count in (("train", n), ("test", 1)):
        for label, name in enumerate(classes):
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(count):
                picture = noise(1, size, seed=100 * label + i)[0] // 4 + 10 * label
                Image.fromarray(picture).save(place / f"{i}{label}.{extension}")
    return root


@pytest.mark.parametrize("extension", ["jpg", "JPG", "jpeg", "jfif"])
def test_jpegs_with_the_classes_of_cifar_are_the_jpeg_edition(tmp_path, extension):
    write_folder(tmp_path / "pictures", CLASSES, extension, n=1)
    found = load(str(tmp_path / "pictures"), root=tmp_path)
    assert found.name == "CIFAR-10, JPEG edition"
    assert found.classes == CLASSES and (found.mean, found.std) == (MEAN, STD)


def test_the_jpeg_edition_is_known_in_the_folder_that_an_archive_unpacks_to(tmp_path):
    write_folder(tmp_path / "unpacked" / "cifar10-jpeg", CLASSES, "jpg", n=1)
    assert load(tmp_path / "unpacked", root=tmp_path).name == "CIFAR-10, JPEG edition"


def test_other_folders_are_named_after_themselves(tmp_path, monkeypatch):
    write_folder(tmp_path / "pngs", CLASSES, "png", n=1)
    assert load(tmp_path / "pngs", root=tmp_path).name == "CIFAR-10 from pngs"
    write_folder(tmp_path / "leaves", ("oak", "ash", "elm"), "jpg")
    monkeypatch.chdir(tmp_path / "leaves")
    for source in (".", "../leaves/", tmp_path / "leaves"):
        assert load(source, root=tmp_path).name == "leaves"


def test_a_folder_of_other_classes(tmp_path):
    place = write_folder(tmp_path / "leaves", ("oak", "ash", "elm"), "png", n=5, size=48)
    said = []
    found = load(place, root=tmp_path, size=24, log=said.append)
    assert found.classes == ("ash", "elm", "oak")
    assert found.train.data.shape == (15, 24, 24, 3) and len(found.test) == 3
    assert np.bincount(found.train.targets).tolist() == [5, 5, 5]
    brightness = [found.train.data[found.train.targets == label].mean() for label in (2, 0, 1)]
    assert brightness == sorted(brightness)  # oak, ash, elm, as they were written: each label is its picture's
    assert (found.mean, found.std) == statistics(found.train.data) != (MEAN, STD)
    assert any("48" in line or "24x24" in line for line in said)  # that they were made smaller


def test_a_broken_folder_is_refused(tmp_path):
    place = write_folder(tmp_path / "leaves", ("oak", "ash"), "png")
    (place / "train" / "oak" / "torn.png").write_bytes(b"no picture")
    with pytest.raises(folder.FolderError, match="torn.png"):
        load(place, root=tmp_path)


def test_statistics_are_those_of_numpy():
    pictures = noise(50, 8) // np.array([1, 2, 5], np.uint8)
    mean, std = statistics(pictures)
    np.testing.assert_allclose(mean, (pictures / 255).mean((0, 1, 2)), atol=5.1e-5, rtol=0)
    np.testing.assert_allclose(std, (pictures / 255).std((0, 1, 2)), atol=5.1e-5, rtol=0)
    assert all(type(value) is float for value in (*mean, *std))


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_channel_of_one_value_cannot_be_normalised(channel):
    pictures = noise(5, 8)
    pictures[..., channel] = 77
    with pytest.raises(ValueError, match=f"one and the same {('red', 'green', 'blue')[channel]}"):
        statistics(pictures)
    pictures = np.broadcast_to(pictures, (20_000, *pictures.shape)).reshape(-1, 8, 8, 3).copy()
    pictures[0, 0, 0, channel] = 78  # less than the statistics can say in four digits
    with pytest.raises(ValueError, match="one and the same"):
        statistics(pictures)


# importing

WATCH = """
import random, socket, sys
import numpy as np, torch, matplotlib.figure

def refuse(*arguments, **named):
    raise AssertionError("importing reached for the network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
drawn = []
make_figure = matplotlib.figure.Figure.__init__
matplotlib.figure.Figure.__init__ = lambda *a, **k: (drawn.append(a), make_figure(*a, **k))[1]
states = lambda: (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist())
random.seed(1), np.random.seed(1), torch.manual_seed(1)
before = states()
for name in sys.argv[1:]:
    assert __import__(name).__file__.startswith(%r), name + " is another module"
    assert states() == before, name + " moved a random state"
assert not drawn, "a figure was made"
assert torch.get_default_dtype() == torch.float32 and not torch.are_deterministic_algorithms_enabled()
"""


def test_importing_does_nothing_else(tmp_path):
    modules = sorted(path.stem for path in ROOT.glob("*.py"))
    assert {"dataset", "transform", "models", "loader", "train", "test", "utils"} <= set(modules)
    done = subprocess.run(
        [sys.executable, "-c", WATCH % str(ROOT), *modules],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []  # nothing was written

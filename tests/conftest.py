"""What all tests share: a quiet and repeatable setting, and CIFAR-10's official files in small."""

import hashlib
import os
import pickle
import random

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

torch.set_num_threads(1)  # the same sums on every machine, and no quarrel with the workers over the cores


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts with the same random state, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def fake_cifar(tmp_path, monkeypatch):
    """The official layout with 100 training and 20 test pictures of noise, and torchvision told of their md5.

    Returns (root, {"train": (pictures, labels), "test": …}).
    """
    folder = tmp_path / "official" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name, content):
        raw = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    def write_batch(name, n):
        pictures, labels = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) * 3 % 10
        rows = pictures.transpose(0, 3, 1, 2).reshape(n, 3072)  # a picture is 1,024 reds, then greens, then blues
        return [name, write(name, {"data": rows, "labels": labels.tolist()})], (pictures, labels)

    train = [write_batch(f"data_batch_{i}", 20) for i in range(1, 6)]
    test = write_batch("test_batch", 20)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = dict(CIFAR10.meta, md5=write(CIFAR10.meta["filename"], {"label_names": names}))
    monkeypatch.setattr(CIFAR10, "train_list", [entry for entry, _ in train])
    monkeypatch.setattr(CIFAR10, "test_list", [test[0]])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    together = tuple(np.concatenate(parts) for parts in zip(*[batch for _, batch in train], strict=True))
    return folder.parent, {"train": together, "test": test[1]}

"""What all tests share: a quiet and repeatable setting, and CIFAR-10's official files in small."""

import hashlib
import os
import pickle
import random
import sys

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import torch

from extras import download

# The same sums on every machine, and no quarrel with the workers over the cores
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts with the same random state and no open figure, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def fake_cifar(tmp_path, monkeypatch):
    """The official layout with 100 training and 20 test images of noise, md5 sums included.

    Returns (root, {"train": (images, labels), "test": …}).
    """
    folder = tmp_path / "official" / download.FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    md5 = {}
    splits = {"train": [], "test": []}
    for name in download.FILES:
        content = {"label_names": []}
        if name != "batches.meta":
            images = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
            labels = np.arange(20) * 3 % 10
            # an image is 1,024 reds, then greens, then blues
            rows = images.transpose(0, 3, 1, 2).reshape(20, 3072)
            content = {"data": rows, "labels": labels.tolist()}
            splits["test" if name == "test_batch" else "train"].append((images, labels))
        raw = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(raw)
        md5[name] = hashlib.md5(raw).hexdigest()
    monkeypatch.setattr(download, "FILES", md5)
    together = {}
    for split, parts in splits.items():
        images, labels = zip(*parts, strict=True)
        together[split] = np.concatenate(images), np.concatenate(labels)
    return folder.parent, together

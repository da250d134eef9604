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

from extras import download

torch.set_num_threads(
    1
)  # the same sums on every machine, and no quarrel with the workers over the cores


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts with the same random state, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def fake_cifar(tmp_path, monkeypatch):
    """The official layout with 100 training and 20 test images of noise; `extras.download` takes
    their md5 for right.

    Returns (root, {"train": (images, labels), "test": …}).
    """
    folder = tmp_path / "official" / download.FOLDER
    folder.mkdir(parents=True)
    rng, md5, splits = np.random.default_rng(0), {}, {"train": [], "test": []}
    for name in download.FILES:
        content = {"label_names": []}
        if name != "batches.meta":
            images, labels = (
                rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8),
                np.arange(20) * 3 % 10,
            )
            rows = images.transpose(0, 3, 1, 2).reshape(
                20, 3072
            )  # an image is 1,024 reds, then greens, then blues
            content = {"data": rows, "labels": labels.tolist()}
            splits["test" if name == "test_batch" else "train"].append((images, labels))
        raw = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(raw)
        md5[name] = hashlib.md5(raw).hexdigest()
    monkeypatch.setattr(download, "FILES", md5)
    together = {
        split: tuple(map(np.concatenate, zip(*parts, strict=True)))
        for split, parts in splits.items()
    }
    return folder.parent, together

"""Augmentation on one thread: ours (`DeviceLoader`), albumentations, torchvision and kornia.

The same steps (crop with padding 4, flip, one 8x8 hole, normalise) from uint8 images in memory to
shuffled float32 batches.
"""

import cv2
import torch

import dataset
from benchmarks.common import alternate, goal, noise_data, ratios, row, speed_row
from transform import HOLE, MEAN, PADDING, SIZE, STD

# Those that take whole batches get more images, so that each takes long enough to be timed
IMAGES = {"ours": 20_480, "albumentations": 2048, "torchvision": 2048, "kornia": 8192}
BATCH_SIZE = 512


class KorniaLoader:
    """What `DeviceLoader` does, with kornia; `cropping` is "slice" or "resample", its two ways."""

    def __init__(self, data, cropping):
        import kornia.augmentation as K

        area = (HOLE / SIZE) ** 2  # of the hole, as a fraction of the image's
        crop = dict(padding=PADDING, padding_mode="reflect", cropping_mode=cropping)
        self.images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.as_tensor(data.targets)
        self.augment = torch.nn.Sequential(
            K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),  # first: then the hole is zero
            K.RandomCrop((SIZE, SIZE), **crop),
            K.RandomHorizontalFlip(p=0.5),
            K.RandomErasing(p=1, scale=(area, area), ratio=(1, 1), value=0),
        )

    def __iter__(self):
        for chosen in torch.randperm(len(self.images)).split(BATCH_SIZE):
            yield self.augment(self.images[chosen].float() / 255), self.labels[chosen]


def make_loaders(data):
    """A loader by each library; kornia's are left out where it is not installed."""
    loaders = {"ours": dataset.DeviceLoader(data["ours"].train, BATCH_SIZE)}
    for name in ("albumentations", "torchvision"):
        loaders[name] = dataset.loaders(data[name], BATCH_SIZE, loader=name, workers=0)[0]
    try:
        for cropping in ("slice", "resample"):
            loaders[f"kornia, {cropping}"] = KorniaLoader(data["kornia"].train, cropping)
    except ImportError:
        print("kornia is left out: pip install -r benchmarks/requirements.txt")
    return loaders


def measure(sizes):
    threads = torch.get_num_threads()
    cv2_threads = cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    loaders = make_loaders({name: noise_data(n) for name, n in IMAGES.items()})
    contestants = {name: lambda x=loader: [None for _ in x] for name, loader in loaders.items()}
    seconds = alternate(contestants, sizes.repeats, torch.device("cpu"))
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv2_threads)

    images = {name: IMAGES[name.partition(",")[0]] for name in loaders}
    each = {name: [s / images[name] for s in times] for name, times in seconds.items()}
    rows = [speed_row(f"{name}, one thread", 1, times) for name, times in each.items()]
    ours = each.pop("ours")
    faster = [
        row(f"ours / {name}, one thread", ratios(s, ours), "times") for name, s in each.items()
    ]
    goals = [goal(faster[0], "at least", 20)]
    if len(faster) > 2:  # kornia is there: against the faster of its two ways
        goals.append(goal(min(faster[2:], key=lambda one: one["value"]), "at least", 3))
    return rows + faster, goals

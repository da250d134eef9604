"""Augmentation on one thread: images/s of DeviceLoader ("ours"), albumentations, torchvision and
kornia.

The same steps (crop, flip, one 8×8 hole, normalise) from uint8 images in memory to shuffled float32
batches.
"""

import cv2
import torch

import dataset
from benchmarks.common import alternate, command, goal, noise_data, ratios, row, speed_row
from transform import HOLE, MEAN, PADDING, SIZE, STD


class KorniaLoader:
    """All images on the device, shuffled and augmented in batches: what `DeviceLoader` does, with
    kornia.

    Args:
        cropping: "slice" or "resample", kornia's two ways to crop; which is faster depends on the
            device.
    """

    def __init__(self, data, batch_size, device, cropping):
        import kornia.augmentation as K

        area = (HOLE / SIZE) ** 2  # of the hole, as a fraction of the image's
        self.images = torch.from_numpy(data.data).to(device).permute(0, 3, 1, 2).contiguous()
        self.labels, self.batch_size = torch.as_tensor(data.targets).to(device), batch_size
        # normalised first, so that padding and hole are zero, as with the others
        self.augment = torch.nn.Sequential(
            K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
            K.RandomCrop((SIZE, SIZE), padding=PADDING, fill=0, cropping_mode=cropping),
            K.RandomHorizontalFlip(p=0.5),
            K.RandomErasing(p=1, scale=(area, area), ratio=(1, 1), value=0),
        ).to(device)

    def __iter__(self):
        for chosen in (
            torch.randperm(len(self.images)).to(self.images.device).split(self.batch_size)
        ):
            yield self.augment(self.images[chosen].float() / 255), self.labels[chosen]


def image_loaders(n, batch):
    """{name: (loader, images)} of the libraries that take one image at a time."""
    names, data = ("albumentations", "torchvision"), noise_data(n)
    return {name: (dataset.loaders(data, batch, loader=name, workers=0)[0], n) for name in names}


def batch_loaders(n, batch, device):
    """{name: (loader, images)} of those that take a batch at a time; they get more, so that it can
    be timed.
    """
    found = {"ours": (dataset.DeviceLoader(noise_data(5 * n).train, batch, device), 5 * n)}
    try:
        for cropping in ("slice", "resample"):
            found[f"kornia, {cropping}"] = (
                KorniaLoader(noise_data(2 * n).train, batch, device, cropping),
                2 * n,
            )
    except ImportError:
        print(
            "  kornia is not installed, so its rows are left out: pip install -r benchmarks/requirements.txt"
        )
    return found


def race(loaders, repeats, device, where):
    """Rows of images/s, then rows of how many times as many ours has."""

    def exhaust(loader):
        for _ in loader:
            pass

    seconds = alternate(
        {name: lambda x=x: exhaust(x) for name, (x, _) in loaders.items()}, repeats, device
    )
    each = {
        name: [s / loaders[name][1] for s in times] for name, times in seconds.items()
    }  # seconds an image
    others = [name for name in each if name != "ours"]
    compared = [
        row(f"ours / {name}, {where}", ratios(each[name], each["ours"]), "times") for name in others
    ]
    return [speed_row(f"{name}, {where}", 1, times) for name, times in each.items()], compared


def measure(size):
    n, batch = (32, 16) if size.tiny else (4096, 512)
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    loaders = image_loaders(n // 2, batch) | batch_loaders(n, batch, cpu)
    rows, compared = race(loaders, size.repeats(5), cpu, "one thread")
    torch.set_num_threads(threads)
    goals = [goal(compared[0], "at least", 20)]
    if len(compared) > 2:  # kornia is there: the goal is against the faster of its two ways
        goals.append(
            goal(
                min(compared[2:], key=lambda one: one["value"]),
                "at least",
                3,
                "ours / kornia, one thread",
            )
        )
    if size.device.type != "cpu":
        rows += race(
            batch_loaders(10 * n, batch, size.device),
            size.repeats(5),
            size.device,
            size.device.type,
        )[0]
    return rows + compared, goals


if __name__ == "__main__":
    command("pipeline", measure)

"""Our training epoch against the loop of the course's notebook of 2023, which is written anew here.

The same network, number of images and batch size (see misc/original-2023.json for the notebook's
settings).
"""

import io

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import models
from benchmarks.common import (
    alternate,
    build,
    command,
    epoch,
    goal,
    noise_data,
    ratios,
    row,
    speed_row,
)
from transform import MEAN, STD


def transforms_2023():
    """The notebook's transforms, written for albumentations 2: the arguments of 2023 mean something
    else there.
    """
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    side = (10, 10)  # of the hole, pixels: from 10 to 10
    pad = A.PadIfNeeded(40, 40, border_mode=4)  # cv2.BORDER_REFLECT_101
    hole = A.CoarseDropout(
        num_holes_range=(1, 1), hole_height_range=side, hole_width_range=side, fill=MEAN, p=0.5
    )
    steps = [
        A.Normalize(MEAN, STD),
        pad,
        A.RandomCrop(32, 32),
        A.HorizontalFlip(p=0.5),
        hole,
        ToTensorV2(),
    ]
    return A.Compose(steps, strict=True)


class Notebook2023:
    """Network, loader, optimizer and schedule as the notebook made them: float32, NCHW, Adam with
    coupled decay.

    Its workers stay alive: over 50,000 images their start counts for nothing, over the few of a
    slow machine it would.
    """

    def __init__(self, n, batch, device):
        torch.manual_seed(0)
        data = noise_data(n).train.with_transform(transforms_2023())
        pin = device.type == "cuda"
        self.loader = DataLoader(
            data, batch, shuffle=True, num_workers=2, pin_memory=pin, persistent_workers=True
        )
        self.device, self.model, self.criterion = (
            device,
            models.s10_model().to(device),
            nn.CrossEntropyLoss(),
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.03, weight_decay=1e-4)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            1e-3,
            steps_per_epoch=len(self.loader),
            epochs=1000,
            anneal_strategy="linear",
        )

    def epoch(self):
        """One epoch, with the notebook's progress bar and its three `.item()` a step, each of which
        waits for a GPU.
        """
        torch.backends.cudnn.benchmark = False  # as it was in 2023
        self.model.train()
        correct, seen, losses = 0, 0, 0.0
        bar = tqdm(self.loader, file=io.StringIO())
        for images, labels in bar:
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            output = self.model(images)
            loss = self.criterion(output, labels)
            losses += loss.item()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            correct += output.argmax(dim=1).eq(labels).sum().item()
            seen += len(images)
            bar.set_description(
                f"Train: Loss={loss.item():0.4f} Accuracy={100 * correct / seen:0.2f}"
            )


def measure(size):
    batch = size.batch
    n = size.images(4, most=20 * batch, batch=batch)
    old = Notebook2023(n, batch, size.device)
    contestants = {"2023": old.epoch}
    for precision in size.precisions:
        ours = epoch(build(size, n, batch=batch, precision=precision), size, precision)

        def run(ours=ours):
            torch.backends.cudnn.benchmark = True  # as in our runs
            ours()

        contestants[precision] = run
    found = alternate(contestants, size.repeats(11), size.device)
    rows, goals = [speed_row("epoch, 2023, float32", n, found["2023"])], []
    for precision in size.precisions:
        rows.append(speed_row(f"epoch, ours, {precision}", n, found[precision]))
        rows.append(
            row(
                f"ours, {precision} / 2023, float32",
                ratios(found["2023"], found[precision]),
                "times",
            )
        )
        if precision != "float16":
            goals.append(goal(rows[-1], "at least", 1.15 if precision == "float32" else 2.2))
    return rows, goals


if __name__ == "__main__":
    command("course", measure)

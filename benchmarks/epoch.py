"""A training epoch: what it costs besides the network, and beside the course's loop of 2023.

Bare steps are on one batch that lies ready on the device. The loop of 2023 is written anew from
misc/original-2023.json: the same network, number of images and batch size.
"""

import io

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import models
from benchmarks.common import Run, alternate, goal, noise_data, ratios, row, speed_row
from transform import MEAN, STD

LOADERS = ("device", "albumentations", "torchvision")


def transforms_2023():
    """The notebook's transforms for albumentations 2, where its arguments mean something else."""
    import albumentations as A

    hole = dict(num_holes_range=(1, 1), hole_height_range=(10, 10), hole_width_range=(10, 10))
    steps = [
        A.Normalize(MEAN, STD),
        A.PadIfNeeded(40, 40, border_mode=4),  # cv2.BORDER_REFLECT_101
        A.RandomCrop(32, 32),
        A.HorizontalFlip(p=0.5),
        A.CoarseDropout(**hole, fill=MEAN, p=0.5),
        A.ToTensorV2(),
    ]
    return A.Compose(steps, strict=True)


class Notebook2023:
    """The notebook's network, loader, optimizer and schedule: float32, NCHW, Adam with L2.

    Its workers stay alive: over 50,000 images their start counts for nothing, here it would.
    """

    def __init__(self, sizes):
        images = noise_data(sizes.images).train.with_transform(transforms_2023())
        workers = dict(num_workers=2, persistent_workers=True)
        pinned = sizes.device.type == "cuda"
        self.loader = DataLoader(
            images, sizes.batch_size, shuffle=True, pin_memory=pinned, **workers
        )
        self.device = sizes.device
        self.model = models.s10_model().to(self.device)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.03, weight_decay=1e-4)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 1e-3, 1000 * len(self.loader), anneal_strategy="linear"
        )

    def epoch(self):
        """One epoch, with a progress bar and three `.item()` a step, which wait for a GPU."""
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
            bar.set_description(f"Loss={loss.item():0.4f} Accuracy={100 * correct / seen:0.2f}")
        torch.backends.cudnn.benchmark = True  # as in our runs


def overhead(sizes):
    """An epoch, with each loader, over as many bare steps."""
    runs = {name: Run(sizes, sizes.precisions[-1], name) for name in LOADERS}
    step, steps = runs["device"].step, sizes.images // sizes.batch_size
    contestants = {name: run.epoch for name, run in runs.items()}
    contestants["bare"] = lambda: [step() for _ in range(steps)]
    seconds = alternate(contestants, sizes.repeats, sizes.device)
    rows = [speed_row("bare steps", sizes.images, seconds["bare"])]
    for name in LOADERS:
        workers = "" if name == "device" else ", 2 workers"
        rows.append(speed_row(f"epoch, {name}{workers}", sizes.images, seconds[name]))
        cost = ratios(seconds[name], seconds["bare"])
        rows.append(row(f"epoch / bare steps, {name}", cost, "times"))
    return rows, [goal(rows[2], "at most", 1.03)]


def course(sizes):
    """Our epoch beside that of 2023."""
    contestants = {precision: Run(sizes, precision).epoch for precision in sizes.precisions}
    contestants["2023"] = Notebook2023(sizes).epoch
    seconds = alternate(contestants, sizes.repeats, sizes.device)
    rows = [speed_row("epoch, 2023, float32", sizes.images, seconds["2023"])]
    goals = []
    for precision in sizes.precisions:
        rows.append(speed_row(f"epoch, ours, {precision}", sizes.images, seconds[precision]))
        faster = ratios(seconds["2023"], seconds[precision])
        rows.append(row(f"ours, {precision} / 2023, float32", faster, "times"))
        if precision != "float16":
            goals.append(goal(rows[-1], "at least", 1.15 if precision == "float32" else 2.2))
    return rows, goals


def measure(sizes):
    overhead_rows, overhead_goals = overhead(sizes)
    course_rows, course_goals = course(sizes)
    return overhead_rows + course_rows, overhead_goals + course_goals

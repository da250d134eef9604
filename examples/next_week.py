"""Next week's assignment: another network, other pictures, another optimizer, and the same helpers.

    python examples/next_week.py photos/     # photos/train/<class>/* and photos/test/<class>/*
    python examples/next_week.py             # draws a folder of shapes first
    python examples/next_week.py --grey      # the same shapes as grey pictures

torchvision's ResNet-18 learns pictures of 64x64 with SGD, and StepLR takes the rate down. No helper file is changed.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the helpers are files, not a package: one folder up

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from torchvision.models import resnet18  # noqa: E402

import dataset  # noqa: E402
import utils  # noqa: E402
from checkpoint import Checkpoint, CheckpointError  # noqa: E402
from gradcam import grad_cam  # noqa: E402
from loader import make_loaders  # noqa: E402
from settings import pick_device  # noqa: E402
from test import confusion_matrix, mistakes, normalised, predict  # noqa: E402
from train import fit  # noqa: E402

CORNERS = {"triangle": 3, "square": 4, "disc": 60}
SIZE, BATCH, SEED = 64, 8, 0


def draw_shapes(folder, grey=False, train=40, test=15):
    """A folder of PNG files, as yours could be: photos of one shape each, not square, in colour or grey."""
    rng = np.random.default_rng(SEED)
    for split, count in (("train", train), ("test", test)):
        for name, corners in CORNERS.items():
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                paper, ink = rng.integers(0, 100, 3), rng.integers(130, 256, 3)
                x, y, radius, turn = rng.uniform((40, 30, 18, 0), (60, 50, 28, 2 * math.pi))
                angles = turn + 2 * math.pi * np.arange(corners) / corners
                image = Image.new("RGB", (100, 80), tuple(paper.tolist()))
                outline = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
                ImageDraw.Draw(image).polygon([tuple(corner) for corner in outline.tolist()], tuple(ink.tolist()))
                (image.convert("L") if grey else image).save(folder / split / name / f"{name}-{i}.png")
    return folder


def learn(data, out, epochs, loader):
    """Train ResNet-18 and evaluate after each epoch; a run that was cut goes on where it was."""
    device = pick_device()
    torch.manual_seed(SEED)
    model = resnet18(num_classes=len(data.classes)).to(device)
    loaders = make_loaders(data, loader, BATCH, seed=SEED, device=device, workers=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    criterion = torch.nn.CrossEntropyLoss()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=max(1, epochs // 2), gamma=0.1)
    config = dict(model="resnet18", data=data.fingerprint, epochs=epochs, batch_size=BATCH, loader=loader)
    checkpoint = Checkpoint(out, config)
    options = dict(by_epoch=True, seed=SEED, checkpoint=checkpoint)
    history = fit(model, device, *loaders, optimizer, criterion, scheduler, epochs, **options)
    probabilities, labels = predict(model, device, loaders[1])
    return model, history, probabilities, labels


def draw(data, out, model, history, probabilities, labels):
    """The figures that everybody wants to see."""
    worst = mistakes(probabilities, labels)[:25]
    predicted = probabilities[worst].argmax(axis=1)
    wrong = (data.test.data[worst], labels[worst], predicted, probabilities[worst].max(axis=1), data.classes)
    maps = grad_cam(model, normalised(wrong[0], data.mean, data.std), predicted, model.layer2)
    note = f"{data.name}, ResNet-18"
    utils.plot_samples(data.train.data, data.train.targets, data.classes, note=note, path=out / "samples.png")
    utils.plot_history(history, target=None, note=note, path=out / "loss_curves.png")
    matrix = confusion_matrix(probabilities, labels)
    utils.plot_confusion(matrix, data.classes, note=note, path=out / "confusion_matrix.png")
    utils.plot_mistakes(*wrong, maps=maps, note=note, path=out / "mistakes.png")
    print(f"figures: {out}/*.png")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="ResNet-18 on a folder of pictures, with the helpers of session 10.")
    parser.add_argument("folder", nargs="?", type=Path, help="train/<class>/* and test/<class>/* (default: drawn)")
    parser.add_argument("--grey", action="store_true", help="draw grey shapes")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--loader", default="device", help="albumentations, torchvision or device")
    parser.add_argument("--out", type=Path, default="runs/next_week")
    args = parser.parse_args(arguments)
    try:
        folder = args.folder or draw_shapes(
            args.out / "pictures" / ("grey-shapes" if args.grey else "shapes"), args.grey
        )
        data = dataset.load(folder, root=args.out, size=SIZE)
        print(data.describe())
        out = args.out / data.name
        draw(data, out, *learn(data, out, args.epochs, args.loader))
    except (ValueError, OSError, CheckpointError) as error:
        raise SystemExit(f"next_week.py: {error}") from None


if __name__ == "__main__":
    main()

"""Next week's assignment with this week's helpers: another network, images and optimizer.

    python examples/next_week.py photos/     # photos/train/<class>/* and photos/test/<class>/*
    python examples/next_week.py             # draws a folder of shapes first

torchvision's ResNet-18 learns images of 64x64 pixels with SGD, and StepLR lowers the learning rate.
No helper file is changed.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the helper files are one folder up

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from torchvision.models import resnet18  # noqa: E402

import dataset  # noqa: E402
import utils  # noqa: E402
from extras.checkpoint import Checkpoint, CheckpointError  # noqa: E402
from extras.gradcam import grad_cam, plot_gradcam  # noqa: E402
from extras.hardware import pick_device  # noqa: E402
from test import confusion_matrix, misclassified, predict, test  # noqa: E402
from train import fit  # noqa: E402

CORNERS = {"triangle": 3, "square": 4, "disc": 60}
SIZE, BATCH_SIZE, SEED = 64, 8, 0


def draw_shapes(folder, train=40, test=15):
    """A folder of PNG files, as yours could be: one shape each, neither square nor of one size."""
    rng = np.random.default_rng(SEED)
    for split, count in (("train", train), ("test", test)):
        for name, corners in CORNERS.items():
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                draw_shape(rng, corners).save(folder / split / name / f"{name}-{i}.png")
    return folder


def draw_shape(rng, corners):
    """An image of 100x80 pixels with one polygon, its place, size, turn and colours drawn."""
    paper, ink = rng.integers(0, 100, 3), rng.integers(130, 256, 3)
    x, y, radius, turn = rng.uniform((40, 30, 18, 0), (60, 50, 28, 2 * math.pi))
    angles = turn + 2 * math.pi * np.arange(corners) / corners
    outline = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
    image = Image.new("RGB", (100, 80), tuple(paper.tolist()))
    ImageDraw.Draw(image).polygon(
        [tuple(corner) for corner in outline.tolist()], tuple(ink.tolist())
    )
    return image


def learn(data, out, epochs, loader):
    """Train ResNet-18 and evaluate after each epoch; an interrupted run goes on where it was."""
    device = pick_device()
    torch.manual_seed(SEED)
    model = resnet18(num_classes=len(data.classes)).to(device)
    train_loader, test_loader = dataset.loaders(
        data, BATCH_SIZE, loader=loader, device=device, seed=SEED, workers=0
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    criterion = torch.nn.CrossEntropyLoss()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=max(1, epochs // 2), gamma=0.1)
    config = {
        "model": "resnet18",
        "data": data.fingerprint,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "loader": loader,
    }
    history = fit(
        model,
        device,
        train_loader,
        optimizer,
        criterion,
        scheduler,  # stepped once an epoch
        epochs=epochs,
        seed=SEED,
        evaluate=lambda: test(model, device, test_loader, criterion),
        checkpoint=Checkpoint(out, config),
    )
    probabilities, labels = predict(model, device, test_loader)
    return model, history, probabilities, labels


def draw(data, out, model, history, probabilities, labels):
    """The figures that everybody wants to see."""
    classes = data.classes
    note = f"{data.name}, ResNet-18"
    utils.plot_samples(
        data.train.data, data.train.targets, classes, note=note, path=out / "samples.png"
    )
    utils.plot_loss_curves(history, note=note, path=out / "loss_curves.png")
    matrix = confusion_matrix(probabilities, labels)
    utils.plot_confusion_matrix(matrix, classes, note=note, path=out / "confusion_matrix.png")

    wrong = misclassified(probabilities, labels)[:25]
    images, true = data.test.data[wrong], labels[wrong]
    path = out / "misclassified.png"
    utils.plot_misclassified(images, true, probabilities[wrong], classes, note=note, path=path)
    if len(wrong):
        predicted = probabilities[wrong].argmax(axis=1)
        tensors = dataset.normalise_images(images, data.mean, data.std)
        maps = [grad_cam(model, tensors, labels, model.layer2) for labels in (predicted, true)]
        path = out / "gradcam.png"
        plot_gradcam(images, true, predicted, *maps, classes, note=note, path=path)
    print(f"figures: {out}/*.png")


def parse(arguments):
    parser = argparse.ArgumentParser(
        description="ResNet-18 on a folder of images, with the helpers of session 10."
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, help="train/<class>/* and test/<class>/* (default: drawn)"
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--loader", default="device", help="albumentations, torchvision or device")
    parser.add_argument("--out", type=Path, default=Path("runs/next_week"))
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse(arguments)
    try:
        folder = args.folder or draw_shapes(args.out / "shapes")
        data = dataset.load(folder, root=args.out, size=SIZE)
        print(data.describe())
        out = args.out / data.name
        draw(data, out, *learn(data, out, args.epochs, args.loader))
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"next_week.py: {error}")


if __name__ == "__main__":
    main()

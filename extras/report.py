"""The numbers of a run: results.json, where they come from in a line, and tables in Markdown.

numbers = collect(data, history, found, …)
print(provenance(numbers))
"""

import contextlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np

TARGET = 90.0  # per cent, on the official test images
PACKAGES = ("torch", "torchvision", "albumentations", "torch-lr-finder", "matplotlib", "numpy")


def collect(
    data,
    history,
    found,
    confusion,
    *,
    settings,
    recipe,
    seed,
    loader,
    precision,
    parameters,
    device,
    world_size=1,
):
    """All numbers of a run (from `train.fit`, `find_lr`, `settings.choose`, …) with the keys of
    results.json.

    confusion: (C, C) counts of the test images, rows are true classes.
    """
    accuracies = [row["test_acc"] for row in history]
    numbers = dict(
        data=data.name,
        images=len(data.train),
        test_images=len(data.test),
        classes=list(data.classes),
    )
    numbers |= dict(
        mean=list(data.mean),
        std=list(data.std),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
    )
    numbers |= dict(
        seed=seed, loader=loader, precision=precision, recipe=dict(recipe), parameters=parameters
    )
    numbers |= {
        name: getattr(found, name) for name in ("lr_min", "lr_max", "lr_steepest", "lr_minimum")
    }
    numbers |= dict(device=device, world_size=world_size, versions=versions(), history=history)
    numbers |= dict(
        seconds=sum(row["seconds"] for row in history), confusion=np.asarray(confusion).tolist()
    )
    numbers |= dict(
        best_train_acc=max(row["train_acc"] for row in history), best_test_acc=max(accuracies)
    )
    numbers |= dict(final_test_acc=accuracies[-1])
    return numbers | dict(
        epoch_90=next((row["epoch"] for row in history if row["test_acc"] >= TARGET), None)
    )


def versions():
    """The versions that a result depends on; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def to_json(numbers):
    """Results as the bytes of a JSON file; NaN is refused, since JSON has none."""
    return (json.dumps(numbers, indent=1, allow_nan=False) + "\n").encode()


def provenance(numbers):
    """Where a figure's numbers come from, in a line."""
    return "{data}: {images:,} training images, {epochs} epochs, seed {seed}".format_map(numbers)


def result(numbers):
    """The result of a run as Markdown: accuracy, and what was trained on what."""
    n = numbers
    reached = f"first in epoch {n['epoch_90']}" if n["epoch_90"] else "not reached in this run"
    return (
        f"**{n['final_test_acc']:.2f} % test accuracy** after epoch {n['epochs']} (best {n['best_test_acc']:.2f} %), "
        f"best training accuracy {n['best_train_acc']:.2f} %; {TARGET:.0f} % was {reached}. "
        f"{n['data']}, {n['images']:,} training and {n['test_images']:,} test images, seed {n['seed']}, batches of "
        f"{n['batch_size']}, {n['precision']}, loader {n['loader']}, {n['device']}, {n['seconds'] / 60:.1f} minutes."
    )


def epoch_table(history, last=5):
    """The last few epochs as a table in Markdown."""
    lines = [
        "| epoch | train loss | train accuracy | test loss | test accuracy | learning rate | time |"
    ]
    lines += ["| ---: " * 7 + "|"]
    lines += [
        f"| {row['epoch']} | {row['train_loss']:.4f} | {row['train_acc']:.2f} % | {row['test_loss']:.4f} "
        f"| {row['test_acc']:.2f} % | {row['lr']:.2e} | {row['seconds']:.1f} s |"
        for row in history[-last:]
    ]
    return "\n".join(lines)


def receptive_field_table(rows):
    """The rows of `models.receptive_field` as a table in Markdown."""
    keys = ("name", "kernel", "stride", "padding", "out_size", "jump", "receptive_field")
    lines = ["| layer | kernel | stride | padding | output side | jump | receptive field |"]
    lines += ["| :--- " + "| ---: " * 6 + "|"]
    return "\n".join(
        lines + ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    )

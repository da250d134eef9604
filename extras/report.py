"""The numbers of a run: results.json, a line that says where they come from, Markdown tables.

numbers = collect(checkpoint, data, found, history, confusion, mirrored_acc, parameters)
print(result(numbers))
"""

import contextlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from extras.checkpoint import to_bytes

TARGET = 90.0  # per cent, on the official test images
PACKAGES = ("torch", "torchvision", "albumentations", "torch-lr-finder", "matplotlib", "numpy")


def collect(checkpoint, data, found, history, confusion, mirrored_acc, parameters):
    """All numbers of a run, with the keys of results.json.

    Args:
        checkpoint: of the run; its config and choices are taken over.
        found: the range test's result, from `extras.lr_finder`.
        history: from `train.fit`.
        confusion: (C, C) counts of the test images, rows are true classes.
        mirrored_acc: accuracy in per cent where each image and its mirror image are averaged.
        parameters: the network's number of parameters.

    Raises ValueError where the network does not have the accuracy of its last epoch: its code was
    edited since.
    """
    config = checkpoint.config
    choices = checkpoint.state["choices"]
    test_accs = [row["test_acc"] for row in history]
    check_accuracy(np.asarray(confusion), test_accs[-1])
    return {
        "data": data.name,
        "images": len(data.train),
        "test_images": len(data.test),
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "network": config["network"],
        "parameters": parameters,
        "epochs": len(history),
        "batch_size": config["batch_size"],
        "seed": config["seed"],
        "recipe": config["recipe"],
        "lr_min": found.lr_min,
        "lr_max": found.lr_max,
        "lr_given": found.lr_given,
        "take_off": found.take_off,
        "lr_steepest": found.lr_steepest,
        "lr_minimum": found.lr_minimum,
        "loader": choices["loader"],
        "precision": choices["precision"],
        "device": choices["device"],
        "world_size": choices["world_size"],
        "versions": versions(),
        "seconds": sum(row["seconds"] for row in history),
        "best_train_acc": max(row["train_acc"] for row in history),
        "best_test_acc": max(test_accs),
        "final_test_acc": test_accs[-1],
        "final_test_acc_mirrored": mirrored_acc,
        "epoch_90": next((row["epoch"] for row in history if row["test_acc"] >= TARGET), None),
        "history": history,
        "confusion": np.asarray(confusion).tolist(),
    }


def check_accuracy(confusion, last_epoch):
    """Refuse a network that was edited after its training: names and shapes do not show that.

    A device or precision other than in training may move an image or two.
    """
    correct, total = confusion.trace(), confusion.sum()
    if abs(correct - last_epoch / 100 * total) > max(2, 0.01 * total):
        raise ValueError(
            f"the network has {100 * correct / total:.2f} % of the test images right, and had "
            f"{last_epoch:.2f} % in its last epoch: if its code was edited since, train it in "
            "another folder, or with resume=False"
        )


def write_results(numbers, model, checkpoint, figures):
    """Write weights and results.json to the run's folder, and to that of the figures too.

    There the weights are rounded to bfloat16, half the size: they are what misc/ has of the run
    that is shown. `Checkpoint.write` names a file that cannot be written; the checkpoint holds all
    of it.
    """
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    rounded = {name: w.bfloat16() if w.is_floating_point() else w for name, w in weights.items()}
    # where both are one folder, the exact weights
    for folder, state in {Path(figures): rounded, checkpoint.folder: weights}.items():
        checkpoint.write(folder / "results.json", to_json(numbers))
        checkpoint.write(folder / "s10_model.pt", to_bytes(state))


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
    lines = [
        "**{final_test_acc:.2f} % test accuracy** after epoch {epochs} "
        "(best {best_test_acc:.2f} %); {final_test_acc_mirrored:.2f} % where the probabilities of "
        "each image and of its mirror image are averaged. Best training accuracy "
        "{best_train_acc:.2f} %.".format_map(numbers),
        "{data}, {images:,} training and {test_images:,} test images, seed {seed}, batches of "
        "{batch_size}, {precision}, loader {loader}, {device}.".format_map(numbers),
        f"Time: {numbers['seconds'] / 60:.1f} minutes.",
    ]
    if numbers["data"] == "CIFAR-10":
        reached = "not reached in this run"
        if numbers["epoch_90"]:
            reached = f"first reached in epoch {numbers['epoch_90']}"
        lines.insert(1, f"{TARGET:.0f} % was {reached}.")
    return " ".join(lines)


def epoch_table(history, last=5):
    """The last few epochs as a table in Markdown."""
    head = [
        "epoch",
        "train loss",
        "train accuracy",
        "test loss",
        "test accuracy",
        "learning rate",
        "time",
    ]
    rows = [
        [
            row["epoch"],
            f"{row['train_loss']:.4f}",
            f"{row['train_acc']:.2f} %",
            f"{row['test_loss']:.4f}",
            f"{row['test_acc']:.2f} %",
            f"{row['lr']:.2e}",
            f"{row['seconds']:.1f} s",
        ]
        for row in history[-last:]
    ]
    return markdown_table(head, rows, text_columns=0)


def markdown_table(head, rows, text_columns=1):
    """A table in Markdown; the first `text_columns` are aligned to the left, the numbers right."""
    alignment = [":---" if i < text_columns else "---:" for i in range(len(head))]
    lines = [head, alignment, *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)

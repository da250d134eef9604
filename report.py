"""What do a run's numbers say? `results.json`, the table of epochs, and Target, Result and Analysis in words.

numbers = collect(data, history, found, config, parameters=…, device=…)
write_atomically("misc/results.json", to_json(numbers))
print(target_result_analysis(numbers, confusion, classes))     # Markdown
"""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

import comparison
from dataset import CLASSES

TARGET = 90.0  # per cent, on the official test pictures
PACKAGES = ("torch", "torchvision", "albumentations", "torch-lr-finder", "matplotlib", "numpy")
VEHICLES = ("airplane", "automobile", "ship", "truck")
README_MARKS = ("<!-- results: written by `python report.py`, do not edit -->", "<!-- end of results -->")
ABLATION_MARKS = ("<!-- ablation: written by `python report.py`, do not edit -->", "<!-- end of ablation -->")
ORIGINAL = Path(__file__).parent / "misc" / "original-2023.json"


def collect(data, history, found, config, confusion, *, parameters, device, world_size=1):
    """All numbers of a run as plain values, with the keys of `results.json`, and the analysis in words.

    Args:
        data: the `dataset.Data` that was trained on.
        history: what `train.fit` returned.
        found: what `lr_finder.find_lr` returned.
        config: what `settings.describe_run` returned.
        confusion: (C, C) counts of the test pictures, rows = true classes.
        parameters: the network's number of parameters.
        device: its name, for people.
        world_size: number of processes.
    """
    accuracies = [row["test_acc"] for row in history]
    numbers = dict(
        data=data.name,
        model=config["model"],
        classes=list(data.classes),
        mean=list(data.mean),
        std=list(data.std),
        pictures=len(data.train),
        test_pictures=len(data.test),
        epochs=config["epochs"],
        batch_size=config["batch_size"],
        seed=config["seed"],
        loader=config["loader"],
        recipe=config["recipe"],
        lr_min=found.lr_min,
        lr_max=found.lr_max,
        parameters=parameters,
        device=device,
        world_size=world_size,
        versions=versions(),
        seconds=sum(row["seconds"] for row in history),
        history=history,
        best_train_acc=max(row["train_acc"] for row in history),
        best_test_acc=max(accuracies),
        final_test_acc=accuracies[-1],
        epoch_90=next((row["epoch"] for row in history if row["test_acc"] >= TARGET), None),
        confusion=np.asarray(confusion).tolist(),
    )
    return numbers | dict(analysis=analysis(numbers, data.classes))


def provenance(numbers):
    """Where a figure's numbers come from, in a line."""
    n = numbers
    return f"{n['data']}: {n['pictures']:,} training pictures, {n['epochs']} epochs, seed {n['seed']}"


def versions():
    """The versions that a result depends on; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def to_json(numbers):
    """Results as the bytes of a JSON file; NaN is refused, since JSON has none."""
    return (json.dumps(numbers, indent=1, allow_nan=False) + "\n").encode()


def original():
    """The 2023 run that this one is measured against: recipe, result, and 24 epochs."""
    return json.loads(ORIGINAL.read_text(encoding="utf-8"))


def epoch_table(history, last=5):
    """The last few epochs as a Markdown table."""
    lines = [
        "| epoch | train loss | train accuracy | test loss | test accuracy | learning rate | time |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['epoch']} | {row['train_loss']:.4f} | {row['train_acc']:.2f} % | {row['test_loss']:.4f} "
        f"| {row['test_acc']:.2f} % | {row['lr']:.2e} | {row['seconds']:.1f} s |"
        for row in history[-last:]
    ]
    return "\n".join(lines)


def field_table(rows):
    """`models.receptive_field`'s rows as a Markdown table."""
    lines = [
        "| layer | kernel | stride | padding | output side | jump | receptive field |",
        "| :--- " + "| ---: " * 6 + "|",
    ]
    keys = ("name", "kernel", "stride", "padding", "out_size", "jump", "receptive_field")
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


def target_result_analysis(numbers):
    """Target, Result and Analysis of a run as Markdown, all computed from its own numbers (from `collect`)."""
    return "\n\n".join([target(numbers), result(numbers), numbers["analysis"]])


def target(numbers):
    return (
        f"**Target.** {TARGET:.0f} % test accuracy on CIFAR-10 within 24 epochs: one cycle with its peak at epoch 5, "
        "batches of 512."
    )


def result(numbers):
    n = numbers
    reached = f"reached in epoch {n['epoch_90']}" if n["epoch_90"] else "not reached in this run"
    lines = [
        f"**Result.** {n['final_test_acc']:.2f} % test accuracy after epoch {n['epochs']} (best "
        f"{n['best_test_acc']:.2f} %), {n['best_train_acc']:.2f} % best training accuracy, with "
        f"{n['parameters']:,} parameters. {TARGET:.0f} % was {reached}.",
        f"Data: {n['data']}, {n['pictures']:,} training and {n['test_pictures']:,} test pictures. "
        f"Seed {n['seed']}, batches of {n['batch_size']}, loader {n['loader']}, {n['device']}, "
        f"{n['seconds'] / 60:.1f} minutes.",
    ]
    if n["pictures"] < 50_000 or n["epochs"] < 24 or "sample" in n["data"]:
        lines.append(
            "This is a shortened run: its accuracy is not that of the assignment's 24 epochs of 50,000 pictures."
        )
    return " ".join(lines)


def analysis(numbers, classes):
    history, confusion = numbers["history"], np.asarray(numbers["confusion"])
    last = history[-1]
    sentences = [
        f"**Analysis.** The learning rate rose from {numbers['lr_min']:.2e} to {numbers['lr_max']:.2e} and fell back. "
        + swings(history),
        f"At the end, training accuracy (on augmented pictures, as the weights moved) is {last['train_acc']:.1f} % "
        f"and test accuracy {last['test_acc']:.1f} %: {gap(last['train_acc'] - last['test_acc'])}",
        worst_classes(confusion, classes) + kinds(confusion, classes),
    ]
    return " ".join(sentences)


def swings(history):
    """How steadily the test accuracy rose once the peak of the cycle was passed, beside the 2023 original."""
    peak = max(range(len(history)), key=lambda i: history[i]["lr"])
    fall, epoch = largest_fall(history[peak:])
    then = largest_fall(original()["history"][5:])
    if not fall:
        text = "After its peak, no epoch lost test accuracy to the one before it"
    else:
        text = "After its peak, the largest fall of test accuracy from one epoch to the next was "
        text += f"{fall:.1f} points (epoch {epoch})"
    return f"{text}; in the 2023 original it was {then[0]:.1f} points (epoch {then[1]})."


def largest_fall(history):
    """(points of test accuracy lost to the epoch before, the epoch), or (0, None)."""
    falls = [
        (before["test_acc"] - row["test_acc"], row["epoch"]) for before, row in zip(history, history[1:], strict=False)
    ]
    return max([fall for fall in falls if fall[0] > 0], default=(0.0, None))


def gap(points):
    if points > 3:
        return f"{points:.1f} points apart, the network knows its training pictures better than new ones."
    if points < -3:
        return f"augmented pictures are harder than clean ones by {-points:.1f} points; longer training has room."
    return "close together, so the network hardly overfits."


def worst_classes(confusion, classes):
    """The class with the lowest accuracy and the pair that is mistaken most often."""
    share = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    pairs = wrong + wrong.T
    a, b = np.unravel_index(pairs.argmax(), pairs.shape)
    if not wrong.any():
        return "Not one test picture is misclassified."
    return (
        f"Best is {classes[share.argmax()]} with {share.max():.1%}, weakest {classes[share.argmin()]} with "
        f"{share.min():.1%}. The pair mistaken for each other most often is {classes[a]} and {classes[b]}: "
        f"{pairs[a, b]} of {wrong.sum()} mistakes."
    )


def kinds(confusion, classes):
    """CIFAR-10 has six animals and four vehicles: how many mistakes stay within a kind? Nothing for other classes."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    if tuple(classes) != CLASSES or not wrong.any():
        return ""
    vehicle = np.isin(classes, VEHICLES)
    share = wrong[vehicle[:, None] == vehicle].sum() / wrong.sum()
    chance = (6 * 5 + 4 * 3) / (10 * 9)
    return f" {share:.0%} of the mistakes stay among animals or among vehicles; by chance, {chance:.0%} would."


def readme_block(numbers):
    """The part of the README that quotes `misc/results.json`: two paragraphs and the last epochs, as Markdown."""
    return "\n\n".join([target(numbers), result(numbers), numbers["analysis"], epoch_table(numbers["history"])])


def update_readme(readme, results):
    """Write the results, and the ablation where there is one beside them, into the README; returns the new text."""
    text = Path(readme).read_text(encoding="utf-8")
    numbers = json.loads(Path(results).read_text(encoding="utf-8"))
    rows = comparison.read(Path(results).with_name("ablation.json"))
    text = between(text, README_MARKS, readme_block(numbers))
    return between(text, ABLATION_MARKS, comparison.block(rows)) if rows else text


def between(text, marks, block):
    """The text with `block` in place of what stands between its two marks."""
    head, mark, rest = text.partition(marks[0])
    _, end, tail = rest.partition(marks[1])
    if not mark or not end:
        raise ValueError(f"the README lacks the marks {marks[0]!r} and {marks[1]!r}: put them where the block belongs")
    return f"{head}{mark}\n\n{block}\n\n{end}{tail}"


if __name__ == "__main__":
    Path("README.md").write_text(update_readme("README.md", "misc/results.json"), encoding="utf-8")

"""Beside people: which test images would a person get wrong too, and which mistakes are its own?

    python -m experiments.people     # -> misc/people.json, people.png, misclassified_images.png

CIFAR-10H (Peterson et al. 2019, arXiv:1908.07086) asked about 51 people for each test image. It is
downloaded to data/ (or read from the address or path in CIFAR10H_URL); its licence is CC BY-NC-SA
4.0, so that only sums and figures made from it are committed, never the file. For 54 test images,
at least three of five reviewers rejected the label (Northcutt et al. 2021, arXiv:2103.14749).
Without the data, one line says so.
"""

import argparse
import hashlib
import http.client
import io
import json
import os
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import dataset
import models
import test
import utils
from extras import hardware
from extras.files import write_atomically
from extras.report import to_json

WEIGHTS = Path(__file__).resolve().parent.parent / "misc" / "s10_model.pt"  # of the run shown
URL = "https://raw.githubusercontent.com/jcpeterson/cifar-10h/master/data/cifar10h-counts.npy"
SHA256 = "9b36b4550349af56c79083356312eb4af856cc5fd3caf1f669d40b9d0bbb69ff"
SOURCE = "CIFAR-10H (Peterson et al. 2019, CC BY-NC-SA 4.0)"
CITATION = f"people: {SOURCE}; doubtful labels: Northcutt et al. 2021"
PEOPLE = f"all 10,000 test images; people: per cent of about 51, {SOURCE}"
# From mturk/cifar10_mturk.json of github.com/cleanlab/label-errors (Apache-2.0)
DOUBTFUL = """
    165 792 882 1227 1300 1684 1718 1969 2010 2128 2232 2405 2532 2592 2804 2840 2940 3113 3168
    3183 3192 3490 3600 3753 3977 4055 4198 4614 4643 4794 4910 4965 5166 5191 5211 5468 5632
    5690 5882 5960 6522 6792 6877 6966 7311 7657 7846 8058 8296 8620 9227 9352 9643 9793
"""
KINDS = {  # of a mistake; the first that fits counts
    "doubtful_label": "the label is doubtful",
    "most_people": "most people agree with the network",
    "some_people": "some people agree with the network",
    "ours_alone": "nobody agrees with the network",
}


def load_counts(root="data"):
    """(10000, 10) int64: how many people chose each class for each test image; downloaded once.

    Raises:
        OSError, http.client.HTTPException: it cannot be downloaded.
        ValueError: it is not the official file.
    """
    path = Path(root) / "cifar10h-counts.npy"
    source = os.environ.get("CIFAR10H_URL", URL)
    if path.exists() and is_right(path.read_bytes()):
        return np.load(path, allow_pickle=False)
    if Path(source).expanduser().is_file():
        content = Path(source).expanduser().read_bytes()
    else:
        with urllib.request.urlopen(source, timeout=20) as answer:
            content = answer.read(10_000_000)
        if is_right(content):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
            print(f"{path}: CIFAR-10H, CC BY-NC-SA 4.0, from {source}")
    if not is_right(content):
        raise ValueError(f"{source} is not CIFAR-10H: its sha256 is not {SHA256[:12]}…")
    return np.load(io.BytesIO(content), allow_pickle=False)


def counts_or_none():
    """`load_counts`; where that fails, None and a line that says why."""
    try:
        return load_counts()
    except (OSError, ValueError, http.client.HTTPException) as error:  # a broken answer is the last
        reason = str(error) or type(error).__name__
        print(f"CIFAR-10H cannot be read ({reason}): the comparison with people is left out")
        return None


def is_right(content):
    return hashlib.sha256(content).hexdigest() == SHA256


def kinds(counts, labels, predicted, doubtful=None):
    """Sort the misclassified images by KINDS: a dict of indices, each image in one of them.

    Args:
        counts: (N, C), how many people chose each class.
        labels, predicted: N class indices.
        doubtful: indices of images whose label is doubtful; None: CIFAR-10's.
    """
    doubtful = [int(number) for number in DOUBTFUL.split()] if doubtful is None else doubtful
    wrong = np.flatnonzero(predicted != labels)
    with_us = counts[wrong, predicted[wrong]]
    fits = [
        np.isin(wrong, doubtful),
        2 * with_us > counts[wrong].sum(axis=1),
        with_us > 0,
        np.ones(len(wrong), dtype=bool),
    ]
    first = np.argmax(fits, axis=0)
    return {kind: wrong[first == number] for number, kind in enumerate(KINDS)}


def compare(counts, labels, predicted, classes, doubtful=None):
    """Compare the network, one person and the majority, and sort its mistakes: plain numbers."""
    image = np.arange(len(labels))
    person = counts[image, labels] / counts.sum(axis=1)  # the share of people who are right
    divided = person < 0.5  # fewer than half of the people agree with the label
    right = {
        "network": predicted == labels,
        "one_person": person,
        "majority": counts.argmax(axis=1) == labels,
    }
    by_class = []
    for number, name in enumerate(classes):
        here = labels == number
        if here.any():
            accuracies = {who: 100 * float(values[here].mean()) for who, values in right.items()}
            by_class.append({"class": name} | accuracies)
    found = kinds(counts, labels, predicted, doubtful)
    return dict(
        images=len(labels),
        accuracy={who: 100 * float(values.mean()) for who, values in right.items()},
        classes=by_class,
        misclassified=int((predicted != labels).sum()),
        kinds={kind: len(indices) for kind, indices in found.items()},
        people_divided=int(divided.sum()),
        network_wrong_where_people_divided=int((divided & (predicted != labels)).sum()),
    )


def captions(counts, labels, predicted):
    """A line for each image: per cent of the people who chose our class, and the label."""
    share = 100 * counts / counts.sum(axis=1, keepdims=True)
    return [
        f"people ✗ {one[ours]:.0f} ✓ {one[label]:.0f}"
        for one, ours, label in zip(share, predicted, labels, strict=True)
    ]


def captions_for(data, indices, predicted):
    """`captions` of test images, for the notebook.

    None where people saw other images, or their answers cannot be downloaded.
    """
    if data.kind != "cifar10" or data.limit is not None:
        return None
    counts = counts_or_none()
    if counts is None:
        return None
    return captions(counts[indices], data.test.targets[indices], predicted)


@utils.styled
def plot(result, *, note="", path=None):
    """Class by class, the network beside one person; and what the network's mistakes are."""
    fig = utils.new_figure(height_px=640)
    ax, below = fig.subplots(2, height_ratios=[10, 5])
    rows = result["classes"] + [{"class": "all classes"} | result["accuracy"]]
    for at, row in enumerate(rows):
        ax.plot([row["network"], row["one_person"]], [at, at], color=utils.GREY, lw=2, zorder=1)
    for who, name, colour, mark in (
        ("one_person", "one person, on average", utils.ORANGE, "D"),
        ("network", "the network", utils.BLUE, "o"),
    ):
        ax.plot([row[who] for row in rows], range(len(rows)), mark, color=colour, ms=9, label=name)
    ax.set_yticks(range(len(rows)), [row["class"] for row in rows])
    xlabel = f"accuracy on {result['images']:,} test images (%)"
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5), xlim=(None, 100))
    ax.legend(loc="best", fontsize=12)
    bars = below.barh(list(KINDS.values()), list(result["kinds"].values()), color=utils.SKY)
    below.bar_label(bars, fmt="{:,.0f}", padding=4)
    below.invert_yaxis()
    below.set_title("Who makes the network's mistakes, too?", size=13, weight="bold", loc="left")
    below.set(
        xlabel=f"the {result['misclassified']:,} misclassified images",
        xlim=(0, 1.1 * max(result["kinds"].values())),
    )
    accuracy = result["accuracy"]
    title = f"The network {accuracy['network']:.1f} %, one person {accuracy['one_person']:.1f} %"
    learner = "the network"
    if result["train_images"]:
        learner = f"a network that learned from {result['train_images']:,} images"
    words = f"Accuracy by class; below, the mistakes of {learner}"
    return utils.finish(fig, f"{title}\n{words}", note, path)


def predict(data, weights, device):
    """Predict the test images with trained weights.

    Returns:
        (probabilities, labels, the name of the precision). Raises ValueError for damaged weights,
        or those of other classes.
    """
    about = models.about_weights(weights)
    if tuple(about["classes"]) != tuple(data.classes):
        raise ValueError(f"{weights} knows the classes {', '.join(about['classes'])}: give others")
    model = models.load_weights(weights)
    model = model.to(device, memory_format=hardware.memory_format(device))
    precision, _ = hardware.choose_precision("auto", device)
    dtype = getattr(torch, precision)
    data = replace(data, mean=tuple(about["mean"]), std=tuple(about["std"]))
    loader = dataset.test_loader(data, device, dtype=dtype)
    probabilities, labels = test.predict(model, device, loader, dtype=dtype)
    return probabilities, labels, precision


def parse(arguments):
    parser = argparse.ArgumentParser(description="The network beside people, on test images.")
    add = parser.add_argument
    add("--data", default="cifar10", metavar="cifar10|FOLDER", help="the official files")
    add("--weights", type=Path, default=WEIGHTS, help="of a trained network; default: those shown")
    add("--out", type=Path, metavar="DIR", help="default: misc, or misc/people for other weights")
    args = parser.parse_args(arguments)
    if args.out is None:
        args.out = Path("misc") if args.weights.resolve() == WEIGHTS else Path("misc/people")
    return args


def main(arguments=None):
    args = parse(arguments)
    if not args.weights.is_file():
        sys.exit(f"{args.weights} is not there: train first, or give --weights FILE")
    counts = counts_or_none()
    if counts is None:
        return
    try:
        data = dataset.load(args.data)
        if data.kind != "cifar10":
            raise ValueError(
                f"data is {data.name}: people saw CIFAR-10's own test images, give those"
            )
        device = hardware.pick_device()
        hardware.set_deterministic(False)  # float32 means float32, on every GPU
        probabilities, labels, precision = predict(data, args.weights, device)
    except (ValueError, RuntimeError) as error:
        sys.exit(str(error))
    predicted = probabilities.argmax(axis=1)
    learned = json.loads(args.weights.with_name("results.json").read_text(encoding="utf-8"))
    result = compare(counts, labels, predicted, data.classes) | dict(
        data=data.name,
        train_images=learned.get("images"),
        sources=CITATION,
        device=hardware.device_name(device),
        precision=precision,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out / "people.json", to_json(result))
    plot(result, note=CITATION, path=args.out / "people.png")
    wrong = test.misclassified(probabilities, labels)[:25]
    utils.plot_misclassified(
        data.test.data[wrong],
        labels[wrong],
        probabilities[wrong],
        data.classes,
        note=PEOPLE,
        captions=captions(counts[wrong], labels[wrong], predicted[wrong]),
        path=args.out / "misclassified_images.png",
    )
    accuracies = [f"{who} {value:.2f} %" for who, value in result["accuracy"].items()]
    print(f"accuracy: {', '.join(accuracies)}")
    print(f"{result['misclassified']} misclassified images: {result['kinds']}")


if __name__ == "__main__":
    main()

"""The search for a recipe: candidates compared on 5,000 training images held out; the test set is
never looked at.

    python -m experiments.search --limit 12500 --seeds 2      # -> misc/search.json, .png
    python -m experiments.search --try '{"label_smoothing": 0.3}' --rows recipe

Rates, decay and resuming are those of ablation.py. What its files call test images are here the
images held out: the last 500 of each class.
"""

import dataclasses
import json
from functools import partial

import numpy as np

from dataset import ArrayDataset
from experiments import paired
from experiments.common import Row, guarded, options, start
from experiments.training import run_and_draw

KEYS = {"lr_factor", "lr_max", "weight_decay", "betas", "label_smoothing", "fc_scale"}


def candidate(changes):
    """A row that is named by what it changes: "label_smoothing 0.1"."""
    words = ", ".join(f"{name} {value}" for name, value in changes.items())
    key = "-".join(words.split()).translate({ord(mark): None for mark in "[],'"})
    return Row(key, words, changes=changes)


CANDIDATES = [
    Row("recipe", "the recipe as it is"),
    *(candidate(dict(lr_factor=value)) for value in (0.5, 2.0)),
    *(candidate(dict(weight_decay=value)) for value in (0.1, 0.5)),
    *(candidate(dict(label_smoothing=value)) for value in (0.0, 0.1)),
    candidate(dict(betas=[0.9, 0.999])),
    candidate(dict(fc_scale=1.0)),
]


def own(text):
    """A candidate from the command line, a JSON object."""
    try:
        changes = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{text!r} is no JSON object ({error}): write one like {{"label_smoothing": 0.3}}'
        ) from None
    if not isinstance(changes, dict) or not changes or not changes.keys() <= KEYS:
        raise ValueError(
            f"{text!r} is no change of the recipe: give some of {', '.join(sorted(KEYS))}"
        )
    return candidate(changes)


def hold_out(data):
    """The same data with the last tenth of each class's training images in place of the test
    images.
    """
    train, n = data.train, max(1, len(data.train) // (10 * len(data.classes)))
    held = np.zeros(len(train), dtype=bool)
    for label in range(len(data.classes)):
        held[np.flatnonzero(train.targets == label)[-n:]] = True
    rest, mine = (
        ArrayDataset(train.data[part], train.targets[part], data.classes) for part in (~held, held)
    )
    return dataclasses.replace(
        data, name=f"{data.name}, training images held out", train=rest, test=mine
    )


def main(arguments=None):
    parser = options("The search for a recipe, on training images held out.", limit=12_500, seeds=2)
    parser.add_argument(
        "--try", dest="own", action="append", default=[], metavar="JSON", help="a row of your own"
    )

    def rows(args):
        mine = [own(text) for text in args.own]
        if mine and args.rows:
            args.rows = ",".join([args.rows, *(row.key for row in mine)])
        return list(
            {row.key: row for row in CANDIDATES + mine}.values()
        )  # one that is there already counts once

    study = start(parser, arguments, "search", rows, arrange=hold_out)

    plot = partial(paired.plot, title="Difference to the recipe on training images held out")
    guarded(lambda: run_and_draw(study, paired.table, plot))


if __name__ == "__main__":
    main()

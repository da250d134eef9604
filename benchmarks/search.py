"""Which recipe is best? Candidates are trained on nine tenths of the training pictures and compared on the last tenth.

    python -m benchmarks.search --data cifar10-jpeg                       # every candidate, one seed (`make search`)
    python -m benchmarks.search --seeds 3 --rows recipe,weight_decay-0.1  # the promising ones again
    python -m benchmarks.search --try '{"lr_factor": 2, "weight_decay": 0.1}'    # a combination of your own

The test set is never looked at. Runs, LRMAX and resuming are those of `ablation.py`; what the files of a run call test
accuracy is here the accuracy on the pictures held out: 5,000 of CIFAR-10's training pictures, balanced by class.
"""

import dataclasses
import json

import numpy as np

from benchmarks.ablation import complete, guarded, options, start
from benchmarks.recipes import Row
from comparison import accuracy, difference, find, groups, rates
from dataset import ArrayDataset


def candidate(changes):
    """A row that is named by what it changes: "weight_decay 0.1"."""
    words = ", ".join(f"{name} {value}" for name, value in changes.items())
    key = words.replace(", ", "+").replace(" ", "-").translate({ord(mark): None for mark in "[]'\"/"})
    return Row(key, words, seeds=1, changes=changes)


CANDIDATES = (
    Row("recipe", "the recipe as it stands", seeds=1),
    *(candidate(dict(lr_factor=value)) for value in (0.5, 2.0, 4.0, 8.0)),
    *(candidate(dict(weight_decay=value)) for value in (0.02, 0.1, 0.2)),
    *(candidate(dict(label_smoothing=value)) for value in (0.0, 0.2)),
    *(candidate(dict(betas=[0.9, value])) for value in (0.95, 0.999)),
    candidate(dict(fc_scale=1.0)),
)
KEYS = {"lr_factor", "lr_max", "weight_decay", "label_smoothing", "betas", "fc_scale", "schedule", "augmentation"}


def own(text):
    """A candidate from the command line, a JSON object; ValueError where it is none."""
    try:
        changes = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f'{text!r} is no JSON object ({error}): write one like {{"lr_factor": 2}}') from None
    if not isinstance(changes, dict) or not changes or not changes.keys() <= KEYS:
        raise ValueError(
            f"{text!r} is no change of the recipe: give a JSON object with some of {', '.join(sorted(KEYS))}"
        )
    return candidate(changes)


def held_out(data):
    """The same data with the last tenth of each class's training pictures in the place of the test pictures."""
    train, n = data.train, max(1, len(data.train) // (10 * len(data.classes)))
    inside = np.zeros(len(train), dtype=bool)
    for label in range(len(data.classes)):
        inside[np.flatnonzero(train.targets == label)[-n:]] = True
    rest, mine = (ArrayDataset(train.data[part], train.targets[part], data.classes) for part in (~inside, inside))
    return dataclasses.replace(
        data, name=f"{data.name}, a tenth of its training pictures held out", train=rest, test=mine
    )


def ranking(rows):
    """The rows of one group, best first, as plain text."""
    recipe = find(rows, "recipe")
    lines = [f"{'held-out accuracy':>20}  {'to the recipe':>13}  {'LRMAX':>20}  seeds"]
    for row in sorted(rows, key=lambda row: -row["mean"]):
        about = f"{accuracy(row):>20}  {difference(row, recipe):>13}  {rates(row):>20}"
        lines.append(f"{about}  {len(row['seeds']):5}  {row['name']}")
    return "\n".join(lines)


def main(arguments=None):
    parser = options("The search for a recipe, on held-out training pictures.", "runs/search", "misc/search.json")
    parser.add_argument(
        "--try", dest="own", action="append", default=[], metavar="JSON", help="a candidate of your own"
    )
    args = parser.parse_args(arguments)
    try:
        own_rows = tuple(own(text) for text in args.own)
    except ValueError as error:
        parser.error(str(error))
    rows = CANDIDATES + own_rows
    if own_rows and args.rows is None:
        args.rows = ",".join(row.key for row in (CANDIDATES[0], *own_rows))  # nothing else, but what to compare with
    args = complete(parser, args, rows)

    def work():
        results, failures = start(args, rows, arrange=held_out)
        for group in groups(results.entries):
            one = group[0]
            print(f"\n{one['data']}: {one['pictures']:,} + {one['test_pictures']:,} pictures, {one['epochs']} epochs")
            print(ranking(group))
        return failures

    guarded("search", work)


if __name__ == "__main__":
    main()

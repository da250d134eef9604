"""Rows, finished runs in a JSON file, and the command line: what all experiments here share.

A row is the recipe with a few `changes`; everything else is the project's own code. A run is one
row with one seed. It goes on where it was cut, by the epoch. When it is finished, its numbers go
into the JSON file at once, and it is never trained again. Keys of `changes`, beyond those of
train.RECIPE (weight_decay, betas, label_smoothing):

    depth, residual, fc_scale   the network, see networks.py
    transform                   a name of augmentation.VARIANTS
    optimizer                   "coupled": Adam with L2 in the gradient, on every parameter, as in
    2023 schedule                    "constant" or "2023" instead of "cycle"
    lr_factor, lr_max           a multiple of the rate that the range test found, or a rate of its
    own
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import dataset
import train
from experiments.networks import model_name
from extras import settings as st
from extras.checkpoint import Checkpoint
from extras.files import lock, write_atomically

FULL_IMAGES = 50_000
TINY = st.Settings("tiny", epochs=2, batch_size=10, limit=20, iterations=20)


@dataclass(frozen=True)
class Row:
    """`key` names the row in files, `name` is for people.

    `rates` is the key of the row whose range test, with the same seed, finds LRMIN and LRMAX; where
    that test finds nothing, the one of the row `fallback` does.
    """

    key: str
    name: str
    note: str = ""
    changes: dict = field(default_factory=dict)
    rates: str = "recipe"
    fallback: str | None = None


class Results:
    """The finished runs in a JSON file: a list of rows; what differs by seed is a list in its row.

    `about` is a dict of plain values that two runs of one row have in common; a row with other
    values is another row.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.rows = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else []

    def find(self, about):
        return next(
            (
                row
                for row in self.rows
                if all(row.get(name) == value for name, value in about.items())
            ),
            None,
        )

    def run(self, about, seed):
        """The numbers of one finished run, or None."""
        row = self.find(about)
        if row is None or seed not in row["seeds"]:
            return None
        n, at = len(row["seeds"]), row["seeds"].index(seed)
        return {
            name: v[at]
            for name, v in row.items()
            if name not in about and isinstance(v, list) and len(v) == n
        }

    def add(self, about, words, run):
        """Add a run, and write the file anew; it is whole at any moment. words: name and note,
        which may change.
        """
        held = lock(
            Path("runs", self.path.stem, ".lock"), timeout=-1
        )  # another process may add rows, too
        try:
            self.write(about, words, run)
        finally:
            if held:
                held.release()

    def write(self, about, words, run):
        self.rows = Results(self.path).rows
        row = self.find(about)
        if row is None:
            row = dict(about) | {name: [] for name in run}
            self.rows.append(row)
        row |= words
        for name, value in run.items():
            row[name].append(value)
        if "accuracies" in row:
            values = row["accuracies"]
            row |= dict(
                mean=statistics.fmean(values),
                std=statistics.stdev(values) if len(values) > 1 else 0.0,
            )
        for one, many in (("device", "devices"), ("precision", "precisions")):
            row[one] = ", ".join(sorted(set(row[many])))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(
            json.dumps(row, ensure_ascii=False, allow_nan=False) for row in self.rows
        )
        write_atomically(self.path, f"[\n{lines}\n]\n".encode())  # a line a row


@dataclass
class Study:
    """What all rows of an experiment have in common.

    `data` is trained on, and its test images are looked at after each epoch; the accuracy at the
    end is measured on all images of `final`: that costs 1 % of a run on 12,500 images, and halves
    the noise.
    """

    name: str
    data: dataset.Data
    final: dataset.ArrayDataset
    settings: st.Settings
    results: Results
    rows: list  # all that there are
    chosen: list  # those to run
    seeds: int
    recipe: dict = field(default_factory=lambda: dict(train.RECIPE))

    def __post_init__(self):
        self.device = st.pick_device()
        self.tiny = self.settings.profile == "tiny"
        self.fingerprint = self.data.fingerprint

    def row(self, key):
        return next(row for row in self.rows if row.key == key)

    def recipe_of(self, row):
        """The recipe with the row's changes of it."""
        return self.recipe | {
            name: value for name, value in row.changes.items() if name in self.recipe
        }

    def about(self, row):
        recipe = (
            self.recipe_of(row) if row.rates == row.key else self.recipe
        )  # with which its rates are found
        return dict(
            key=row.key,
            data=self.data.name,
            fingerprint=self.fingerprint,
            images=len(self.data.train),
            test_images=len(self.final),
            epochs=self.settings.epochs,
            batch_size=self.settings.batch_size,
            recipe=recipe | dict(iterations=self.settings.iterations),
            changes=row.changes,
            rates=row.rates,
        )

    def folder(self, row, seed):
        size = "tiny" if self.tiny else st.run_name(self.data, self.settings) or "full"
        return Path("runs", self.name, size, f"{row.key}-{seed}")

    def checkpoint(self, row, seed, log):
        """At full size, `main.py --loader device --out FOLDER` makes the same checkpoint for the
        row `recipe`.
        """
        config = st.run_config(
            self.data, self.settings, seed, self.recipe | row.changes, model_name(row.changes)
        )
        checkpoint = Checkpoint(self.folder(row, seed), config, log=log)
        precision, _ = st.choose_precision("auto", self.device, checkpoint.before("precision"))
        checkpoint.before("loader", "device")  # refuses a run that was begun with another one
        name = st.device_name(self.device)
        checkpoint.choices = dict(loader="device", precision=precision, device=name, world_size=1)
        return checkpoint

    def full_steps(self):
        """The steps of a full run, to which the decay is scaled; a tiny run stays as it is."""
        size = self.settings.batch_size
        steps = self.settings.epochs * -(-len(self.data.train) // size)
        return steps if self.tiny else st.FULL.epochs * -(-FULL_IMAGES // size)


def options(description, *, limit, seeds):
    """The command line that all experiments share."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add(
        "--data",
        default="auto",
        metavar="auto|cifar10|sample|FOLDER",
        help="the images (default: auto)",
    )
    add(
        "--limit",
        type=int,
        default=limit,
        metavar="N",
        help=f"training images (default: {limit:,}; 50000: all)",
    )
    add("--seeds", type=int, default=seeds, help=f"runs of each row (default: {seeds})")
    add("--rows", metavar="KEY,…", help="some rows only; a wrong key lists them all")
    add(
        "--out",
        type=Path,
        default=Path("misc"),
        metavar="DIR",
        help="for JSON file and figure (default: misc)",
    )
    add(
        "--tiny", action="store_true", help="seconds; the numbers mean nothing, and go to runs/tiny"
    )
    return parser


def start(parser, arguments, name, rows, *, batch_size=512, arrange=lambda data: data):
    """Read the command line and load the data; returns the study. Wrong values end the program with
    exit code 2.

    Args:
        rows: all rows, or a function of the arguments that gives them.
        arrange: what is done to the whole data first, such as holding images out.
    """
    args = parser.parse_args(arguments)
    st.set_deterministic(False)  # as in any run: cuDNN picks its fastest algorithms
    try:
        st.check_int("seeds", args.seeds, 1), st.check_int("limit", args.limit, 10)
        rows = rows(args) if callable(rows) else rows
        chosen = pick(rows, args.rows)
        settings = TINY if args.tiny else replace(st.FULL, batch_size=batch_size, limit=args.limit)
        data = arrange(dataset.load(args.data))
    except ValueError as error:
        parser.error(str(error))
    except RuntimeError as error:  # the data cannot be downloaded
        sys.exit(str(error))
    limited = data.limited(settings.limit)
    print(limited.describe())
    out = Path("runs", "tiny") if args.tiny else args.out
    return Study(
        name=name,
        data=limited,
        final=limited.test if args.tiny else data.test,
        settings=settings,
        results=Results(out / f"{name}.json"),
        rows=list(rows),
        chosen=chosen,
        seeds=args.seeds,
    )


def pick(rows, keys):
    """The rows with these keys, in their order."""
    known = [row.key for row in rows]
    for key in keys.split(",") if keys else ():
        if key not in known:
            raise ValueError(f"row is {key!r}: choose among {', '.join(known)}")
    return [row for row in rows if not keys or row.key in keys.split(",")]


def finished(study, rows=None):
    """The rows of the file that belong to this study: same data, size and recipe. In the study's
    order.
    """
    found = (study.results.find(study.about(row)) for row in rows or study.rows)
    return [row for row in found if row is not None]


def guarded(work):
    """Run `work`, which returns the failures: exit code 1 and a sentence where something failed,
    130 after Ctrl-C.
    """
    try:
        failures = work()
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; the same command resumes after the last finished epoch")
        sys.exit(130)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    if failures:
        sys.exit(f"{len(failures)} runs failed: {'; '.join(failures)}")


def note(row):
    """Where a figure's numbers come from, in a line."""
    return (
        f"{row['data']}, {row['images']:,} training images, {row['epochs']} epochs, {row['device']}"
    )

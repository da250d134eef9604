"""Run the rows of an experiment, one after the other, and keep what comes out.

A *row* is the recipe with a few values changed, a *run* is one row with one seed. A run goes on
where it was cut, by the epoch. A finished run is one line in the experiment's JSON file, added at
once, and it is never trained again (results.py).
"""

import argparse
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import dataset
import test
import train
import transform
from experiments import augmentation
from experiments.build import build
from experiments.networks import make_model
from experiments.results import append, pack, rows
from experiments.schedules import make_schedule
from extras import hardware, settings
from extras.checkpoint import open_run
from extras.lr_finder import find_lr

FULL_STEPS = 24 * 98  # of a full run, to which the decay of a shorter one is scaled
# What a row can change: train.RECIPE, and these. Names: networks.make_model, augmentation.VARIANTS,
# schedules.make_schedule. guess: does the range test know what guessing costs?
RECIPE = train.RECIPE | dict(
    network="s10_model",
    augmentation="recipe",
    schedule="cycle",
    guess=True,
    iterations=100,
)


@dataclass(frozen=True)
class Row:
    """One row: `key` names it in files, `name` is for people, `changes` is what differs.

    LRMIN and LRMAX come from the range test, with the same seed, of the row whose key is `rates`;
    or LRMAX is `lr_max`, a number or one for each seed in a dict, and LRMIN a hundredth of it.
    """

    key: str
    name: str
    note: str = ""
    changes: dict = field(default_factory=dict)
    rates: str = "recipe"
    lr_max: float | dict | None = None


@dataclass
class Study:
    """What all runs of one command have in common.

    `data` is trained on, and its test images are looked at after each epoch; the accuracy at the
    end is measured on all images of `test`: that costs 1 % of a run, and halves the noise.
    """

    name: str
    data: dataset.Data
    test: dataset.ArrayDataset
    settings: settings.Settings
    recipe: dict
    rows: list  # all that there are
    chosen: list  # those to run
    seeds: int
    device: torch.device
    precision: str
    path: Path  # of the results
    figure: Path
    others: tuple = ()  # results of other experiments whose runs count here, too

    @property
    def identity(self):
        """What its runs have in common, as it stands in each line."""
        constants = (  # rows of an edited transform.py or train.py are of another table
            ("padding", transform.PADDING, 4),
            ("hole", transform.HOLE, 8),
            ("peak", train.PEAK, 5 / 24),
        )
        edited = {name: value for name, value, usual in constants if value != usual}
        return dict(
            data=self.data.name,
            fingerprint=self.data.fingerprint,
            images=len(self.data.train),
            test_images=len(self.test),
            epochs=self.settings.epochs,
            batch_size=self.settings.batch_size,
            recipe=self.recipe | edited,
            precision=self.precision,
            device=hardware.device_name(self.device),
        )

    def row(self, key):
        return next(row for row in self.rows if row.key == key)

    def finished(self, row, seed):
        """The line of a finished run, or None."""
        for run in rows(self.path, *self.others, like=self.identity).get(row.key, []):
            given = given_rate(row, seed)
            is_its_rate = given is None or run["lr_max"] == given
            if run["seed"] == seed and run["changes"] == row.changes and is_its_rate:
                return run
        return None

    def folder(self, row, seed):
        """Where a run has its checkpoint; main.py with --out there makes the row `recipe`, too."""
        return Path("runs", self.name, size_name(self.data, self.settings), f"{row.key}-{seed}")


def size_name(data, run_settings):
    """A name for the size of a run: "full", "cifar10-5000", "cifar10-1000-2-epochs"."""
    name = settings.run_name(data, run_settings) or "full"
    epochs = run_settings.epochs
    return name if epochs == settings.FULL.epochs else f"{name}-{epochs}-epochs"


# --- one run ------------------------------------------------------------------------------------


def begin(study, row, seed):
    """Make what trains a run's network, and open its checkpoint.

    Returns:
        (parts, checkpoint): parts as from `experiments.build.build`, with the row's changes.
    """
    own = study.recipe | row.changes
    # main.py's own keys, and what else is changed: so either goes on with the other's run
    recipe = {key: own[key] for key in train.RECIPE}
    recipe |= {key: value for key, value in own.items() if value != RECIPE.get(key)}
    options = dict(seed=seed, device=study.device, dtype=getattr(torch, study.precision))
    parts = build(
        study.data,
        epochs=study.settings.epochs,
        batch_size=study.settings.batch_size,
        loader="device",
        recipe=recipe,
        make_model=lambda classes: make_model(own["network"], classes),
        **options,
    )
    if own["augmentation"] != "recipe":
        parts.train_loader = augmentation.VariantLoader(
            study.data.train,
            study.settings.batch_size,
            mean=study.data.mean,
            std=study.data.std,
            **options,
            **augmentation.VARIANTS[own["augmentation"]],
        )
    config = settings.run_config(
        study.data,
        study.settings,
        seed,
        recipe,
        parts.model,
        name=own["network"],
        lr_max=given_rate(row, seed),
    )
    folder = study.folder(row, seed)
    checkpoint, _, _ = open_run(
        folder, config, study.device, loader="device", precision=study.precision
    )
    return parts, checkpoint


def given_rate(row, seed):
    """The LRMAX that a row has of its own, or None."""
    return row.lr_max[seed] if isinstance(row.lr_max, dict) else row.lr_max


def range_test(study, row, seed):
    """What a row's own range test finds: from its finished run, its checkpoint, or a test now.

    It runs with the decay of a full run, whose weights it is about.
    """
    finished = study.finished(row, seed)
    if finished is not None and finished["range_test"]:
        return finished["range_test"]
    parts, checkpoint = begin(study, row, seed)
    own = study.recipe | row.changes
    found = find_lr(
        parts.model,
        study.device,
        parts.train_loader,
        parts.optimizer,
        parts.criterion,
        guess=study.data.guess if own["guess"] else None,
        iterations=own["iterations"],
        dtype=getattr(torch, study.precision),
        checkpoint=checkpoint,
    )
    found = dict(vars(found))
    for name in ("lrs", "losses", "smoothed"):
        found[name] = [float(f"{value:.6g}") for value in found[name]]
    return found


def train_row(study, row, seed):
    """Train one run to its end, from its beginning or where it was cut; returns its line."""
    lr_max = given_rate(row, seed)
    if lr_max is not None:
        lr_min, tested = lr_max / 100, None
    else:
        tested = range_test(study, study.row(row.rates), seed)
        lr_min, lr_max = tested["lr_min"], tested["lr_max"]

    own = study.recipe | row.changes
    dtype = getattr(torch, study.precision)
    parts, checkpoint = begin(study, row, seed)
    steps = study.settings.epochs * len(parts.train_loader)
    scheduler, lr_min, lr_max = make_schedule(
        own["schedule"], parts.optimizer, lr_min, lr_max, steps, own.get("lr_factor", 1)
    )
    weight_decay = scaled_decay(own, steps)
    for group in parts.optimizer.param_groups:
        group["weight_decay"] = weight_decay
    history = train.fit(
        parts.model,
        study.device,
        parts.train_loader,
        parts.optimizer,
        parts.criterion,
        scheduler,
        epochs=study.settings.epochs,
        evaluate=lambda: test.test(
            parts.model, study.device, parts.test_loader, parts.criterion, dtype=dtype
        ),
        dtype=dtype,
        seed=seed,
        checkpoint=checkpoint,
        by_epoch=False,
    )
    return dict(
        key=row.key,
        name=row.name,
        note=row.note,
        **study.identity,
        changes=row.changes,
        seed=seed,
        rates_from=None if tested is None else row.rates,
        lr_min=lr_min,
        lr_max=lr_max,
        weight_decay=weight_decay,
        range_test=tested if row.rates == row.key else None,
        curve=[round(epoch["test_acc"], 2) for epoch in history],
        train_loss=history[-1]["train_loss"],
        **final_accuracy(study, parts.model, dtype),
        seconds=round(sum(epoch["seconds"] for epoch in history), 1),
    )


def scaled_decay(recipe, steps):
    """The decay of a run: fewer steps, each with as much more of it.

    A decay that is added to the gradient (Adam) is no shrinkage, and stays what it is.
    """
    decay = recipe["weight_decay"]
    return decay * FULL_STEPS / steps if recipe["optimizer"] == "AdamW" else decay


def final_accuracy(study, model, dtype):
    """Accuracies on all test images, without and with their mirror images, and which are right."""
    everything = replace(study.data, test=study.test)
    loader = dataset.test_loader(everything, study.device, dtype=dtype)
    probabilities, labels = test.predict(model, study.device, loader, dtype=dtype)
    mirrored, _ = test.predict(model, study.device, loader, dtype=dtype, mirrored=True)
    correct = probabilities.argmax(axis=1) == labels
    return dict(
        accuracies=[100 * float(correct.mean())],
        accuracies_mirrored=[100 * float((mirrored.argmax(axis=1) == labels).mean())],
        correct=pack(correct),
    )


# --- the command line ---------------------------------------------------------------------------


def options(description, *, limit=5000, seeds=1, precision="auto"):
    """The command line that all experiments share."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--data", default="cifar10", metavar="auto|cifar10|sample|FOLDER", help="the images")
    add("--limit", type=int, default=limit, metavar="N", help=f"training images ({limit:,})")
    add("--epochs", type=int, default=settings.FULL.epochs, help="of each run (24)")
    add("--seeds", type=int, default=seeds, metavar="N", help=f"runs of each row ({seeds})")
    add("--rows", metavar="KEY,…", help="some rows only; a wrong key lists them all")
    add("--precision", default=precision, choices=hardware.PRECISIONS, help=f"({precision})")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="for JSON file and figure; default: misc, or misc/NAME for other data or another size",
    )
    parser.set_defaults(committed_limit=limit, committed_precision=precision)
    return parser


def start(parser, arguments, name, all_rows, *, recipe=RECIPE, batch_size=512, others=()):
    """Read the command line, load the data, and make the study.

    Wrong values end the program with exit code 2, data that cannot be loaded with 1 and a sentence.

    Args:
        name: of the results file.
        all_rows: those that there are.
        others: names of results files whose runs count here, too.
    """
    args = parser.parse_args(arguments)
    hardware.set_deterministic(False)  # as in any run: cuDNN picks its fastest algorithms
    try:
        for option, least in (("seeds", 1), ("limit", 10), ("epochs", 1)):
            settings.check_int(option, getattr(args, option), least)
        chosen = pick(all_rows, args.rows)
        device = hardware.pick_device()
        precision, _ = hardware.choose_precision(args.precision, device)
        data = dataset.load(args.data)
    except ValueError as error:
        parser.error(str(error))
    except RuntimeError as error:  # the data cannot be downloaded
        sys.exit(str(error))
    limited = data.limited(args.limit)
    print(limited.describe())
    run_settings = replace(
        settings.FULL, epochs=args.epochs, batch_size=batch_size, limit=limited.limit
    )
    out = args.out or results_folder(args, limited, run_settings, precision)
    file = name if args.limit == args.committed_limit else f"{name}_{len(limited.train)}"
    return Study(
        name=name,
        data=limited,
        test=data.test,
        settings=run_settings,
        recipe=recipe,
        rows=list(all_rows),
        chosen=chosen,
        seeds=args.seeds,
        device=device,
        precision=precision,
        path=out / f"{name}.json",
        figure=out / f"{file}.png",
        others=tuple(out / f"{other}.json" for other in others),
    )


def results_folder(args, data, run_settings, precision):
    """Where results go: misc/ for what is committed there, misc/NAME/ for all else.

    Committed are CIFAR-10 at two sizes, 24 epochs, in bfloat16 (or what the experiment asks for):
    no trial overwrites the figures that the README shows.
    (And results.FLOAT32, to which the same rows go in float32.)
    """
    usual = "bfloat16" if args.committed_precision == "auto" else args.committed_precision
    is_committed = (
        data.kind == "cifar10"
        and len(data.train) in (args.committed_limit, 50_000)
        and run_settings.epochs == settings.FULL.epochs
    )
    if is_committed and precision == usual:
        return Path("misc")
    name = size_name(data, run_settings)
    return Path("misc", name if precision == usual else f"{name}-{precision}")


def pick(all_rows, keys):
    """The rows with these keys ("recipe,plain"; None: all), in their order."""
    known = [row.key for row in all_rows]
    asked = keys.split(",") if keys else known
    for key in asked:
        if key not in known:
            raise ValueError(f"row is {key!r}: choose among {', '.join(known)}")
    return [row for row in all_rows if row.key in asked]


def run_all(study, run_row=train_row):
    """Do what is not finished yet, seed by seed, so that every row has one before any has two.

    Args:
        run_row: called with study, row and seed; returns the run's line.

    Returns the failures, a sentence each; the other rows go on.
    """
    failures = []
    for seed in range(study.seeds):
        for row in study.chosen:
            if isinstance(row.lr_max, dict) and seed not in row.lr_max:
                continue  # it has rates for fewer seeds
            label = f"{row.key}, seed {seed}"
            if study.finished(row, seed):
                print(f"{label}: finished already")
                continue
            print(f"{label}:", flush=True)
            try:
                run = run_row(study, row, seed)
            except (ValueError, ArithmeticError, OSError, RuntimeError) as error:
                failures.append(f"{label}: {error}")
                print(failures[-1], flush=True)
                continue
            append(study.path, run)
            if "accuracies" in run:
                print(f"{label}: {run['accuracies'][0]:.2f} %", flush=True)
            if study.data.limit is not None:  # each takes 160 MB; those at full size stay
                shutil.rmtree(study.folder(row, seed), ignore_errors=True)
    return failures


def main(study, table, plot, run_row=train_row):
    """Run what is missing, then print the table and draw the figure of what is finished.

    Exit code 1 and a sentence where a run failed, 130 after Ctrl-C.
    """
    try:
        failures = run_all(study, run_row)
        found = rows(study.path, *study.others, like=study.identity)
        if found:
            print(table(found))
            plot(found, path=study.figure)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; the same command resumes after the last finished epoch")
        sys.exit(130)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    if failures:
        sys.exit(f"{len(failures)} runs failed: {'; '.join(failures)}")

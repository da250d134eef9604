"""What does each ingredient of the recipe buy? `make results`: the rows of `recipes.ROWS`, row by row, seed by seed.

    python -m benchmarks.ablation --data cifar10-jpeg             # a GPU: all; a CPU: three trainings, 5,000 pictures
    python -m benchmarks.ablation --rows recipe,plain --seeds 1   # some of them
    python -m benchmarks.ablation --minutes 8                     # begin no run that would not fit

A run goes on where it was cut, by the epoch (`study.py` has what a run is, and where its LRMAX comes from). The
recipe's run is the same as

    python train.py --profile full --loader device --seed S [--limit N] --out OUT/recipe-S

and either goes on with what the other began. A finished run goes into misc/ablation.json at once and is never computed
again, even when its folder is gone, as on a machine that was lent. The test set is for reporting only: to choose a
recipe there is `search.py`.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path

import comparison
import dataset
from benchmarks.recipes import ROWS
from benchmarks.study import BASE, TINY, Study
from checkpoint import CheckpointError, write_atomically
from download import DownloadError
from run import number
from settings import choose, pick_device, set_deterministic, whole

CPU_PICTURES, CPU_ROWS = 5000, 3  # without a GPU: half an hour to one and a half a training, on two cores
RUN = ("seeds", "accuracies", "lr_max", "seconds", "largest_falls", "curves", "devices")  # lists, an entry a run
FAILURES = (ValueError, TypeError, ArithmeticError, MemoryError, OSError, CheckpointError, DownloadError)


class Results:
    """The finished runs of a results file, which is written anew whenever one is added."""

    def __init__(self, path, study, rows=ROWS):
        self.path, self.study, self.order = Path(path), study, [row.key for row in rows]
        self.entries = comparison.read(path)

    def find(self, row):
        """The row's entry for the study's data and recipe, or None."""
        mine = self.study.identity(row)
        return next((entry for entry in self.entries if mine == {key: entry.get(key) for key in mine}), None)

    def has(self, row, seed):
        entry = self.find(row)
        return entry is not None and seed in entry["seeds"]

    def rates(self, row):
        """{seed: LRMAX} of the row's finished runs."""
        entry = self.find(row)
        return dict(zip(entry["seeds"], entry["lr_max"], strict=True)) if entry else {}

    def add(self, row, run):
        entry = self.find(row)
        if entry is None:
            entry = self.study.identity(row) | {key: [] for key in RUN}
            self.entries.append(entry)
        for key in RUN:
            if run[key] is not None:
                entry[key].append(run[key])
        values = entry["accuracies"]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        entry |= dict(name=row.name, note=row.note, mean=statistics.fmean(values), std=deviation)
        entry["device"] = ", ".join(sorted(set(entry["devices"])))
        self.entries.sort(key=lambda one: self.order.index(one["row"]) if one["row"] in self.order else 99)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(one, ensure_ascii=False, allow_nan=False) for one in self.entries)
        write_atomically(self.path, f"[\n{lines}\n]\n".encode())  # a line a row


def plan(rows, seeds=None):
    """(row, seed) in the order of worth; spoilt pictures right after the recipe's run, whose weights are then there."""
    jobs = [(row, seed) for row in rows for seed in range(seeds or row.seeds)]
    return sorted(jobs, key=lambda job: (0 if "corruption" in job[0].changes else rows.index(job[0]), job[1]))


def run_jobs(study, results, jobs, minutes=None):
    """Run what is not finished yet; returns what is missing, (row, seed, reason) each.

    Args:
        minutes: begin no run that would take longer than what is left of them, as long as the last one. The first
            run is begun in any case: it goes on the next time.
    """
    began, longest, missing = time.perf_counter(), None, []
    for row, seed in jobs:
        if results.has(row, seed):
            continue
        start = time.perf_counter()
        if minutes is not None and longest is not None and start - began + longest > 60 * minutes:
            missing.append((row, seed, "no time was left"))
            continue
        study.log(f"{row.name}, seed {seed}")
        try:
            run = study.run(row, seed, results.rates(BASE))
        except FAILURES as error:
            study.log(f"  {error}")
            missing.append((row, seed, str(error)))
            continue
        if run["seconds"] is not None:
            longest = max(run["seconds"], time.perf_counter() - start)
        results.add(row, run)
        study.log(f"  {run['accuracies']:.2f} %")
    return missing


def options(description, out, path):
    """The parser of the options that ablation and search share."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--data", default="auto", metavar="auto|cifar10|sample|FOLDER", help="the pictures (default: auto)")
    add("--rows", metavar="NAME,…", help="some rows only; a wrong name lists them all")
    add("--seeds", type=number, help="runs of each row (default: as many as the row says; without a GPU 1)")
    add("--limit", type=number, metavar="N", help=f"N training pictures (default: all; without a GPU {CPU_PICTURES:,})")
    add("--epochs", type=number, help="epochs of a run (default: 24)")
    add("--minutes", type=float, help="begin no run that would take longer than is left of them")
    add("--out", type=Path, default=Path(out), metavar="DIR", help=f"where the runs lie (default: {out})")
    add("--json", type=Path, default=Path(path), help=f"the finished rows (default: {path})")
    add("--tiny", action="store_true", help="seconds instead of minutes; the numbers mean nothing")
    return parser


def complete(parser, args, rows):
    """Check the options and put in the defaults that suit the device; wrong values end the program with exit code 2."""
    device, cpu = pick_device(), pick_device().type == "cpu"
    try:
        if args.minutes is not None and not args.minutes > 0:
            raise ValueError(f"minutes is {args.minutes:g}: give more than 0")
        limit = CPU_PICTURES if cpu and args.limit is None else args.limit
        args.settings = TINY if args.tiny else choose("full", device, epochs=args.epochs, limit=limit)
        args.seeds = whole("seeds", args.seeds, 1) or (1 if cpu or args.tiny else None)
        dataset.check_source(args.data)
        args.chosen = pick(rows, args.rows)
    except ValueError as error:
        parser.error(str(error))
    if args.rows is None and (cpu or args.tiny):  # rows without training cost nothing
        args.chosen = [row for row in args.chosen if row in rows[:CPU_ROWS] or "corruption" in row.changes]
    return args


def pick(rows, names):
    """The named rows, in the order of worth."""
    known, wanted = [row.key for row in rows], names.split(",") if names else None
    for name in wanted or ():
        if name not in known:
            raise ValueError(f"row is {name!r}: choose among {', '.join(known)}")
    return [row for row in rows if wanted is None or row.key in wanted]


def start(args, rows, arrange=lambda data: data):
    """Load the data, run the rows, say what is missing; returns (results, failures).

    Args:
        arrange: what is done to the limited data, as holding pictures out.
    """
    set_deterministic(False)  # as in any run: cuDNN picks its fastest algorithms
    settings, data = args.settings, dataset.load(args.data)
    if settings.limit is not None and settings.limit >= len(data.train):
        settings = dataclasses.replace(settings, limit=None)
    data = arrange(data.limited(settings.limit))
    print(data.describe())
    study = Study(data, settings, args.out)
    results = Results(args.json, study, rows)
    missing = run_jobs(study, results, plan(args.chosen, args.seeds), args.minutes)
    for row, seed, reason in missing:
        print(f"missing: {row.name}, seed {seed}: {reason}")
    return results, [reason for *_, reason in missing if reason != "no time was left"]


def guarded(name, work):
    """Run `work`, which returns the failures; failures and Ctrl-C end the program with a sentence."""
    try:
        failures = work()
    except FAILURES as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        print(f"{name}: stopped by Ctrl-C; the same command goes on after the last finished epoch")
        sys.exit(130)
    sys.exit(f"{name}: {len(failures)} runs failed" if failures else 0)


def main(arguments=None):
    parser = options("The ablation: what does each ingredient buy?", "runs/ablation", "misc/ablation.json")
    args = complete(parser, parser.parse_args(arguments), ROWS)

    def work():
        results, failures = start(args, ROWS)
        if results.entries:
            comparison.plot(results.entries, results.path.with_suffix(".png"))
            comparison.plot_curves(results.entries, results.path.with_name(f"{results.path.stem}_curves.png"))
            print(comparison.block(results.entries))
        return failures

    guarded("ablation", work)


if __name__ == "__main__":
    main()

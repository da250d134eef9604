"""Train one run of a row: from its beginning, or where it was cut, to its end.

failures = run_all(study)       # every row that was asked for, with every seed
"""

import base64
import shutil
import statistics
import time
from functools import partial

import numpy as np
import torch

import dataset
import main
import test
import train
from experiments.augmentation import VARIANTS, VariantLoader
from experiments.common import finished
from experiments.networks import make_model
from extras import settings as st
from extras.lr_finder import find_lr

FAILURES = (ValueError, TypeError, ArithmeticError, OSError, RuntimeError)
MADE_UP = dict(
    lr_min=1e-4, lr_max=2e-3, take_off=4e-3, lr_steepest=3e-4, lr_minimum=2e-4
)  # for --tiny alone
RATES = tuple(MADE_UP)


def make_parts(study, row, seed, dtype=torch.float32):
    """What trains a row's network, with its changes in their places."""
    recipe = study.recipe_of(row)
    parts = main.build(
        study.data,
        epochs=study.settings.epochs,
        batch_size=study.settings.batch_size,
        seed=seed,
        device=study.device,
        loader="device",
        dtype=dtype,
        recipe=recipe,
        make_model=partial(make_model, row.changes),
        log=quiet,
    )
    if row.changes.get("optimizer") == "coupled":
        parts.optimizer = torch.optim.Adam(
            parts.model.parameters(),
            betas=tuple(recipe["betas"]),
            weight_decay=recipe["weight_decay"],
            fused=True,
        )
    if "transform" in row.changes:
        parts.train_loader = VariantLoader(
            study.data.train,
            study.settings.batch_size,
            study.device,
            seed=seed,
            mean=study.data.mean,
            std=study.data.std,
            dtype=dtype,
            **VARIANTS[row.changes["transform"]],
        )
    return parts


def begin(study, row, seed, log):
    """(checkpoint, dtype, parts) of a run; one that was begun elsewhere keeps its precision where
    it can.
    """
    checkpoint = study.checkpoint(row, seed, log)
    dtype = getattr(torch, checkpoint.choices["precision"])
    return checkpoint, dtype, make_parts(study, row, seed, dtype)


def find_rates(study, row, seed):
    """(the rates that the row's range test found, the key of the row that was tested)."""
    if "lr_max" in row.changes:
        return dict(lr_max=row.changes["lr_max"], lr_min=row.changes["lr_max"] / 100), None
    try:
        return range_test(study, study.row(row.rates), seed), row.rates
    except ValueError:
        if row.fallback is not None:
            return range_test(study, study.row(row.fallback), seed), row.fallback
        raise


def range_test(study, row, seed):
    """The rates of a row's own range test: from its finished run, its checkpoint, or found now.

    It runs with the decay as it is at full size: the decay of the run is scaled by what it finds.
    """
    finished = study.results.run(study.about(row), seed)
    if finished and finished["range_tests"]:
        return finished["range_tests"]
    checkpoint, dtype, parts = begin(study, row, seed, quiet)
    try:
        found = find_lr(
            parts.model,
            study.device,
            parts.train_loader,
            parts.optimizer,
            parts.criterion,
            iterations=study.settings.iterations,
            dtype=dtype,
            checkpoint=checkpoint,
        )
    except ValueError:
        if study.tiny:
            return MADE_UP
        raise
    finally:
        checkpoint.release()
    return {name: getattr(found, name) for name in RATES}


def set_schedule(study, row, parts, rates):
    """The row's scheduler (None: constant) and a dict of what it does: lr_min, lr_max,
    weight_decay, shrinkage.

    On fewer images there are fewer steps, and a lower rate decays less. So the decay is scaled:
    shrinkage, the sum of rate x decay over all steps, is the same for every row as for the recipe
    at full size.
    """
    steps, epochs = len(parts.train_loader), study.settings.epochs
    factor = row.changes.get("lr_factor", 1)
    cycle, _ = train.cycle_curve(rates["lr_max"], steps, epochs, rates["lr_min"])
    schedule = row.changes.get("schedule", "cycle")
    if schedule == "constant":
        lr_min = lr_max = factor * statistics.fmean(cycle)
        lrs, scheduler = [lr_max] * len(cycle), None
        for group in parts.optimizer.param_groups:
            group["lr"] = lr_max
    elif schedule == "2023":
        lr_max = rates["lr_max"]
        lr_min, lrs = lr_max / 100, cycle
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            parts.optimizer,
            lr_max,
            total_steps=len(cycle),
            pct_start=train.PEAK,
            anneal_strategy="linear",
            div_factor=100,
            final_div_factor=100,
        )
    else:
        lr_max = factor * rates["lr_max"]
        lr_min = min(rates["lr_min"], lr_max)
        lrs, _ = train.cycle_curve(lr_max, steps, epochs, lr_min)
        scheduler = train.one_cycle(parts.optimizer, lr_max, steps, epochs, lr_min)
    decay, shrinkage = parts.optimizer.param_groups[0]["weight_decay"], None
    if (
        row.changes.get("optimizer") != "coupled"
    ):  # coupled L2 is no shrinkage: Adam divides by the gradient's size
        full, _ = train.cycle_curve(rates["lr_max"], 1, study.full_steps(), rates["lr_min"])
        decay = scaled_decay(decay, lrs, full)
        parts.optimizer.param_groups[0]["weight_decay"] = decay
        shrinkage = decay * sum(lrs)
    return scheduler, dict(lr_min=lr_min, lr_max=lr_max, weight_decay=decay, shrinkage=shrinkage)


def scaled_decay(decay, lrs, full):
    """The decay with which the rates `lrs`, one a step, shrink the weights as `decay` does with the
    rates `full`.
    """
    return decay * (sum(full) / sum(lrs))


def train_row(study, row, seed, log):
    """One run, from its beginning or where it was cut; returns its numbers."""
    rates, tested = find_rates(study, row, seed)
    checkpoint, dtype, parts = begin(study, row, seed, log)
    scheduler, used = set_schedule(study, row, parts, rates)
    history = train.fit(
        parts.model,
        study.device,
        parts.train_loader,
        parts.optimizer,
        parts.criterion,
        scheduler,
        epochs=study.settings.epochs,
        seed=seed,
        dtype=dtype,
        checkpoint=checkpoint,
        log=log,
        evaluate=lambda: test.test(
            parts.model, study.device, parts.test_loader, parts.criterion, dtype=dtype
        ),
    )
    loader = dataset.DeviceLoader(
        study.final,
        dataset.TEST_BATCH,
        study.device,
        train=False,
        mean=study.data.mean,
        std=study.data.std,
        dtype=dtype,
    )
    probabilities, labels = test.predict(parts.model, study.device, loader, dtype=dtype)
    correct = probabilities.argmax(axis=1) == labels
    checkpoint.release()
    return dict(
        seeds=seed,
        accuracies=100 * float(correct.mean()),
        curves=[round(epoch["test_acc"], 2) for epoch in history],
        train_losses=history[-1]["train_loss"],
        **{f"{name}s": value for name, value in used.items()},
        range_tests=rates if tested == row.key else {},
        rates_from=tested,
        correct=pack(correct),
        seconds=round(sum(epoch["seconds"] for epoch in history), 1),
        devices=st.device_name(study.device),
        precisions=checkpoint.choices["precision"],
    )


def pack(correct):
    """N booleans as text: bits, in base64."""
    return base64.b64encode(np.packbits(correct)).decode()


def unpack(text, n):
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=n).astype(bool)


def run_all(study):
    """Train what is not finished yet, seed by seed, so that every row has one before any has two;
    returns failures.
    """
    failures = []
    for seed in range(study.seeds):
        for row in study.chosen:
            about, name = study.about(row), f"{row.key}, seed {seed}"
            if study.results.run(about, seed):
                print(f"{name}: finished already")
                continue
            start = time.perf_counter()
            try:
                run = train_row(
                    study,
                    row,
                    seed,
                    log=lambda line, name=name: print(f"{name}  {line}", flush=True),
                )
            except FAILURES as error:
                failures.append(f"{name}: {error}")
                print(failures[-1], flush=True)
                continue
            study.results.add(about, dict(name=row.name, note=row.note), run)
            print(
                f"{name}: {run['accuracies']:.2f} % in {(time.perf_counter() - start) / 60:.1f} min",
                flush=True,
            )
            if study.data.limit is not None:  # each takes 160 MB; those at full size stay
                shutil.rmtree(study.folder(row, seed), ignore_errors=True)
    return failures


def run_and_draw(study, table, plot):
    """Train what is missing, then print the table and draw the figure of the finished rows; returns
    failures.
    """
    failures, found = run_all(study), finished(study)
    if found:
        print(table(found))
        plot(found, path=study.results.path.with_suffix(".png"))
    return failures


def quiet(*_):
    """A log that says nothing."""

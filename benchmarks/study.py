"""How is one row trained? The same steps as `run.py`, with the row's changes in their places.

    study = Study(data, settings, out, device)
    run = study.run(row, seed, known={})      # trains, or goes on, or finds it finished; the numbers of the run

LRMAX: the range test costs as much as an epoch or more, and only one thing may differ between two rows. So every row
takes the LRMAX that the recipe's range test found with the same seed (or with seed 0, where that seed has no recipe
run). A row that changes what the range test would have seen says so in its note. The 2023 recipe has its own.
"""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

import dataset
import models
import report
from benchmarks import augmentation, recipes
from checkpoint import Checkpoint, to_bytes, write_atomically
from loader import TEST_BATCH, DeviceLoader, make_loaders
from lr_finder import DIVISOR, RangeTest
from settings import Settings, describe_run, device_name, pick_device, precision
from test import confusion_matrix, predict, test
from train import PEAK, RECIPE, find_lr, fit, make_criterion

TINY = Settings("tiny", epochs=1, batch_size=4, limit=20, iterations=20)
BASE = recipes.ROWS[0]


@dataclass
class Study:
    """Rows on one data set.

    Args:
        out: a run is the folder OUT/<row>-<seed>, with the files that `train.py` writes.
        make_model: (classes, additions) -> network.
        log: takes one line of text.
    """

    data: dataset.Data
    settings: Settings
    out: Path
    device: torch.device = field(default_factory=pick_device)
    make_model: object = models.CustomResNet
    log: object = partial(print, flush=True)

    def __post_init__(self):
        self.fingerprint = self.data.fingerprint
        self.dtype = precision(self.device)

    def identity(self, row):
        """What makes two runs two seeds of one row; plain values, as JSON has them."""
        about = dict(row=row.key, data=self.data.name, fingerprint=self.fingerprint)
        about |= dict(pictures=len(self.data.train), test_pictures=len(self.data.test))
        about |= dict(epochs=self.settings.epochs, batch_size=self.settings.batch_size)
        return about | dict(recipe=RECIPE | dict(iterations=self.settings.iterations), changes=row.changes)

    def run(self, row, seed, known):
        """One run from its beginning, or where it was cut, to its end.

        Args:
            known: {seed: LRMAX of the recipe} of runs whose folder may be gone.

        Returns:
            A dict: seeds, accuracies, lr_max, seconds, largest_falls, curves, devices; None for what it has not.
        """
        if "corruption" in row.changes:
            return self.spoilt(row, seed, known)
        if row.key == BASE.key:
            numbers = self.train(row, seed)
        else:
            rate = row.changes.get("lr_max") or self.recipe_rate(seed, known) * row.changes.get("lr_factor", 1)
            numbers = self.train(row, seed, rate)
        history = numbers["history"]
        peak = max(0, round(PEAK * numbers["epochs"]) - 1)  # the epoch that ends at LRMAX: the fifth of 24
        return dict(
            seeds=seed,
            accuracies=numbers["final_test_acc"],
            lr_max=numbers["lr_max"],
            seconds=round(numbers["seconds"], 1),
            largest_falls=round(report.largest_fall(history[peak:])[0], 2),
            curves=[round(one["test_acc"], 2) for one in history],
            devices=numbers["device"],
        )

    def begin(self, row, seed, rate=None):
        """All that `run.py` puts together before training. rate: LRMAX; None for the recipe itself, which finds it."""
        recipe = RECIPE | row.changes | ({} if rate is None else dict(lr_max=rate))
        folder, model = self.folder(row, seed), self.network(recipe, seed)
        loaders = self.loaders(recipe, seed)
        optimizer, criterion = recipes.make_adam(model, recipe), make_criterion(recipe)
        config = self.config(model, recipe, seed)
        checkpoint = Checkpoint(folder, config, device=device_name(self.device), log=self.log)
        if rate is None:
            options = dict(iterations=self.settings.iterations, dtype=self.dtype, checkpoint=checkpoint)
            found = find_lr(model, self.device, loaders[0], optimizer, criterion, **options)
        else:
            found = RangeTest(rate / DIVISOR, rate, [], [], [])
        about = dict(recipe=recipe, folder=folder, config=config, checkpoint=checkpoint, found=found)
        return SimpleNamespace(model=model, loaders=loaders, optimizer=optimizer, criterion=criterion, **about)

    def train(self, row, seed, rate=None):
        """Train to the end; the numbers of `results.json`."""
        run, epochs = self.begin(row, seed, rate), self.settings.epochs
        scheduler = recipes.make_schedule(run.optimizer, run.recipe, run.found.lr_max, len(run.loaders[0]), epochs)
        parts = run.model, self.device, *run.loaders, run.optimizer, run.criterion, scheduler, epochs
        options = dict(dtype=self.dtype, checkpoint=run.checkpoint)
        history = fit(*parts, seed=seed, log=lambda line: self.log(f"  {run.folder.name}  {line}"), **options)
        results = run.folder / "results.json"
        if not results.exists():
            probabilities, labels = predict(run.model, self.device, run.loaders[1], dtype=self.dtype)
            about = dict(parameters=models.count_parameters(run.model), device=run.checkpoint.state["device"])
            confusion = confusion_matrix(probabilities, labels)
            numbers = report.collect(self.data, history, run.found, run.config, confusion, **about)
            write_atomically(run.folder / "s10_model.pt", to_bytes(run.model.state_dict()))
            write_atomically(results, report.to_json(numbers))
        run.checkpoint.previous.unlink(missing_ok=True)  # the run is finished, and there are many
        return json.loads(results.read_text(encoding="utf-8"))

    def folder(self, row, seed):
        return self.out / f"{row.key}-{seed}"

    def network(self, recipe, seed):
        """The row's network as it is before training, on the device."""
        torch.manual_seed(seed)
        network = recipes.make_network(recipe, len(self.data.classes), self.make_model)
        return network.to(self.device, memory_format=torch.channels_last)

    def loaders(self, recipe, seed):
        """The device loader and, for a row with another augmentation, its variant in place of the training part."""
        size, options = self.settings.batch_size, dict(seed=seed, dtype=self.dtype)
        for_training, for_test = make_loaders(self.data, "device", size, device=self.device, **options)
        if "augmentation" in recipe:
            options |= dict(mean=self.data.mean, std=self.data.std)
            options |= dict(variant=augmentation.VARIANTS[recipe["augmentation"]])
            for_training = augmentation.VariantLoader(self.data.train, size, self.device, **options)
        return for_training, for_test

    def config(self, model, recipe, seed):
        """What makes the run the run it is: for the recipe, what `train.py` says too."""
        return describe_run(self.data, model, self.settings, seed=seed, loader="device", workers=0, recipe=recipe)

    def recipe_state(self, seed):
        """The checkpoint of the recipe's run, which may be going on in another process; {} where there is none."""
        path = self.folder(BASE, seed) / "checkpoint.pt"
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True) if path.exists() else {}
        return state if state.get("config") == self.config(self.network(RECIPE, seed), RECIPE, seed) else {}

    def recipe_rate(self, seed, known):
        """The recipe's LRMAX with this seed, else with seed 0, else from the range test that begins its run."""
        for one in (seed, 0):
            test = self.recipe_state(one).get("range_test")
            if one in known or test:
                return known[one] if one in known else test["lr_max"]
        return self.begin(BASE, seed).found.lr_max

    def spoilt(self, row, seed, known):
        """The recipe's weights on spoilt test pictures."""
        state = self.recipe_state(seed)
        if len(state.get("history", [])) < self.settings.epochs:
            raise ValueError(f"{self.folder(BASE, seed)} holds no finished run: the row {BASE.key!r} comes first")
        model = self.network(RECIPE, seed)
        model.load_state_dict(state["model"])
        spoil = augmentation.CORRUPTIONS[row.changes["corruption"]]
        split = dataset.ArrayDataset(spoil(self.data.test.data), self.data.test.targets, self.data.classes)
        options = dict(train=False, mean=self.data.mean, std=self.data.std, dtype=self.dtype)
        loader = DeviceLoader(split, TEST_BATCH, self.device, **options)
        _, accuracy = test(model, self.device, loader, make_criterion(), dtype=self.dtype)
        run = dict(seeds=seed, accuracies=accuracy, lr_max=self.recipe_rate(seed, known))
        return run | dict(seconds=None, largest_falls=None, curves=None, devices=device_name(self.device))

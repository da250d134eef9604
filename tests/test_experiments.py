"""The experiments: every script on small data, resuming, rates, intervals, networks, people."""

import dataclasses
import hashlib
import http.client
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dataset
import models
import train
import transform
from experiments import (
    ablation,
    depth,
    gradient_flow,
    learning_rate,
    networks,
    paired,
    parts,
    people,
    range_tests,
    results,
    schedules,
    study,
)
from experiments.augmentation import VARIANTS, VariantLoader, mean_windows
from experiments.build import build
from experiments.networks import ResNet, make_model
from extras import settings

MISC = Path(__file__).resolve().parent.parent / "misc"
CONTRACT = (
    "key name data images epochs seed accuracies accuracies_mirrored curve correct device "
    "precision lr_min lr_max weight_decay range_test"
)


class Narrow(nn.Module):
    """A network that trains in no time, with what the experiments change in ours."""

    def __init__(self, num_classes=10, residual=True):
        super().__init__()
        self.residual = residual
        self.conv = nn.Conv2d(3, 4, 3, stride=4, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 64, num_classes, bias=False)
        self.softmax = nn.LogSoftmax(dim=1)
        self.fc.weight.data.mul_(1 / 8)

    def forward(self, x):
        return self.softmax(self.fc(self.bn(self.conv(x)).flatten(1)).float())


def noise(n, seed):
    images = np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return dataset.ArrayDataset(images, np.arange(n) % 10, dataset.CLASSES)


def colours(n, seed):
    """Images that can be learned: each class has its colour, under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 10
    palette = np.random.default_rng(5).integers(60, 196, (10, 1, 1, 3))
    images = palette[labels] + rng.integers(-60, 60, (n, 32, 32, 3))
    return dataset.ArrayDataset(images.astype(np.uint8), labels, dataset.CLASSES)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Easy images, a narrow network, and an empty folder to run in."""
    data = dataset.Data("CIFAR-10", colours(200, 0), colours(50, 1), kind="cifar10")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "load", lambda *_, **__: data)
    monkeypatch.setattr(models, "CustomResNet", Narrow)
    return data


SMALL = ["--limit", "100", "--epochs", "4", "--seeds", "1", "--precision", "float32"]
FOLDER = Path("misc/cifar10-100-4-epochs-float32")


def lines_of(name, folder=FOLDER):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def make_study(*more, rows=ablation.ROWS):
    """A study of 100 images and four epochs, where the decay is scaled."""
    return study.start(study.options(""), [*SMALL, *more], "ablation", rows)


# --- running rows -------------------------------------------------------------------------------


def test_the_ablation_runs_and_each_line_is_a_finished_run(small, capsys):
    ablation.main(SMALL)
    lines = lines_of("ablation")
    assert [line["key"] for line in lines] == [row.key for row in ablation.ROWS]
    assert all(line.keys() >= set(CONTRACT.split()) for line in lines)
    assert all(len(line["curve"]) == 4 and line["seed"] == 0 for line in lines)
    own = {line["key"] for line in lines if line["range_test"]}
    assert own == {"recipe", "strict"}  # the others take the recipe's rates, or one of 2023
    assert len(lines[0]["range_test"]["losses"]) > 20
    assert (FOLDER / "ablation_100.png").read_bytes().startswith(b"\x89PNG")
    assert "| the recipe |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "script, rows",
    [
        (learning_rate, "recipe,constant,cycle_2,constant_0.0625"),
        (depth, "resnet8,resnet8_plain"),
        (gradient_flow, "s10,s10_plain"),
        (range_tests, "recipe,fc_scale"),
    ],
)
def test_every_other_script_runs(small, monkeypatch, script, rows):
    monkeypatch.setattr(networks, "ResNet", lambda _, *more: Narrow(*more))
    name = script.__name__.split(".")[-1]
    script.main([*SMALL, "--rows", rows, "--out", "results"])
    assert [line["key"] for line in lines_of(name, Path("results"))] == rows.split(",")
    assert list(Path("results").glob(f"{name}*.png"))


def test_a_trial_writes_nothing_that_the_readme_shows(small):
    ablation.main([*SMALL, "--rows", "recipe,plain"])
    assert [path.name for path in Path("misc").iterdir()] == [FOLDER.name]
    parser = study.options("")
    full = replace(settings.FULL, limit=5000)
    many = replace(small, train=noise(5000, 0), limit=5000)

    def folder(data=many, run_settings=full, precision="bfloat16"):
        args = parser.parse_args([])
        return study.results_folder(args, data, run_settings, precision)

    assert folder() == Path("misc")
    assert folder(data=replace(many, kind="sample")) == Path("misc/sample-full")
    assert folder(run_settings=replace(full, epochs=3)) == Path("misc/cifar10-5000-3-epochs")
    assert folder(precision="float32") == Path("misc/cifar10-5000-float32")
    assert parser.parse_args([]).data == "cifar10" and parser.parse_args([]).limit == 5000


def test_a_second_call_trains_nothing_and_a_new_seed_is_added(small, monkeypatch, capsys):
    ablation.main([*SMALL, "--rows", "recipe,constant"])
    before = lines_of("ablation")
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", None)
        patch.setattr(study, "find_lr", None)
        ablation.main([*SMALL, "--rows", "recipe,constant"])
        learning_rate.main([*SMALL, "--rows", "recipe,constant"])  # the ablation's count here, too
    assert lines_of("ablation") == before
    assert capsys.readouterr().out.count("finished already") == 4
    this = make_study()
    assert this.finished(this.row("constant"), 0) and not this.finished(this.row("constant"), 1)
    assert (
        this.finished(replace(this.row("constant"), changes={"schedule": "fall_only"}), 0) is None
    )
    ablation.main([*SMALL, "--rows", "recipe", "--seeds", "2"])
    assert lines_of("ablation")[:2] == before
    assert [line["seed"] for line in lines_of("ablation")] == [0, 0, 1]


def test_an_interrupted_run_goes_on_after_its_last_epoch(small, monkeypatch, capsys):
    ablation.main([*SMALL, "--rows", "strict"])
    straight = lines_of("ablation")[0]
    (FOLDER / "ablation.json").unlink()
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        epochs = iter([train.train, Mock(side_effect=KeyboardInterrupt)])
        patch.setattr(train, "train", lambda *args, **options: next(epochs)(*args, **options))
        ablation.main([*SMALL, "--rows", "strict"])
    ablation.main([*SMALL, "--rows", "strict"])
    assert "resumed after epoch 1 of 4" in capsys.readouterr().out
    again = lines_of("ablation")[0]
    assert again["curve"] == straight["curve"] and again["correct"] == straight["correct"]


def test_the_row_recipe_goes_on_with_the_run_of_main(small, monkeypatch):
    """Row 1 of the issue is trained by main.py, and is the ablation's row `recipe`."""
    this = replace(make_study(), data=small, settings=settings.FULL)
    monkeypatch.setattr(study, "open_run", lambda folder, config, *_, **__: (config, None, None))
    _, config = study.begin(this, this.row("recipe"), 0)
    model = Narrow()
    assert config == settings.run_config(small, settings.FULL, 0, train.RECIPE, model)
    assert this.folder(this.row("recipe"), 0) == Path("runs/ablation/full/recipe-0")
    others = [study.begin(this, row, 0)[1] for row in ablation.ROWS[1:]]
    assert config not in others


def test_a_failure_is_said_and_the_other_rows_go_on(small, monkeypatch):
    usual = study.make_schedule
    steps = iter([usual, Mock(side_effect=train.TrainingDiverged("the loss is NaN")), usual])
    monkeypatch.setattr(study, "make_schedule", lambda *args: next(steps)(*args))
    with pytest.raises(SystemExit, match="plain, seed 0.*NaN"):
        ablation.main([*SMALL, "--rows", "recipe,plain,constant"])
    assert [line["key"] for line in lines_of("ablation")] == ["recipe", "constant"]


def test_rows_of_an_edited_augmentation_are_of_another_table(small, monkeypatch):
    row = ablation.ROWS[0]
    this = make_study("--out", ".")
    line = made_up("recipe", np.ones(4, bool)) | this.identity
    results.append(this.path, line | {"changes": row.changes})
    assert this.finished(row, 0)
    monkeypatch.setattr(transform, "HOLE", 16)
    assert not this.finished(row, 0)


def test_a_row_with_another_rate_or_other_changes_is_another_run(small):
    row = study.Row("own", "own", changes={"weight_decay": 0.1}, lr_max={0: 1e-3, 1: 2e-3})
    this = make_study("--out", ".", rows=[row])
    line = made_up("own", np.ones(4, bool)) | this.identity
    line |= {"changes": row.changes, "lr_max": 1e-3}
    results.append(this.path, line | {"accuracies": [1.0]})
    results.append(this.path, line | {"accuracies": [2.0]})
    assert this.finished(row, 0)["accuracies"] == [2.0]  # of two lines of one run, the newer
    assert this.finished(row, 1) is None
    assert this.finished(dataclasses.replace(row, lr_max=3e-3), 0) is None
    assert this.finished(dataclasses.replace(row, changes={}), 0) is None


@pytest.mark.parametrize("arguments", [["--rows", "nonsense"], ["--seeds", "0"], ["--limit", "3"]])
def test_wrong_arguments_are_refused_before_any_work(small, arguments):
    with pytest.raises(SystemExit) as error:
        ablation.main(arguments)
    assert error.value.code == 2


def test_the_smallest_limit_is_ten_images(small):
    assert len(make_study("--limit", "10").data.train) == 10


def test_the_final_accuracy_is_of_all_test_images(small):
    many = noise(500, 2)
    this = replace(make_study(), test=many)
    model = Narrow()
    found = study.final_accuracy(this, model.to(this.device), torch.float32)
    model.cpu()
    pixels = transform.normalise(torch.from_numpy(many.data).flatten(2), *transform.normaliser(32))
    with torch.inference_mode():
        model.eval()
        straight, mirror = model(pixels), model(pixels.flip(3))
    right = straight.argmax(dim=1).numpy() == many.targets
    both = (straight.exp() + mirror.exp()).argmax(dim=1).numpy() == many.targets
    assert len(this.data.test) == 20 and right.sum() != both.sum()  # 20: after each epoch
    assert (results.unpack(found["correct"], 500) == right).all()
    assert found["accuracies"] == [pytest.approx(100 * right.mean())]
    assert found["accuracies_mirrored"] == [pytest.approx(100 * both.mean())]


# --- rates, decay, what the rows change ---------------------------------------------------------


def rates_and_betas(scheduler, steps):
    group = scheduler.optimizer.param_groups[0]
    seen = []
    for _ in range(steps):
        seen.append((group["lr"], group["betas"][0]))
        scheduler.optimizer.step()
        scheduler.step()
    return np.array(seen).T


def adam():
    return torch.optim.Adam([nn.Parameter(torch.zeros(1))], betas=(0.9, 0.999))


def test_schedules_differ_from_one_cycle_in_the_rate_alone():
    low, high, steps = 5e-5, 4e-3, 240
    cycle, betas = train.cycle_curve(high, 10, 24, low)
    found = {}
    for name in ("cycle", "fall_only", "rise_only", "constant"):
        scheduler, *_ = schedules.make_schedule(name, adam(), low, high, steps)
        found[name] = rates_and_betas(scheduler, steps)
    assert np.allclose(found["cycle"], [cycle, betas])
    rates, _ = found["fall_only"]
    assert rates[0] == pytest.approx(high) and rates[-1] == pytest.approx(low)
    assert np.allclose(np.diff(rates), (low - high) / (steps - 1))
    rates, _ = found["rise_only"]
    assert np.allclose(rates[:50], cycle[:50]) and np.allclose(rates[49:], high)  # 5 epochs of 10
    rates, _ = found["constant"]
    assert np.allclose(rates, sum(cycle) / 240, rtol=1e-9, atol=0)
    assert abs(statistics.median(cycle) - sum(cycle) / 240) > 1e-6 * high  # not the median
    for name in ("fall_only", "rise_only", "constant"):  # beta1 as one cycle has it at this rate
        rates, beta1 = found[name]
        assert np.allclose(beta1, np.interp(rates, sorted(cycle), sorted(betas, reverse=True)))
    scheduler, lowest, highest = schedules.make_schedule("constant", adam(), low, high, steps, 4)
    rates, beta1 = rates_and_betas(scheduler, steps)
    assert lowest == highest == pytest.approx(4 * sum(cycle) / 240) and np.allclose(rates, highest)
    assert np.allclose(beta1, 0.85)  # above LRMAX


def test_peaks_and_the_cycle_of_2023():
    for factor in (0.125, 4):
        optimizer = adam()
        scheduler, low, high = schedules.make_schedule("cycle", optimizer, 5e-5, 4e-3, 48, factor)
        rates, _ = rates_and_betas(scheduler, 48)
        assert max(rates) == pytest.approx(factor * 4e-3) == high and low == min(5e-5, high)
        assert rates[0] == pytest.approx(low) and rates[-1] == pytest.approx(low)
    scheduler, *_ = schedules.make_schedule("2023", adam(), 4.93e-4, 4.93e-2, 2400)
    rates, _ = rates_and_betas(scheduler, 2400)
    assert rates[0] == pytest.approx(4.93e-4) and max(rates) == pytest.approx(4.93e-2, rel=1e-3)
    assert rates[-1] == pytest.approx(4.93e-6, rel=1e-2)  # it annihilates


def test_decay_is_scaled_by_the_number_of_steps_and_nothing_else(small, monkeypatch):
    by_key = {row.key: row for row in (*ablation.ROWS, *learning_rate.ROWS)}
    used = {}

    def fit(model, device, loader, optimizer, criterion, scheduler, **options):
        used[row.key] = optimizer.param_groups[0]["weight_decay"], type(optimizer).__name__
        assert scheduler.optimizer is optimizer and options["by_epoch"] is False
        raise ArithmeticError("enough")

    this = make_study(rows=list(by_key.values()))
    found = study.range_test(this, this.row("recipe"), 0)
    strict = study.range_test(this, this.row("strict"), 0)
    tests = {"recipe": found, "strict": strict}
    monkeypatch.setattr(study, "range_test", lambda _, row, __: tests[row.key])
    monkeypatch.setattr(train, "fit", fit)
    for row in by_key.values():
        with pytest.raises(ArithmeticError, match="enough"):
            study.train_row(this, row, 0)
    scaled = pytest.approx(0.25 * 2352 / 4)  # four epochs of one batch, where a full run has 2,352
    without = {"no_decay", "strict", "strict_2023_rate", "recipe_2023"}
    assert all(used[key] == (scaled, "AdamW") for key in by_key if key not in without)
    assert used["no_decay"] == (0, "AdamW") and used["strict"] == (0, "Adam")
    assert used["strict_2023_rate"] == (0, "Adam") and used["recipe_2023"] == (1e-4, "Adam")
    assert study.scaled_decay(study.RECIPE, 240) == pytest.approx(0.25 * 9.8)
    assert study.scaled_decay(study.RECIPE, 2352) == 0.25


def test_the_range_test_knows_what_guessing_costs_but_for_depth(small, monkeypatch):
    told = []

    def find_lr(*_, guess, **__):
        told.append(guess)
        raise ValueError("enough")

    monkeypatch.setattr(study, "find_lr", find_lr)
    monkeypatch.setattr(networks, "ResNet", lambda _, *more: Narrow(*more))
    for this in (make_study(), replace(make_study(rows=depth.ROWS), recipe=depth.RECIPE)):
        with pytest.raises(ValueError, match="enough"):
            study.range_test(this, this.rows[0], 0)
    assert told == [pytest.approx(math.log(10)), None]


def test_rows_change_what_they_say(small):
    this = make_study()
    parts = {row.key: study.begin(this, row, 0)[0] for row in ablation.ROWS}
    recipe = parts["recipe"]
    assert not parts["plain"].model.residual and recipe.model.residual
    for key in ("strict", "fc_scale", "logits_8"):
        assert torch.equal(parts[key].model.fc.weight, 8 * recipe.model.fc.weight)
    images = torch.randn(4, 3, 32, 32, device=this.device)
    logits = parts["fc_scale"].model.eval()(images)
    eighth = parts["logits_8"].model.eval()(images)
    assert torch.allclose(eighth, (logits / 8).log_softmax(dim=1), atol=1e-6)
    smoothing = {key: part.criterion.label_smoothing for key, part in parts.items()}
    assert {key for key, value in smoothing.items() if value == 0} == {
        "strict",
        "strict_2023_rate",
        "recipe_2023",
        "no_smoothing",
    }
    assert parts["beta2_099"].optimizer.param_groups[0]["betas"][1] == 0.99
    assert parts["recipe_2023"].train_loader.hole == 10
    assert parts["no_cutout"].train_loader.hole == 0
    windows = parts["mean_padding"].train_loader.images
    assert tuple(windows[0, 0, 0, 0, 0, :3]) == transform.mean_colour(small.mean)
    given = {row.key: study.given_rate(row, 0) for row in ablation.ROWS}
    assert {key for key, rate in given.items() if rate} == {"strict_2023_rate", "recipe_2023"}
    assert given["strict_2023_rate"] == 4.93e-2
    tenth = next(row for row in depth.ROWS if row.key == "resnet44_plain_tenth")
    assert study.given_rate(tenth, 1) == 3.5e-3
    asked = []
    three = replace(this, rows=[tenth], chosen=[tenth], seeds=3)

    def ask(_, row, seed):
        asked.append(seed)
        return made_up(row.key, np.ones(4, dtype=bool), seed)

    study.run_all(three, run_row=ask)
    assert asked == [0, 1]  # it has rates for these


def test_build_makes_what_the_settings_say(small):
    parts = build(small, epochs=3, batch_size=50, seed=4, loader="device")
    torch.manual_seed(4)
    assert all(map(torch.equal, parts.model.parameters(), models.s10_model().parameters()))
    assert len(parts.train_loader) == 4 and parts.train_loader.seed == 4
    assert parts.schedule(1e-3).total_steps == 12


# --- augmentation and networks ------------------------------------------------------------------


def test_variants_of_the_augmentation():
    data = noise(64, 0)
    same = [VariantLoader(data, 16, seed=3), dataset.DeviceLoader(data, 16, seed=3)]
    for _ in range(2):  # epochs
        for (a, x), (b, y) in zip(*same, strict=True):
            assert torch.equal(a, b) and torch.equal(x, y)
    whole = next(iter(VariantLoader(data, 64, seed=3, **VARIANTS["no_cutout"])))[0]
    cut = next(iter(dataset.DeviceLoader(data, 64, seed=3)))[0]
    assert ((whole != cut).any(dim=1).sum(dim=(1, 2)) <= 64).all()
    assert torch.equal(whole[cut != 0], cut[cut != 0])
    old = next(iter(VariantLoader(data, 64, seed=3, **VARIANTS["2023"])))[0]
    holes = (old == torch.tensor(transform.MEAN).view(3, 1, 1)).all(dim=1).sum(dim=(1, 2))
    assert set(holes.tolist()) == {0, 100} and 16 < (holes == 100).sum() < 48


def test_padding_with_the_mean_colour():
    images = noise(3, 0).data
    windows = mean_windows(torch.from_numpy(images))
    colour = np.array(transform.mean_colour(transform.MEAN), dtype=np.uint8)
    padded = np.empty((3, 40, 40, 3), dtype=np.uint8)
    padded[:] = colour
    padded[:, 4:36, 4:36] = images
    for row, column in ((0, 0), (4, 4), (8, 3)):
        crop = windows[0, 1, row, column].reshape(32, 32, 3).numpy()
        assert (crop == padded[1, row : row + 32, column : column + 32]).all()
        crop = windows[1, 1, row, column].reshape(32, 32, 3).numpy()
        assert (crop == padded[1, :, ::-1][row : row + 32, column : column + 32]).all()


def test_networks_of_he_et_al():
    model, plain = ResNet(20), ResNet(20, residual=False)
    assert models.count_parameters(model) == models.count_parameters(plain) == 269_722  # 0.27 M
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(model.eval()(images), plain.eval()(images))
    assert [len(gradient_flow.convolutions(ResNet(depth))) for depth in (8, 20, 44)] == [7, 19, 43]
    with pytest.raises(ValueError, match="6n"):
        ResNet(21)
    with pytest.raises(ValueError, match="s10_other"):
        make_model("s10_other")


def test_the_block_of_he_et_al_adds_before_its_last_relu():
    """Their block is ReLU(R + X), ours X + ReLU(R): the depth experiment is theirs."""
    block = ResNet(8).blocks[1].eval()  # 16 to 32 channels, stride 2
    x = torch.randn(2, 16, 8, 8)
    r = F.conv2d(x, block.conv1.weight, stride=2, padding=1)
    r = F.batch_norm(r, block.bn1.running_mean, block.bn1.running_var).relu()
    r = F.conv2d(r, block.conv2.weight, padding=1)
    r = F.batch_norm(r, block.bn2.running_mean, block.bn2.running_var)
    shortcut = torch.zeros(2, 32, 4, 4)
    shortcut[:, :16] = x[:, :, ::2, ::2]
    assert (r < 0).any() and (shortcut < 0).any()
    assert torch.allclose(block(x), (r + shortcut).relu(), atol=1e-5)


def test_gradient_norms_are_those_of_autograd():
    torch.manual_seed(0)
    model, images, labels = make_model("resnet8"), torch.randn(4, 3, 32, 32), torch.arange(4)
    model.train()
    loss = F.cross_entropy(model(images), labels)
    right = torch.autograd.grad(loss, model.conv.weight)[0].norm()
    found = gradient_flow.gradient_norms(model, [(images, labels)])[0]
    assert found == pytest.approx(float(right), rel=1e-4)


# --- which runs belong together -----------------------------------------------------------------


def made_up(key, right, seed=0, changes=None, **values):
    """A line of a results file, with what stands in every one."""
    line = dict(
        key=key,
        name=key,
        note="",
        data="CIFAR-10",
        fingerprint="f",
        images=5000,
        test_images=len(right),
        epochs=24,
        batch_size=512,
        recipe={"betas": [0.9, 0.999]},
        changes=changes or {},
        seed=seed,
        accuracies=[100 * float(np.mean(right))],
        correct=results.pack(right),
        lr_max=1e-3,
        weight_decay=0.0,
        range_test=None,
        device="AMD EPYC, 2 threads",
        precision="bfloat16",
    )
    return line | values


@pytest.mark.parametrize(
    "other",
    [
        dict(precision="float32"),
        dict(images=50_000),
        dict(data="photos"),
        dict(fingerprint="g"),
        dict(recipe={"betas": [0.9, 0.99]}),
        dict(epochs=5),
        dict(test_images=5000),
        dict(device="NVIDIA H200"),
    ],
)
def test_runs_of_another_kind_never_stand_in_one_table(tmp_path, other):
    right = np.arange(100) % 2 == 0
    path = tmp_path / "rows.json"
    for line in (
        made_up("recipe", right),
        made_up("plain", right, changes={"network": "s10_plain"}),
        made_up("recipe", right, 1, **other),
        made_up("plain", right, 1, {"network": "s10_plain"}, device="Intel Xeon, 8 threads"),
    ):
        results.append(path, line)
    found = results.rows(path, like=results.read(path)[0])
    assert {key: [run["seed"] for run in runs] for key, runs in found.items()} == {
        "recipe": [0],
        "plain": [0, 1],
    }
    assert list(results.rows(path)) == ["recipe", "plain"]  # a table of one row is no table
    assert results.rows(path, images=123) == {}


def test_a_rate_has_one_point_on_a_line():
    """Rows with other seeds, and rows that change more than the rate, stay out."""
    right = np.arange(100) % 2 == 0
    test_found = dict(lr_min=1e-4, lr_max=1e-3, lr_steepest=2e-4, lr_minimum=3e-4)
    rows = {
        "recipe": [made_up("recipe", right, seed, range_test=test_found) for seed in (0, 1)],
        "cycle_2": [made_up("cycle_2", right, 0, {"lr_factor": 2}, lr_max=2e-3)],
        "plain": [made_up("plain", right, 0, {"network": "s10_plain"})],
        "fall_only": [made_up("fall_only", right, 0, {"schedule": "fall_only"})],
    }
    found = learning_rate.by_rate(rows, "cycle")
    assert [(rate, [run["seed"] for run in runs]) for rate, runs in found] == [
        (1e-3, [0]),
        (2e-3, [0]),
    ]


def test_committed_results_are_drawn_from_their_files(tmp_path):
    """What the page shows; rows of 1cd1259 say so, and new ones of depth join the old."""
    lines = {
        name: results.read(MISC / f"{name}.json")
        for name in ("ablation", "learning_rate", "depth", "gradient_flow")
    }
    for line in lines["ablation"] + lines["learning_rate"]:
        assert line["key"].endswith("_1cd1259") == (line["recipe"].get("of") == "1cd1259")
    networks = {line["key"] for line in lines["depth"]}
    assert networks >= {f"resnet{n}{p}" for n in (8, 20, 44) for p in ("", "_plain")}
    assert all(line["recipe"] == depth.RECIPE for line in lines["depth"])  # new ones join the old
    assert len({line["key"] for line in lines["gradient_flow"]}) == 8
    rows = results.rows(MISC / "ablation.json", images=5000)
    assert paired.plot(rows, path=tmp_path / "a.png")
    both = results.rows(MISC / "learning_rate.json", MISC / "ablation.json", images=5000)
    learning_rate.plot(both, path=tmp_path / "l.png")
    depth.plot(results.rows(MISC / "depth.json"), path=tmp_path / "d.png")
    assert gradient_flow.plot(results.rows(MISC / "gradient_flow.json"), path=tmp_path / "g.png")
    range_tests.plot(range_tests.readings(MISC), path=tmp_path / "r.png")


def test_the_parts_of_the_cycle_are_compared_by_their_schedule_alone(tmp_path):
    """The title says what a missing part costs; rates are those that the rows were trained with."""
    path = tmp_path / "ablation.json"
    rates = dict(lr_min=1e-4, lr_max=1e-3, curve=[10.0, 20.0, 30.0], epochs=3)
    for key, share, changes in (
        ("recipe", 80, {}),
        ("fall_only", 78, {"schedule": "fall_only"}),
        ("plain", 70, {"network": "s10_plain"}),
    ):
        results.append(path, made_up(key, np.arange(100) < share, 0, changes, **rates))
    found = parts.read(path)
    assert list(found) == ["recipe", "fall_only"]
    assert parts.finding(found) == "One cycle: \N{MINUS SIGN}2.0 points without the rise"
    for schedule in ("cycle", "fall_only", "rise_only", "constant"):
        optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
        scheduler, *_ = schedules.make_schedule(schedule, optimizer, 1e-4, 1e-3, 48)
        used = []
        for _ in range(48):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert schedules.step_rates(schedule, 1e-4, 1e-3, 48) == pytest.approx(used)
    parts.plot(found, path=tmp_path / "parts.png")
    assert (tmp_path / "parts.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="ablation --rows recipe,fall_only"):
        parts.read(tmp_path / "none.json")


def test_the_title_of_the_ablation_names_the_largest_loss_by_a_single_change():
    """Not that of a row which changes several things."""
    changes = {"better": 1, "worse": 1, "strict": 3}
    differences = {"better": 1.0, "worse": -2.0, "strict": -5.0}
    rows = {key: [dict(changes=dict.fromkeys(range(n)))] for key, n in changes.items()}
    found = [dict(key=key, name=key, difference=value) for key, value in differences.items()]
    said = paired.finding(rows, found)
    assert "worse" in said and "2.0" in said


# --- intervals ----------------------------------------------------------------------------------


def simulated(rng, layout, seed_spread, own_noise, images=400):
    """Rows without any effect; returns (rows, true accuracy by row and seed).

    layout: the seeds of each row. An image is right where its ease, a taste of the row, chance of
    the run, and the run's own luck together are below a threshold.
    """
    ease = rng.normal(size=images)
    rows, truth = {}, {}
    for number, seeds in enumerate(layout):
        taste = 0.3 * rng.normal(size=images)
        key = f"row{number}"
        rows[key] = []
        for seed in seeds:
            luck = seed_spread * rng.normal()
            right = ease + taste + own_noise * rng.normal(size=images) + luck < 0.9
            rows[key].append(made_up(key, right, seed, {"n": number} if number else {}))
            width = math.sqrt(1 + 0.3**2 + own_noise**2)
            truth[key, seed] = 50 * (1 + math.erf((0.9 - luck) / width / math.sqrt(2)))
    return rows, truth


@pytest.mark.parametrize(
    "layout",
    [[[0]] * 5, [[0, 1]] * 5, [[0, 1]] * 3 + [[0]] * 4],
    ids=["one seed each", "two seeds each", "mixed"],
)
@pytest.mark.parametrize("seed_spread, own_noise", [(0.0, 0.4), (0.08, 0.8), (0.08, 0.4)])
def test_intervals_hold_the_truth_as_often_as_they_say(layout, seed_spread, own_noise):
    rng = np.random.default_rng(0)
    held = []
    for _ in range(250):
        rows, truth = simulated(rng, layout, seed_spread, own_noise)
        for one in paired.differences(rows):
            true = 0.0  # over seeds, no row differs from another
            if not one["seed_noise"]:  # over test images alone, these very runs do
                true = truth[one["key"], 0] - truth["row0", 0]
            held.append(one["low"] <= true <= one["high"])
    assert 0.93 <= np.mean(held) <= 0.98


def test_an_interval_is_the_formula():
    """Every term by hand, from the accuracies and images of three rows with two seeds."""
    rng = np.random.default_rng(3)
    n = 500
    right = rng.random((3, 2, n)) < 0.8  # row, seed, image
    rows = {
        key: [made_up(key, right[row, seed], seed, {"n": row} if row else {}) for seed in (0, 1)]
        for row, key in enumerate("rab")
    }
    found = {one["key"]: one for one in paired.differences(rows)}
    # with two seeds, what is left of row and seed are half differences about their mean
    halves = 100 * (right[:, 0].astype(float) - right[:, 1]) / 2
    left = halves - halves.mean(axis=0)
    total = 2 * (left.mean(axis=1) ** 2).sum() / 2  # two seeds, two degrees of freedom
    of_images = 2 * left.var(axis=1, ddof=1).sum() / 2 / n
    by_image = 100 * (right[1].mean(axis=0) - right[0].mean(axis=0))
    both = by_image.var(ddof=1) / n
    images = max(both - of_images, 0)
    variance = max(images + total, both)
    freedom = variance**2 / (images**2 / (n - 1) + total**2 / 2)
    from scipy.stats import t

    half = t.ppf(0.975, max(freedom, 2)) * math.sqrt(variance)
    one = found["a"]
    assert one["difference"] == pytest.approx(by_image.mean())
    assert one["high"] - one["difference"] == pytest.approx(half)
    assert one["difference"] - one["low"] == pytest.approx(half)
    single = {key: runs[:1] for key, runs in rows.items()}
    one = paired.differences(single)[0]
    gaps = 100.0 * (right["rab".index(one["key"]), 0].astype(float) - right[0, 0])
    half = t.ppf(0.975, n - 1) * gaps.std(ddof=1) / math.sqrt(n)
    assert one["high"] - one["difference"] == pytest.approx(half) and not one["seed_noise"]


def test_an_effect_is_seen_and_a_comparison_is_of_named_rows():
    rng = np.random.default_rng(0)
    ease = rng.random(2000)
    rows = {
        key: [
            made_up(
                key, ease + 0.1 * rng.normal(size=2000) < share, seed, {"x": key} if gain else {}
            )
            for seed in (0, 1)
        ]
        for key, gain, share in (("r", 0, 0.8), ("up", 1, 0.86), ("down", 1, 0.74))
    }
    found = paired.differences(rows)
    assert [one["key"] for one in found] == ["up", "down"]
    assert found[0]["low"] > 0 and found[1]["high"] < 0
    wild = [made_up("wild", rng.random(2000) < share, seed) for seed, share in ((0, 0.1), (1, 0.9))]
    said = paired.comparison(rows | {"wild": wild}, "up", "down")
    assert said == paired.comparison(rows, "up", "down")  # a third row does not widen it
    assert "+12" in said or "+11" in said
    assert paired.differences({"a": rows["up"]}) == []


def test_44_layers_are_better_than_8():
    """The sentence of experiments/README.md, by the command, from two named rows."""
    rows = results.rows(MISC / "depth.json")
    said = paired.comparison(rows, "resnet44", "resnet8")
    runs = {key: {run["seed"]: run["accuracies"][0] for run in rows[key]} for key in rows}
    shared = runs["resnet44"].keys() & runs["resnet8"].keys()
    gap = np.mean([runs["resnet44"][seed] - runs["resnet8"][seed] for seed in shared])
    assert f"{gap:+.1f} points" in said and said in depth.table(rows)


def test_a_range_test_that_the_ablation_has_run_is_not_run_again(small, monkeypatch):
    ablation.main([*SMALL, "--rows", "recipe"])
    monkeypatch.setattr(study, "range_test", None)
    range_tests.main([*SMALL, "--rows", "recipe"])
    assert lines_of("range_tests")[0]["range_test"] == lines_of("ablation")[0]["range_test"]


def test_what_the_range_tests_say(small):
    """Each line has its curve, and the rule of 1cd1259 is told apart."""
    range_tests.main([*SMALL, "--rows", "recipe"])
    line = lines_of("range_tests")[0]
    assert line.keys() >= {"key", "seed", "device", "precision", "images", "range_test"}
    assert len(line["range_test"]["lrs"]) == len(line["range_test"]["losses"]) > 20
    old = dict(line, recipe={"of": "1cd1259"}, seed=3)
    results.append(FOLDER / "ablation.json", old)
    assert sorted(is_old for _, is_old in range_tests.readings(FOLDER)) == [False, True]


# --- people -------------------------------------------------------------------------------------


@pytest.fixture
def counted(small, monkeypatch, tmp_path):
    """The answers of 51 made-up people for 50 images, and weights beside their results.json."""
    counts = np.random.default_rng(0).multinomial(51, [0.1] * 10, size=50).astype("int64")
    np.save("counts.npy", counts)
    monkeypatch.setenv("CIFAR10H_URL", str(tmp_path / "counts.npy"))
    digest = hashlib.sha256(Path("counts.npy").read_bytes()).hexdigest()
    monkeypatch.setattr(people, "SHA256", digest)
    torch.save(Narrow().state_dict(), "weights.pt")
    about = dict(
        network="s10_model",
        classes=list(small.classes),
        mean=list(small.mean),
        std=list(small.std),
        images=200,
    )
    Path("results.json").write_text(json.dumps(about), encoding="utf-8")
    return small


def test_people_and_their_figure(counted, capsys):
    people.main(["--weights", "weights.pt"])
    result = json.loads(Path("misc/people/people.json").read_text(encoding="utf-8"))
    assert sum(result["kinds"].values()) == result["misclassified"]
    assert len(result["classes"]) == 10 and result["train_images"] == 200
    assert {path.suffix for path in Path("misc/people").iterdir()} == {".json", ".png"}
    assert not [path for path in Path("misc").iterdir() if path.is_file()]  # what is shown stays
    assert people.captions_for(counted, [0], [1])
    assert people.captions_for(counted.limited(100), [0], [1]) is None
    with pytest.raises(SystemExit, match="nothing.pt"):
        people.main(["--weights", "nothing.pt"])
    about = json.loads(Path("results.json").read_text(encoding="utf-8"))
    Path("results.json").write_text(json.dumps(about | {"classes": ["cat", "dog"]}))
    with pytest.raises(SystemExit, match="cat, dog"):
        people.main(["--weights", "weights.pt"])


@pytest.mark.parametrize(
    "trouble",
    [
        http.client.IncompleteRead(b"half"),
        http.client.BadStatusLine(""),
        OSError("no route to host"),
        ValueError("unknown url type"),
    ],
)
def test_people_are_left_out_where_they_cannot_be_had(counted, monkeypatch, capsys, trouble):
    monkeypatch.setenv("CIFAR10H_URL", "https://example.org/counts.npy")
    monkeypatch.setattr(people.urllib.request, "urlopen", Mock(side_effect=trouble))
    assert people.captions_for(counted, [0], [1]) is None
    people.main(["--weights", "weights.pt"])
    assert capsys.readouterr().out.count("left out") == 2 and not Path("misc").exists()


def test_another_file_is_not_taken_for_cifar10h(counted, monkeypatch, capsys):
    monkeypatch.setattr(people, "SHA256", "0" * 64)
    assert people.counts_or_none() is None and "sha256" in capsys.readouterr().out


def test_what_people_say_of_mistakes():
    """More than half of the people, not half of them and not the most frequent answer."""
    counts = np.array([[50, 1, 0], [10, 41, 0], [50, 1, 0], [51, 0, 0], [51, 0, 0], [26, 26, 0]])
    labels = np.zeros(6, dtype=int)
    predicted = np.array([0, 1, 1, 1, 2, 1])
    found = people.kinds(counts, labels, predicted, doubtful=[4])
    assert [list(indices) for indices in found.values()] == [[4], [1], [2, 5], [3]]
    counts = np.vstack([counts, [[12, 20, 19]]])  # the most frequent, and not most people
    found = people.kinds(counts, np.append(labels, 0), np.append(predicted, 1), doubtful=[4])
    assert list(found["some_people"]) == [2, 5, 6]
    found = people.kinds(np.array([[24, 27]]), np.array([0]), np.array([1]), doubtful=[])
    assert list(found["most_people"]) == [0]
    result = people.compare(counts[:5], labels[:5], predicted[:5], ["cat", "dog", "frog"], [4])
    assert result["accuracy"]["network"] == 20 and result["accuracy"]["majority"] == 80
    assert result["accuracy"]["one_person"] == pytest.approx(100 * (50 + 10 + 50 + 51 + 51) / 255)
    halved = people.compare(counts[:6], labels, predicted, ["cat", "dog", "frog"], [4])
    for one in (result, halved):  # half of them are not fewer than half
        assert one["people_divided"] == one["network_wrong_where_people_divided"] == 1
    assert people.captions(counts, np.append(labels, 0), np.append(predicted, 1))[1] == (
        "people ✗ 80 ✓ 20"
    )


def test_people_knows_the_doubtful_labels_and_stands_alone():
    doubtful = [int(number) for number in people.DOUBTFUL.split()]
    assert len(set(doubtful)) == 54 and (min(doubtful), max(doubtful)) == (165, 9793)
    source = Path(people.__file__).read_text(encoding="utf-8")
    assert "from main" not in source and "import main" not in source

"""The experiments: every script in seconds, resuming, decay, paired intervals, the deep networks,
people.
"""

import hashlib
import json
import math
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

import dataset
import models
import train
import transform
from experiments import (
    ablation,
    depth,
    gradient_flow,
    learning_rate,
    paired,
    people,
    search,
    training,
)
from experiments.augmentation import VARIANTS, VariantLoader
from experiments.common import options, start
from experiments.networks import ResNet, make_model

KEYS = {
    "key",
    "name",
    "data",
    "images",
    "epochs",
    "seeds",
    "accuracies",
    "mean",
    "std",
    "device",
    "precision",
}


class Narrow(nn.Module):
    """A network that trains in no time, with what the experiments change in ours."""

    def __init__(self, num_classes=10, residual=True):
        super().__init__()
        self.residual, self.conv, self.bn = (
            residual,
            nn.Conv2d(3, 4, 3, stride=4, bias=False),
            nn.BatchNorm2d(4),
        )
        self.fc = nn.Linear(4 * 64, num_classes, bias=False)
        self.fc.weight.data.mul_(1 / 8)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).flatten(1)).float().log_softmax(dim=1)


def noise(n, seed):
    images = np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return dataset.ArrayDataset(images, np.arange(n) % 10, dataset.CLASSES)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Random images, a narrow network, and an empty folder to run in."""
    data = dataset.Data("noise", noise(200, 0), noise(50, 1), kind="cifar10")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "load", lambda *_, **__: data)
    monkeypatch.setattr(models, "CustomResNet", Narrow)
    return data


def rows_of(name):
    return json.loads(Path(f"runs/tiny/{name}.json").read_text(encoding="utf-8"))


def study(script=ablation, *more):
    """A study that is not tiny: 100 images, where the decay is scaled."""
    return start(options("", limit=100, seeds=1), list(more), "study", script.ROWS)


@pytest.mark.parametrize(
    "script, arguments, count",
    [
        (ablation, [], 12),
        (search, ["--try", '{"fc_scale": 2}', "--try", '{"fc_scale": 1.0}'], 10),
        (depth, ["--depths", "8,14"], 4),
        (learning_rate, [], 10),
    ],
)
def test_every_training_script_runs_and_writes_its_rows(small, script, arguments, count, capsys):
    name = script.__name__.split(".")[-1]
    script.main(["--tiny", "--seeds", "1", *arguments])
    rows = rows_of(name)
    assert len(rows) == count and all(row.keys() >= KEYS and row["seeds"] == [0] for row in rows)
    assert all(len(row["curves"][0]) == row["epochs"] == 2 for row in rows)
    assert Path(f"runs/tiny/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "| row |" in (out := capsys.readouterr().out) or "| network |" in out


def test_a_second_call_trains_nothing_and_a_new_seed_is_added(small, monkeypatch, capsys):
    ablation.main(["--tiny", "--seeds", "1", "--rows", "recipe,plain"])
    before = rows_of("ablation")
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", None)
        patch.setattr(training, "find_lr", None)
        ablation.main(["--tiny", "--seeds", "1", "--rows", "recipe,plain"])
    assert rows_of("ablation") == before and capsys.readouterr().out.count("finished already") == 2
    ablation.main(["--tiny", "--seeds", "2", "--rows", "recipe"])
    learning_rate.main(["--tiny", "--seeds", "1", "--rows", "recipe"])
    assert (
        rows_of("learning_rate")[0]["correct"] == rows_of("ablation")[0]["correct"]
    )  # taken over, both seeds
    recipe, plain = rows_of("ablation")
    assert recipe["seeds"] == [0, 1] and plain["seeds"] == [0] and len(recipe["correct"]) == 2
    assert (
        recipe["mean"] == np.mean(recipe["accuracies"])
        and recipe["accuracies"][0] == before[0]["accuracies"][0]
    )


def test_an_interrupted_run_goes_on_after_its_last_epoch(small, monkeypatch, capsys):
    ablation.main(["--tiny", "--seeds", "1", "--rows", "strict"])
    straight = rows_of("ablation")[0]
    Path("runs/tiny/ablation.json").unlink()
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        epochs = iter([train.train, Mock(side_effect=KeyboardInterrupt)])
        patch.setattr(train, "train", lambda *args, **options: next(epochs)(*args, **options))
        ablation.main(["--tiny", "--seeds", "1", "--rows", "strict"])
    ablation.main(["--tiny", "--seeds", "1", "--rows", "strict"])
    assert "resumed after epoch 1 of 2" in capsys.readouterr().out
    again = rows_of("ablation")[0]
    assert again["curves"] == straight["curves"] and again["correct"] == straight["correct"]


def test_a_failure_is_said_and_the_other_rows_go_on(small, monkeypatch, capsys):
    usual = training.set_schedule
    steps = iter([usual, Mock(side_effect=train.TrainingDiverged("the loss is NaN")), usual])
    monkeypatch.setattr(training, "set_schedule", lambda *args: next(steps)(*args))
    with pytest.raises(SystemExit, match="1 runs failed: plain, seed 0: the loss is NaN"):
        ablation.main(["--tiny", "--seeds", "1", "--rows", "recipe,plain,beta2"])
    assert [row["key"] for row in rows_of("ablation")] == ["recipe", "beta2"]


@pytest.mark.parametrize("arguments", [["--rows", "nonsense"], ["--seeds", "0"], ["--limit", "3"]])
def test_wrong_arguments_are_refused_before_any_work(small, arguments):
    with pytest.raises(SystemExit) as error:
        ablation.main(arguments)
    assert error.value.code == 2


def test_weights_shrink_alike_at_every_size_and_rate(small):
    some, rates = study(), dict(lr_min=1e-4, lr_max=4e-3)
    assert some.full_steps() == 2352  # 24 epochs of 98 batches
    used = {}
    for row in ablation.ROWS:
        found = training.find_rates(some, row, 0)[0] if "lr_max" in row.changes else rates
        _, used[row.key] = training.set_schedule(
            some, row, training.make_parts(some, row, 0), found
        )
    cycle, _ = train.cycle_curve(4e-3, 98, 24, 1e-4)
    for key in ("recipe", "plain", "constant", "lr_half", "lr_double", "beta2", "no_cutout"):
        assert used[key]["shrinkage"] == pytest.approx(0.25 * sum(cycle))
    assert used["lr_half"]["weight_decay"] > 1.9 * used["recipe"]["weight_decay"]
    assert used["constant"]["lr_max"] == pytest.approx((1e-4 + 4e-3) / 2, rel=0.05)
    assert used["strict"]["shrinkage"] == used["no_decay"]["shrinkage"] == 0
    old = used["recipe_2023"]
    assert (old["lr_max"], old["weight_decay"], old["shrinkage"]) == (4.93e-2, 1e-4, None)
    assert training.scaled_decay(0.25, cycle, cycle) == 0.25  # at full size nothing is scaled


def test_rows_change_what_they_say(small):
    some = study()
    parts = {row.key: training.make_parts(some, row, 0) for row in ablation.ROWS}
    assert not parts["plain"].model.residual and parts["recipe"].model.residual
    ratio = parts["strict"].model.fc.weight / parts["recipe"].model.fc.weight
    assert torch.allclose(ratio, torch.tensor(8.0))
    assert all(group["weight_decay"] == 0 for group in parts["strict"].optimizer.param_groups)
    assert (
        parts["strict"].criterion.label_smoothing == 0
        and parts["recipe"].criterion.label_smoothing > 0
    )
    assert not parts["recipe_2023"].optimizer.param_groups[0]["decoupled_weight_decay"]
    assert (
        parts["recipe_2023"].train_loader.hole == 10 and parts["no_cutout"].train_loader.hole == 0
    )


def test_variants_of_the_augmentation():
    data = noise(64, 0)
    same = [VariantLoader(data, 16, seed=3), dataset.DeviceLoader(data, 16, seed=3)]
    for (a, x), (b, y) in zip(*same, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)
    whole = next(iter(VariantLoader(data, 64, seed=3, **VARIANTS["no_cutout"])))[0]
    cut = next(iter(dataset.DeviceLoader(data, 64, seed=3)))[0]
    assert ((whole != cut).any(dim=1).sum(dim=(1, 2)) <= 64).all() and torch.equal(
        whole[cut != 0], cut[cut != 0]
    )
    old = next(iter(VariantLoader(data, 64, seed=3, **VARIANTS["2023"])))[0]
    holes = (old == torch.tensor(transform.MEAN).view(3, 1, 1)).all(dim=1).sum(dim=(1, 2))
    assert set(holes.tolist()) == {0, 100} and 16 < (holes == 100).sum() < 48
    crop = VariantLoader(noise(1, 0), 1, reflect=True).images[0, 0, 0, 0].reshape(32, 32, 3)
    assert (crop[0, 4:].numpy() == noise(1, 0).data[0][4, :28]).all()  # mirrored at the border


def test_held_out_images_are_balanced_and_not_trained_on(small):
    held = search.hold_out(small)
    assert (
        len(held.train) == 180
        and len(held.test) == 20
        and (np.bincount(held.test.targets) == 2).all()
    )
    pixels = {image.tobytes() for image in held.train.data}
    assert not any(image.tobytes() in pixels for image in held.test.data)
    assert {image.tobytes() for image in held.test.data} <= {
        image.tobytes() for image in small.train.data
    }


def made_up(key, gain, seeds, rng, n=2000):
    """A row whose runs are right on 80 % + gain of the images, with a spread of 1 point between
    seeds.
    """
    hard = np.random.default_rng(7).random(n)  # the same images are hard for every run
    runs = [hard + 0.1 * rng.normal(size=n) < 0.8 + gain + 0.01 * rng.normal() for _ in seeds]
    row = dict(
        key=key,
        name=key,
        seeds=list(seeds),
        accuracies=[100 * run.mean() for run in runs],
        test_images=n,
    )
    return row | dict(correct=[training.pack(run) for run in runs])


def test_paired_intervals_hold_the_truth_and_see_an_effect():
    rng, held = np.random.default_rng(0), []
    for _ in range(12):
        rows = [
            made_up(key, gain, range(2), rng)
            for key, gain in zip("rabcd", (0, 0.1, 0, 0, -0.1), strict=True)
        ]
        found = {one["key"]: one for one in paired.differences(rows, "r")}
        held += [found[key]["low"] <= 0 <= found[key]["high"] for key in "bc"]
        assert list(found)[0] == "a" and found["a"]["low"] > 0 and found["d"]["high"] < 0
    assert np.mean(held) > 0.85
    one = paired.differences([made_up("r", 0, [0], rng), made_up("a", 0, [0, 1], rng)], "r")[0]
    assert one["seeds"] == 1 and not one["seed_noise"]
    gaps = rng.integers(-1, 2, 500) * 100.0
    assert paired.image_error(gaps) == pytest.approx(gaps.std() / math.sqrt(500), rel=0.1)


def test_networks_of_he_et_al():
    model, plain = ResNet(20), ResNet(20, residual=False)
    assert (
        models.count_parameters(model) == models.count_parameters(plain) == 269_722
    )  # their table says 0.27 M
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(model.eval()(images), plain.eval()(images))
    assert [len(gradient_flow.convolutions(ResNet(depth))) for depth in (8, 20, 44)] == [7, 19, 43]
    with pytest.raises(ValueError, match="6n"):
        ResNet(21)


def test_gradient_flow(small):
    torch.manual_seed(0)
    model, images, labels = make_model({"depth": 8}), torch.randn(4, 3, 32, 32), torch.arange(4)
    model.train()
    loss = nn.functional.cross_entropy(model(images), labels)
    right = torch.autograd.grad(loss, model.conv.weight)[0].norm()
    assert gradient_flow.gradient_norms(model, [(images, labels)])[0] == pytest.approx(
        float(right), rel=1e-4
    )
    gradient_flow.main(["--tiny", "--seeds", "1", "--rows", "s10,s10_plain,resnet8,resnet8_plain"])
    rows = rows_of("gradient_flow")
    assert len(rows) == 4 and all(len(row["initial"][0]) == len(row["layers"]) for row in rows)


def test_people(small, monkeypatch, tmp_path, capsys):
    counts = np.random.default_rng(0).multinomial(51, [0.1] * 10, size=10_000).astype("int64")
    np.save("counts.npy", counts)
    monkeypatch.setenv("CIFAR10H_URL", str(tmp_path / "counts.npy"))
    people.main(["--tiny"])
    assert (
        "left out" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    )  # not the official file
    monkeypatch.setattr(
        people, "SHA256", hashlib.sha256((tmp_path / "counts.npy").read_bytes()).hexdigest()
    )
    monkeypatch.setattr(models, "s10_model", Narrow)
    people.main(["--tiny"])
    result = rows_of("people")
    assert (
        people.captions_for(small, [0], [1])
        and people.captions_for(small.limited(100), [0], [1]) is None
    )
    assert sum(result["kinds"].values()) == result["misclassified"] and len(result["classes"]) == 10
    with pytest.raises(SystemExit, match="is not there"):
        people.main(["--weights", "nothing.pt"])


def test_what_people_say_of_mistakes():
    counts = np.array([[50, 1, 0], [10, 41, 0], [45, 6, 0], [51, 0, 0], [51, 0, 0]])
    labels, predicted = np.array([0, 0, 0, 0, 0]), np.array([0, 1, 1, 1, 2])
    found = people.kinds(counts, labels, predicted, doubtful=[4])
    assert [list(indices) for indices in found.values()] == [[4], [1], [2], [3]]
    result = people.compare(counts, labels, predicted, ["cat", "dog", "frog"], doubtful=[4])
    assert result["accuracy"]["network"] == 20 and result["accuracy"]["majority"] == 80
    assert result["accuracy"]["one_person"] == pytest.approx(100 * (50 + 10 + 45 + 51 + 51) / 255)
    assert people.captions(counts, labels, predicted)[1] == "people ✗ 80 ✓ 20"

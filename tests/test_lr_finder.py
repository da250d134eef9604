"""Does the range test find a rate that can be trusted, and is everything afterwards as it was before?"""

import copy
import math
import random

import numpy as np
import pytest
import torch
from small_run import TinyNet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dataset
from checkpoint import Checkpoint
from loader import make_loaders
from lr_finder import find_lr, read_curve
from train import make_criterion, make_optimizer, one_cycle

LRS = np.logspace(-6, 0, 100)
STEEPEST = 3e-3


def curve(lrs=LRS, noise=0.0, seed=0):
    """Flat, then falling most steeply at STEEPEST, then taking off: what a range test sees."""
    decades = np.log10(lrs)
    fall = 2.3 - 1.5 / (1 + np.exp(-4 * (decades - math.log10(STEEPEST))))
    rise = np.exp(6 * (decades + 1.5))
    return fall + rise + noise * np.random.default_rng(seed).standard_normal(len(lrs))


def picture_loader(n=64, batch_size=16):
    pictures = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) % 10
    pictures[torch.arange(n), 0, labels] += 2
    return DataLoader(TensorDataset(pictures, labels), batch_size, shuffle=True)


# --- reading the curve


def test_the_steepest_descent_of_a_clean_curve_is_found():
    found = read_curve(LRS, curve().tolist())
    assert STEEPEST / 1.3 < found.lr_max < STEEPEST * 1.3
    assert found.lr_min == found.lr_max / 100
    assert len(found.lrs) == len(found.losses) == len(found.smoothed) == 100


def test_noise_moves_the_choice_little():
    choices = [read_curve(LRS, curve(noise=0.05, seed=seed).tolist()).lr_max for seed in range(30)]
    assert min(choices) > STEEPEST / 3 and max(choices) < STEEPEST * 3
    assert max(choices) / min(choices) < 3


@pytest.mark.parametrize("iterations", [30, 60, 100, 300])
def test_the_number_of_iterations_does_not_move_the_choice(iterations):
    lrs = np.logspace(-6, 0, iterations)
    assert STEEPEST / 1.5 < read_curve(lrs, curve(lrs, noise=0.02).tolist()).lr_max < STEEPEST * 1.5


@pytest.mark.parametrize("step", [10, 20, 60])
def test_one_wild_step_is_not_the_choice(step):
    losses = curve(noise=0.01)
    losses[step] += 0.4
    losses[step + 1] -= 0.3
    assert STEEPEST / 2 < read_curve(LRS, losses.tolist()).lr_max < STEEPEST * 2


def test_a_loss_that_never_takes_off_is_read_too():
    decades = np.log10(LRS)
    losses = 2.3 - 1.5 / (1 + np.exp(-4 * (decades - math.log10(STEEPEST))))
    assert STEEPEST / 1.5 < read_curve(LRS, losses.tolist()).lr_max < STEEPEST * 1.5


def test_the_fall_after_an_explosion_does_not_count():
    losses = curve()
    losses[85:] = 0.1  # a network that has died says the same of every picture, and that may be a low loss
    assert STEEPEST / 1.5 < read_curve(LRS, losses.tolist()).lr_max < STEEPEST * 1.5


@pytest.mark.parametrize("losses", [np.full(100, 2.3), np.linspace(2.3, 5, 100), 2.3 + np.logspace(-3, 2, 100)])
def test_a_loss_that_never_fell_is_refused(losses):
    with pytest.raises(ValueError, match="the loss never fell during the range test: check the data"):
        read_curve(LRS, losses.tolist())


@pytest.mark.parametrize("steps", [0, 1, 9])
def test_too_few_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"ended after {steps} steps: check the data and the loss"):
        read_curve(LRS[:steps], curve()[:steps].tolist())


# --- the test itself


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_test_and_does_not_win(value):
    calls = []

    def criterion(output, labels):
        calls.append(len(labels))
        return nn.functional.cross_entropy(output, labels) * (value if len(calls) == 45 else 1)

    model = TinyNet()
    found = find_lr(model, "cpu", picture_loader(), make_optimizer(model), criterion, iterations=50)
    assert len(calls) == 45 and len(found.losses) == 44 and len(found.lrs) == 44
    assert all(math.isfinite(number) for number in [*found.losses, *found.smoothed, found.lr_max])
    assert 1e-6 < found.lr_max < found.lrs[-1]


def test_losses_of_nan_from_the_first_step_are_refused():
    model = TinyNet()
    with pytest.raises(ValueError, match="ended after 0 steps: check the data"):
        loader = picture_loader()
        loader.dataset.tensors[0][:] = math.nan
        find_lr(model, "cpu", loader, make_optimizer(model), nn.CrossEntropyLoss())


def test_rates_grow_exponentially_from_1e_6_to_1():
    model = TinyNet()
    criterion = nn.CrossEntropyLoss()
    found = find_lr(model, "cpu", picture_loader(), make_optimizer(model), lambda *a: criterion(*a).clamp(max=2.4))
    assert len(found.lrs) == 100
    assert found.lrs[-1] == pytest.approx(1) and found.lrs[0] == pytest.approx(1e-6, rel=0.2)
    assert np.ptp(np.diff(np.log10(found.lrs))) < 1e-6
    assert all(type(number) is float for number in [found.lr_min, found.lr_max, *found.lrs, *found.losses])


class Everything:
    """All that a range test may not change, as copies."""

    def __init__(self, model, optimizer):
        self.parts = [copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())]
        self.parts += [[module.training for module in model.modules()]]
        self.parts += [[None if p.grad is None else p.grad.clone() for p in model.parameters()]]
        self.parts += [[p.requires_grad for p in model.parameters()]]
        self.parts += [torch.get_rng_state(), np.random.get_state(), random.getstate()]

    def __eq__(self, other):
        return alike(self.parts, other.parts)


def alike(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(alike(*pair) for pair in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor | np.ndarray):
        return bool((a == b).all())
    return a == b


def used_setting():
    """A model and an optimizer in the middle of their lives, with a scheduler, odd modes and gradients."""
    model = TinyNet()
    optimizer = make_optimizer(model)
    scheduler = one_cycle(optimizer, 0.01, 10, 3)
    for pictures, labels in picture_loader():
        nn.functional.cross_entropy(model(pictures), labels).backward()
        optimizer.step()
        scheduler.step()
    model[0].weight.requires_grad_(False)
    model[1].eval()  # a frozen BatchNorm in a network that trains
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    return model, optimizer, scheduler


class DrawingLoader:
    """Draws from all three generators, as transforms do."""

    def __len__(self):
        return 4

    def __iter__(self):
        for batch in picture_loader():
            random.random(), np.random.rand(), torch.rand(1)
            yield batch


@pytest.mark.parametrize("ends", ["well", "by Ctrl-C", "by an error"])
def test_everything_is_afterwards_as_it_was_before(ends):
    model, optimizer, scheduler = used_setting()
    before, calls = Everything(model, optimizer), []

    def criterion(output, labels):
        calls.append(1)
        if ends != "well" and len(calls) == 7:
            raise KeyboardInterrupt if ends == "by Ctrl-C" else ZeroDivisionError
        return nn.functional.cross_entropy(output, labels)

    try:
        find_lr(model, "cpu", DrawingLoader(), optimizer, criterion, iterations=40)
    except (KeyboardInterrupt, ZeroDivisionError):
        assert ends != "well"
    assert len(calls) >= 7
    assert before == Everything(model, optimizer)
    assert optimizer.param_groups[0]["initial_lr"] == 0.0001  # the scheduler is still attached
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["params"][1] is model[6].weight
    assert before != Everything(model, optimizer)  # the comparison can tell


def test_the_result_is_kept_in_the_checkpoint_and_returned_from_it(tmp_path):
    model = TinyNet()
    arguments = (model, "cpu", picture_loader(), make_optimizer(model), nn.CrossEntropyLoss())
    config = dict(epochs=2)
    found = find_lr(*arguments, iterations=30, checkpoint=Checkpoint(tmp_path, config))
    lines = []
    again = Checkpoint(tmp_path, config, log=lines.append)
    assert lines[0].startswith("resumed after the LR range test")
    assert again.state["range_seconds"] > 0
    model.forward = None  # cannot be called: nothing is measured again
    assert find_lr(*arguments, iterations=30, checkpoint=again) == found


def test_no_widget_and_nothing_printed(capfd):
    model = TinyNet()
    find_lr(model, "cpu", picture_loader(), make_optimizer(model), nn.CrossEntropyLoss(), iterations=30)
    assert capfd.readouterr() == ("", "")
    import torch_lr_finder.lr_finder as library

    assert "notebook" not in library.tqdm.func.__module__


@pytest.fixture(scope="module")
def sample():
    return dataset.load("sample").limited(2000)


class Eighth(nn.Module):
    """As in the real network, scores begin small, so that the loss begins at ln 10."""

    def forward(self, x):
        return x / 8


def narrow_net():
    """Convolution, BatchNorm, ReLU and pooling, with 16 and 32 channels instead of 64 to 512."""
    layers = []
    for a, b in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    layers += [nn.MaxPool2d(2), nn.Flatten(), Eighth(), nn.Linear(512, 10, bias=False), nn.LogSoftmax(dim=1)]
    return nn.Sequential(*layers)


def test_over_ten_seeds_the_choice_varies_by_less_than_three(sample):
    """The fixed small setting: 100 iterations, as in the full profile, of 64 pictures of the sample."""
    choices = []
    for seed in range(10):
        torch.manual_seed(seed)
        model = narrow_net().to(memory_format=torch.channels_last)
        loader, _ = make_loaders(sample, "device", 64, seed=seed)
        found = find_lr(model, "cpu", loader, make_optimizer(model), make_criterion(), iterations=100)
        choices.append(found.lr_max)
    factor = max(choices) / min(choices)
    print(f"\nfind_lr over ten seeds: {min(choices):.2e} to {max(choices):.2e}, a factor of {factor:.2f}")
    assert factor < 3

"""The range test reads both rates by the rule of its docstring, and leaves everything as it was
before.
"""

import random
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch_lr_finder
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import train
from dataset import SeededLoader
from extras.checkpoint import to_bytes
from extras.lr_finder import find_lr, read_curve


def rates(iterations=100):
    return np.logspace(-6, 0, iterations + 1)[1:]


def curve(lrs, noise=0.0, seed=0):
    """From 2 at 1e-4 down to 1 at 1e-2, and up from 10 ** -1.5 on: LRMIN is 10 ** -3.6, the
    take-off 10 ** -1.3.
    """
    losses = np.interp(np.log10(lrs), [-6, -4, -2, -1.5, 0], [2, 2, 1, 1, 2.5])
    return losses + noise * np.random.default_rng(seed).standard_normal(len(lrs))


def network():
    """What a range test could change is in it: BatchNorm's statistics, and dropout's random
    numbers.
    """
    layers = [
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(8),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, 10))


def image_loader(n=64, batch_size=32):
    images = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) % 10
    images[torch.arange(n), 0, 3 * labels] += 5  # a bright row tells the class
    return DataLoader(TensorDataset(images, labels), batch_size, shuffle=True)


def run(
    model=None, loader=None, optimizer=None, criterion=F.cross_entropy, device="cpu", **options
):
    model, loader = model or network(), image_loader() if loader is None else loader
    return find_lr(
        model, device, loader, optimizer or train.make_optimizer(model), criterion, **options
    )


@pytest.mark.parametrize("iterations", [30, 100, 300])
def test_both_rates_of_a_clean_curve_follow_the_rule(iterations):
    lrs, step = rates(iterations), 10 ** (6 / iterations)
    found = read_curve(lrs, curve(lrs))
    assert 10**-3.6 / step < found.lr_min < 10**-3.6 * step
    assert 10**-1.3 / step < found.take_off < 10**-1.3 * step and found.lr_max == found.take_off / 2
    assert (
        1e-4 < found.lr_steepest < 1e-2
        and found.lr_minimum == found.lrs[int(np.argmin(found.smoothed))] / 10
    )
    assert (
        read_curve(lrs, np.minimum.accumulate(curve(lrs))).take_off == 1
    )  # it never rises: the last rate


def test_noise_a_wild_step_and_an_explosion_at_the_end_move_the_rates_little():
    for seed in range(20):
        losses = curve(rates(), noise=0.02, seed=seed)
        losses[(15, 30, 60)[seed % 3]] += 0.4
        losses[81:] = 1e6
        found = read_curve(rates(), losses)
        assert (
            10**-3.6 / 1.8 < found.lr_min < 10**-3.6 * 1.8
            and 10**-1.3 / 3 < found.lr_max < 10**-1.3
        )


def test_a_loss_that_does_not_fall_by_more_than_noise_and_too_few_steps_are_refused():
    noise = 2.3 + 0.05 * np.random.default_rng(0).standard_normal(100)
    for losses in (noise, np.full(100, 2.3), np.linspace(2.3, 5, 100)):
        with pytest.raises(ValueError, match="no more than the noise between batches"):
            read_curve(rates(), losses)
    with pytest.raises(ValueError, match="ended after 19 steps: check the data and the loss"):
        read_curve(rates()[:19], curve(rates())[:19])


def test_rates_grow_exponentially_from_1e_6_to_1_and_nothing_is_printed(capfd):
    found = run(criterion=lambda *batch: F.cross_entropy(*batch).clamp(max=4), iterations=50)
    np.testing.assert_allclose(found.lrs, np.logspace(-6, 0, 50), rtol=1e-9)
    assert 1e-6 < found.lr_min < found.lr_max < 1 and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_the_test(value):
    calls = []

    def criterion(output, labels):
        calls.append(1)
        return F.cross_entropy(output, labels) * (value if len(calls) == 55 else 1)

    found = run(criterion=criterion, iterations=60)
    assert (
        len(calls) == 55
        and len(found.losses) == len(found.lrs) == 54
        and np.isfinite(found.smoothed).all()
    )


def state_of(model, optimizer):
    """All that a range test may not change, as bytes."""
    parts = [model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]]
    modes = [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()]
    return bytes(
        to_bytes([parts, modes, torch.get_rng_state(), np.random.get_state(), random.getstate()])
    )


@pytest.mark.parametrize("ends", [None, KeyboardInterrupt, ZeroDivisionError])
def test_everything_is_as_before_also_after_ctrl_c_and_errors(ends):
    model = network()
    optimizer = train.make_optimizer(model)
    scheduler = train.one_cycle(optimizer, 0.01, 10, 3)  # marks the optimizer with initial_lr
    for images, labels in image_loader():
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        scheduler.step()
    model[0].weight.requires_grad_(False)
    model[1].eval()  # a frozen BatchNorm in a network that trains
    before, calls = state_of(model, optimizer), []

    def criterion(output, labels):
        calls.append(1)
        if ends is not None and len(calls) == 7:
            raise ends
        return F.cross_entropy(output, labels)

    loader = SeededLoader(
        image_loader().dataset, batch_size=32
    )  # seeds the generators of Python, NumPy and PyTorch
    try:
        run(model, loader, optimizer, criterion, iterations=40)
    except (KeyboardInterrupt, ZeroDivisionError) as error:
        assert type(error) is ends
    assert (
        state_of(model, optimizer) == before and loader.epoch == (len(calls) + 1) // 2 >= 4
    )  # new draws each pass


def test_an_index_error_of_the_loader_keeps_its_name_and_an_empty_loader_is_refused():
    class Broken(TensorDataset):
        def __getitem__(self, index):
            raise IndexError("in the loader")

    with pytest.raises(IndexError, match="in the loader"):
        run(loader=DataLoader(Broken(torch.zeros(8)), 4))
    with pytest.raises(ValueError, match="the training loader is empty"):
        run(loader=[])


@pytest.mark.parametrize(
    ("device", "non_blocking"), [("cpu", False), ("mps", False), ("cuda", True)]
)
def test_only_cuda_copies_without_waiting(device, non_blocking, monkeypatch):
    """On Apple's GPU, memory may be freed before a copy that nobody waits for has read it
    (pytorch#139550).
    """
    range_test = Mock(side_effect=ZeroDivisionError)
    monkeypatch.setattr(torch_lr_finder.lr_finder.LRFinder, "range_test", range_test)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices, device_type: torch.no_grad())
    with pytest.raises(ZeroDivisionError):
        run(device=device)
    assert range_test.call_args.kwargs["non_blocking_transfer"] is non_blocking

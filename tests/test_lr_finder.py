"""The range test reads both rates by contract.md's rule, and leaves everything as it was."""

import math
import random
import statistics
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
from extras.checkpoint import Checkpoint, to_bytes
from extras.lr_finder import choose_rates, find_lr, read_curve

# --- the rule, on curves that are known


def rates(iterations=100):
    return np.logspace(-6, 0, iterations)


def curve(lrs, corners, noise=0.0, seed=0):
    """Straight lines over the logarithm of the rate, and noise."""
    losses = np.interp(np.log10(lrs), *zip(*corners, strict=True))
    return losses + noise * np.random.default_rng(seed).standard_normal(len(lrs))


FALLS_AND_RISES = [(-6, 2), (-4, 2), (-2, 1), (-1.5, 1), (0, 2.5)]
NEVER_RISES = [(-6, 2), (-4, 2), (-2, 1), (0, 1)]


def rule(lrs, losses, guess=None):
    """contract.md's rule, read slowly: (LRMIN, LRMAX, take-off)."""
    first = statistics.median(losses[:10])
    level = first if guess is None else min(first, guess)
    steps = [math.log10(lr) for lr in lrs]
    cut = [min(loss, 2 * first) for loss in losses]

    # a Gaussian of 0.12 powers of ten, over a curve whose ends are repeated far enough
    width = steps[1] - steps[0]
    smoothed = []
    for i in range(len(cut)):
        total = weight_sum = 0
        for k in range(-200, 201):
            weight = math.exp(-((k * width / 0.12) ** 2) / 2)
            total += weight * cut[min(max(i + k, 0), len(cut) - 1)]
            weight_sum += weight
        smoothed.append(total / weight_sum)

    lowest = min(smoothed)
    bottom = smoothed.index(lowest)
    fall = level - lowest
    if fall <= 0.03 * level:
        return None
    lr_min = next(lr for lr, loss in zip(lrs, smoothed, strict=True) if loss <= level - fall / 5)
    for lr, loss in list(zip(lrs, smoothed, strict=True))[bottom:]:
        if loss >= lowest + fall / 5:
            return lr_min, lr / 2, lr
    return lr_min, lrs[-1] / 10, None


@pytest.mark.parametrize("corners", [FALLS_AND_RISES, NEVER_RISES])
@pytest.mark.parametrize("guess", [None, 1.8, 2.2])
@pytest.mark.parametrize(("iterations", "noise"), [(30, 0), (68, 0.05), (100, 0.1), (300, 0.2)])
def test_rates_are_those_of_the_rule(corners, guess, iterations, noise):
    lrs = rates(iterations)
    for seed in range(3):
        losses = curve(lrs, corners, noise, seed)
        losses[7:9] += 1.5  # a median does not see them
        losses[iterations // 2] += 0.4
        if corners is FALLS_AND_RISES:
            losses[lrs > 0.06] = 1e6  # an explosion counts as twice the first loss
        found = read_curve(lrs, losses, guess)
        lr_min, lr_max, take_off = rule(lrs.tolist(), losses.tolist(), guess)
        assert (found.lr_min, found.take_off) == (lr_min, take_off)
        assert found.lr_max == pytest.approx(lr_max, rel=1e-12)


def test_the_fall_begins_where_guessing_does_not_where_the_network_does():
    """A network whose first loss is 4 first forgets its initial weights: that is no learning."""
    lrs = rates()
    losses = curve(lrs, [(-6, 4), (-5, 4), (-4, 2.3), (-3, 2.3), (-2, 1.3), (-1, 1.3), (0, 3)])
    known = read_curve(lrs, losses, guess=math.log(10))
    unknown = read_curve(lrs, losses)
    assert 10**-3 < known.lr_min < 10**-2
    assert 10**-5 < unknown.lr_min < 10**-4
    assert known.level == pytest.approx(math.log(10))
    assert unknown.level == pytest.approx(4, rel=1e-3)


def test_steepest_descent_and_a_tenth_of_the_minimum_are_shown_beside_them():
    lrs = rates(300)
    found = read_curve(lrs, curve(lrs, [(-6, 2), (-4, 1.9), (-3, 1.3), (-2, 1), (0, 4)]))
    assert 1e-4 <= found.lr_steepest <= 1e-3
    assert found.lr_minimum == found.lrs[int(np.argmin(found.smoothed))] / 10


@pytest.mark.parametrize(
    "losses",
    [
        2.3 + 0.05 * np.random.default_rng(0).standard_normal(100),
        np.full(100, 2.3),
        np.linspace(2.3, 5, 100),
        np.geomspace(4, 2.29, 100),  # from bad initial weights to guessing, and no further
    ],
)
def test_a_loss_that_does_not_fall_below_guessing_is_refused(losses):
    assert rule(rates().tolist(), losses.tolist(), math.log(10)) is None
    with pytest.raises(ValueError, match="fell by .* LRMAX and LRMIN"):
        read_curve(rates(), losses, math.log(10))


def test_a_loss_that_rises_before_it_has_fallen_is_refused():
    lrs = rates()
    losses = curve(lrs, [(-6, 1), (-5.5, 1), (-5.2, 2.3), (0, 2.3)])
    losses[:10] = 2  # the median of the first ten is above what follows them
    with pytest.raises(ValueError, match="rises again"):
        read_curve(lrs, losses)


# --- the test itself


def network():
    """What a range test could change is in it: BatchNorm's statistics, dropout's random numbers."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(8),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(128, 10),
    )


def image_data(n=64):
    """A bright row tells the class."""
    images = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) % 10
    images[torch.arange(n), 0, 3 * labels] += 5
    return TensorDataset(images, labels)


def image_loader(n=64, batch_size=32):
    return DataLoader(image_data(n), batch_size, shuffle=True)


def run(
    model=None, loader=None, optimizer=None, criterion=F.cross_entropy, device="cpu", **options
):
    model = model or network()
    loader = image_loader() if loader is None else loader
    optimizer = optimizer or train.make_optimizer(model)
    return find_lr(model, device, loader, optimizer, criterion, **options)


def small_network(head):
    """Its first loss is about 2.3 with a head of 1, and far above with a head of 20."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 10))
    with torch.no_grad():
        model[3].weight.mul_(head)
    return model


@pytest.mark.parametrize("head", [1, 20])
@pytest.mark.parametrize("seed", range(5))
def test_shuffled_labels_are_refused_and_right_ones_are_not(seed, head):
    """Also where the first loss falls from far above to what guessing costs, and no further."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4000) % 10
    patterns = torch.randn(10, 3, 4, 4, generator=generator)
    images = torch.randn(4000, 3, 4, 4, generator=generator) + patterns[labels]
    shuffled = labels[torch.randperm(4000, generator=generator)]
    torch.manual_seed(seed)
    model = small_network(head)
    first_loss = float(F.cross_entropy(model(images), labels).detach())
    assert (first_loss > 3) == (head == 20)

    def find(labels):
        loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
        return run(model, loader, guess=math.log(10), iterations=60)

    found = find(labels)
    assert 1e-6 < found.lr_min < found.lr_max < 1
    with pytest.raises(ValueError, match="fell by"):
        find(shuffled)


@pytest.mark.parametrize("end_lr", [1.0, 0.1])
def test_rates_grow_exponentially_from_1e_6_and_nothing_is_printed(end_lr, capfd):
    def criterion(output, labels):
        return F.cross_entropy(output, labels).clamp(max=4)

    found = run(criterion=criterion, iterations=50, end_lr=end_lr)
    np.testing.assert_allclose(found.lrs, np.geomspace(1e-6, end_lr, 50), rtol=1e-9)
    printed = capfd.readouterr()
    assert printed.err == ""
    assert bool(printed.out) == (found.take_off is None)


def test_no_take_off_is_said_and_lrmax_is_a_tenth_of_the_last_rate(capsys):
    found = run(iterations=40, end_lr=1e-3)
    assert found.take_off is None
    assert found.lr_max == pytest.approx(1e-4)
    assert "0.001" in capsys.readouterr().out


def test_a_single_loss_near_zero_does_not_end_the_test():
    """torch_lr_finder's own stop compares with the best single loss: near 0 on easy data."""
    calls = []

    def criterion(output, labels):
        calls.append(1)
        return F.cross_entropy(output, labels) * (1e-6 if len(calls) == 20 else 1)

    assert len(run(criterion=criterion, iterations=40).lrs) == 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_test_computes_in_the_precision(dtype):
    model, dtypes = network(), set()
    model[0].register_forward_hook(lambda layer, inputs, output: dtypes.add(output.dtype))
    run(model, iterations=40, dtype=dtype)
    assert dtypes == {dtype}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_the_test(value):
    calls = []

    def criterion(output, labels):
        calls.append(1)
        return F.cross_entropy(output, labels) * (value if len(calls) == 55 else 1)

    found = run(criterion=criterion, iterations=60)
    assert len(calls) == 55
    assert len(found.losses) == len(found.lrs) == 54
    assert np.isfinite(found.smoothed).all()


@pytest.mark.parametrize(
    ("options", "value"),
    [
        (dict(iterations=10), "iterations is 10.*20"),
        (dict(end_lr=1e-6), "end_lr is 1e-06"),
        (dict(loader=[]), "loader is empty"),
        (dict(criterion=lambda *batch: F.cross_entropy(*batch) * np.nan), "0 steps"),
    ],
)
def test_what_gives_no_curve_is_one_sentence(options, value):
    with pytest.raises(ValueError, match=value):
        run(**options)


def test_a_loader_without_a_length_will_do():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from image_loader().dataset

    assert len(run(loader=DataLoader(Stream(), 16), iterations=40).lrs) > 20


def test_an_index_error_of_the_loader_keeps_its_name():
    class Broken(TensorDataset):
        def __getitem__(self, index):
            raise IndexError("in the loader")

    with pytest.raises(IndexError, match="in the loader"):
        run(loader=DataLoader(Broken(torch.zeros(8)), 4))


# --- nothing is changed


def state_of(model, optimizer):
    """All that a range test may not change, as bytes."""
    return bytes(
        to_bytes(
            [
                model.state_dict(),
                optimizer.state_dict(),
                [p.grad for p in model.parameters()],
                [module.training for module in model.modules()],
                [p.requires_grad for p in model.parameters()],
                torch.get_rng_state(),
                np.random.get_state(),
                random.getstate(),
            ]
        )
    )


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("ends", [None, KeyboardInterrupt, ZeroDivisionError])
def test_everything_is_as_before_also_after_ctrl_c_and_errors(ends, trained):
    model = network()
    optimizer = train.make_optimizer(model)
    if trained:
        scheduler = train.one_cycle(optimizer, 0.01, 10, 3)  # marks the optimizer: initial_lr
        for images, labels in image_loader():
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
        model[0].weight.requires_grad_(False)
        model[1].eval()  # a frozen BatchNorm in a network that trains
    before = state_of(model, optimizer)
    calls = []

    def criterion(output, labels):
        calls.append(1)
        if ends is not None and len(calls) == 7:
            raise ends
        return F.cross_entropy(output, labels)

    # it seeds the generators of Python, NumPy and PyTorch
    loader = SeededLoader(image_data(), batch_size=32)
    loader.set_epoch(3)  # the range test takes epoch 0, whatever was before
    try:
        run(model, loader, optimizer, criterion, iterations=40)
    except (KeyboardInterrupt, ZeroDivisionError) as error:
        assert type(error) is ends
    assert state_of(model, optimizer) == before
    assert loader.epoch == (len(calls) + 1) // 2 >= 4  # new draws in each pass


def test_gradients_that_the_optimizer_does_not_own_are_not_added_to():
    model = network()
    F.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8)).backward()
    before = [p.grad.clone() for p in model.parameters()]
    run(model, optimizer=train.make_optimizer(model[6]), iterations=40)
    assert all(map(torch.equal, before, [p.grad for p in model.parameters()]))


class Remembers(nn.Module):
    """Keeps a tensor of its forward pass, with its history, as many networks do for a figure."""

    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x):
        self.features = self.layers[:4](x)
        return self.layers[4:](self.features)


class Centre(nn.Module):
    """A running mean as one writes it by hand: every step puts another tensor in its place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3)).view(3, 1, 1)
        return x - self.mean


def with_centre():
    return nn.Sequential(Centre(), *network())


def with_weight_norm():
    model = network()
    nn.utils.parametrizations.weight_norm(model[6])
    model(torch.zeros(2, 3, 32, 32))
    return model


def after_forward():
    model = Remembers()
    model(torch.zeros(2, 3, 32, 32))
    return model


@pytest.mark.parametrize("make", [with_weight_norm, after_forward, with_centre])
def test_networks_that_cannot_be_copied_or_replace_their_buffers_are_as_before(make):
    model = make()
    optimizer = train.make_optimizer(model)
    before = state_of(model, optimizer)
    assert len(run(model, optimizer=optimizer, iterations=40).lrs) == 40
    assert state_of(model, optimizer) == before


# --- kept, and given


def test_a_checkpoint_keeps_the_result_and_gives_it_back(tmp_path):
    config = {"epochs": 1}
    found = run(iterations=40, checkpoint=Checkpoint(tmp_path, config))

    def criterion(output, labels):
        raise AssertionError("it was not run again")

    again = run(iterations=40, criterion=criterion, checkpoint=Checkpoint(tmp_path, config))
    assert again == found

    model = network()  # its rates are not those of AdamW
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    other = run(model, optimizer=sgd, iterations=40, checkpoint=Checkpoint(tmp_path, config))
    assert other.losses != found.losses


def test_a_given_rate_takes_the_place_of_the_one_that_is_found():
    lrs = rates()
    found = read_curve(lrs, curve(lrs, FALLS_AND_RISES))

    def range_test():
        return read_curve(lrs, curve(lrs, FALLS_AND_RISES))

    neither = choose_rates(range_test)
    assert (neither.lr_min, neither.lr_max, neither.lr_given) == (found.lr_min, found.lr_max, False)
    one = choose_rates(range_test, lr_max=0.5)
    assert (one.lr_min, one.lr_max, one.lr_given) == (found.lr_min, 0.5, True)
    other = choose_rates(range_test, lr_min=1e-5)
    assert (other.lr_min, other.lr_max, other.lr_given) == (1e-5, found.lr_max, False)
    both = choose_rates(Mock(side_effect=AssertionError), 1e-5, 0.5)
    assert (both.lr_min, both.lr_max, both.lr_given, both.lrs) == (1e-5, 0.5, True, [])


@pytest.mark.parametrize(
    ("device", "non_blocking"), [("cpu", False), ("mps", False), ("cuda", True)]
)
def test_only_cuda_copies_without_waiting(device, non_blocking, monkeypatch):
    """On Apple's GPU the memory may be freed before the copy has read it (pytorch#139550)."""
    range_test = Mock(side_effect=ZeroDivisionError)
    monkeypatch.setattr(torch_lr_finder.lr_finder.LRFinder, "range_test", range_test)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices, device_type: torch.no_grad())
    with pytest.raises(ZeroDivisionError):
        run(device=device)
    assert range_test.call_args.kwargs["non_blocking_transfer"] is non_blocking

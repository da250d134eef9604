"""An epoch is trained and counted right, the one-cycle policy is exact, and a run goes on where it
was cut.
"""

import json
import math
import shutil
import subprocess
import sys
import warnings
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from small_run import TinyNet, same, server
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import train as module
from extras.checkpoint import Checkpoint
from test import test as evaluate
from test import to_device as to_device_of_test
from train import (
    TrainingDiverged,
    cycle_curve,
    fit,
    make_criterion,
    make_optimizer,
    one_cycle,
    to_device,
    train,
)

LRMAX = 0.0123


def batches():
    """A plain DataLoader with an uneven last batch."""
    images = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(images, torch.arange(20) % 10), batch_size=8)


def sgd(model, lr=0.01, **options):
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def test_an_epoch_is_what_one_computes_by_hand_with_an_uneven_last_batch():
    loader, model = batches(), nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    reference = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    reference.load_state_dict(model.state_dict())
    losses, correct, optimizer = [], 0, sgd(reference)
    for images, labels in loader:
        output = reference(images)
        each = nn.functional.cross_entropy(output, labels, reduction="none")
        losses += each.tolist()
        correct += sum(int(a) == int(b) for a, b in zip(output.argmax(1), labels, strict=True))
        optimizer.zero_grad()
        each.mean().backward()
        optimizer.step()
    lrs = []
    result = train(model.eval(), "cpu", loader, sgd(model), nn.CrossEntropyLoss(), lrs=lrs)
    assert type(result) is tuple and [type(value) for value in result] == [float, float]
    assert result == pytest.approx((sum(losses) / 20, 100 * correct / 20), rel=1e-5)
    assert model.training and lrs == [0.01] * 3
    assert torch.allclose(model[1].weight, reference[1].weight, atol=1e-6)


@pytest.mark.parametrize("function", [to_device, to_device_of_test])
@pytest.mark.parametrize("kind", ["cuda", "mps", "cpu"])
def test_a_copy_runs_in_the_background_on_cuda_alone(function, kind):
    """On Apple's GPU the memory that is copied from may already hold something else."""
    images, labels = Mock(ndim=4), Mock()
    function(images, labels, torch.device(kind))
    assert images.to.call_args.kwargs == dict(
        non_blocking=kind == "cuda", memory_format=torch.channels_last
    )
    assert labels.to.call_args.kwargs == dict(non_blocking=kind == "cuda")


def test_weight_decay_is_for_weights_alone_not_for_batchnorm_and_biases():
    model = TinyNet()
    optimizer = make_optimizer(model, dict(weight_decay=0.05, betas=[0.9, 0.99]))
    before = {name: value.clone() for name, value in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for (
        name,
        p,
    ) in model.named_parameters():  # decoupled: the decay does not go through Adam's scaling
        factor = 1 - 0.05 * optimizer.defaults["lr"] if p.ndim > 1 else 1
        assert torch.allclose(p, before[name] * factor, rtol=1e-6), name
    assert make_criterion(dict(label_smoothing=0.3)).label_smoothing == 0.3


# --- one cycle


@pytest.mark.parametrize(
    ("steps", "epochs"),
    [
        (98, 24),
        (98, 1),
        (98, 2),
        (98, 3),
        (98, 4),
        (98, 5),
        (1, 3),
        (3, 1),
        (2, 2),
        (1, 5),
        (7, 24),
        (63, 5),
    ],
)
def test_every_rate_of_a_cycle(steps, epochs):
    lrs, betas = cycle_curve(LRMAX, steps, epochs)
    total = steps * epochs
    peak = min(max(round(5 / 24 * total), 2), total - 1) - 1  # index of the peak's step
    up, down = (
        np.linspace(LRMAX / 100, LRMAX, peak + 1),
        np.linspace(LRMAX, LRMAX / 100, total - peak),
    )
    assert lrs == pytest.approx([*up, *down[1:]], rel=1e-9)
    up, down = np.linspace(0.95, 0.85, peak + 1), np.linspace(0.85, 0.95, total - peak)
    assert betas == pytest.approx([*up, *down[1:]], rel=1e-9)


@pytest.mark.parametrize("lr_max", [LRMAX, 0.01, 1 / 3, np.float64(7.3e-4)])
def test_the_peak_of_24_epochs_is_the_last_step_of_epoch_5_and_there_is_no_annihilation(lr_max):
    lrs, betas = cycle_curve(lr_max, 98, lr_min=lr_max / 7)
    assert lrs[5 * 98 - 1] == pytest.approx(lr_max, rel=1e-15)
    assert lrs[5 * 98 - 2] < lrs[5 * 98 - 1] > lrs[5 * 98]
    assert (
        min(lrs)
        == pytest.approx(lrs[0], rel=1e-12)
        == pytest.approx(lrs[-1], rel=1e-12)
        == lr_max / 7
    )
    assert (betas[0], betas[5 * 98 - 1], betas[-1]) == pytest.approx((0.95, 0.85, 0.95), rel=1e-12)
    assert (
        np.argmax(cycle_curve(lr_max, 98, peak=12 / 24)[0]) == 12 * 98 - 1
    )  # the notebook's exercise


@pytest.mark.parametrize(
    ("steps", "epochs", "rates", "text"),
    [
        (1, 1, {}, "make 1 steps, and one cycle needs 3: take more"),
        (1, 2, {}, "needs 3"),
        (0, 24, {}, "needs 3"),
    ]
    + [
        (9, 9, dict(lr_min=0.02), "LRMIN is 0.02 and LRMAX 0.0123"),
        (9, 9, dict(lr_min=0.0), "0 < LRMIN"),
    ],
)
def test_a_cycle_that_cannot_be_is_refused(steps, epochs, rates, text):
    with pytest.raises(ValueError, match=text):
        one_cycle(sgd(nn.Linear(1, 1)), LRMAX, steps, epochs, **rates)


# --- a whole run


class SeededBatches(list):
    """Three batches whose order follows the epoch."""

    def set_epoch(self, epoch):
        images, labels = batches().dataset.tensors
        order = torch.randperm(20, generator=torch.Generator().manual_seed(epoch))
        self[:] = [(images[chosen], labels[chosen]) for chosen in order.split(8)]


class Run:
    """A small run in this process, made anew each time as after a restart."""

    def __init__(
        self,
        folder=None,
        epochs=4,
        model=TinyNet,
        optimizer=make_optimizer,
        scheduler=None,
        **options,
    ):
        torch.manual_seed(5)
        self.model, self.epochs, self.lines, self.options = model(), epochs, [], options
        self.optimizer = optimizer(self.model)
        self.scheduler = (
            scheduler(self.optimizer) if scheduler else one_cycle(self.optimizer, 0.01, 3, epochs)
        )
        self.criterion, self.loader = make_criterion(), SeededBatches()
        self.checkpoint = (
            Checkpoint(folder, dict(epochs=epochs), log=self.lines.append) if folder else None
        )

    def evaluate(self):
        return evaluate(self.model, "cpu", self.loader, nn.CrossEntropyLoss())

    def fit(self, **options):
        arguments = dict(
            epochs=self.epochs,
            evaluate=self.evaluate,
            checkpoint=self.checkpoint,
            log=self.lines.append,
        )
        parts = (self.model, "cpu", self.loader, self.optimizer, self.criterion, self.scheduler)
        return fit(*parts, **arguments | self.options | options)


def without_seconds(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


@pytest.fixture(scope="module")
def uninterrupted():
    """Weights and history of a run that was never cut."""
    run = Run()
    return run.model.state_dict(), without_seconds(run.fit())


def test_the_history_has_the_keys_and_the_rates_of_the_contract_and_nothing_is_printed(
    tmp_path, uninterrupted, capfd
):
    run = Run(tmp_path)
    history = run.fit()
    keys = ["epoch", "train_loss", "train_acc", "test_loss", "test_acc", "lr", "seconds"]
    assert [list(row) for row in history] == [keys] * 4 and without_seconds(
        history
    ) == uninterrupted[1]
    assert all(type(value) in (int, float) for row in history for value in row.values())
    lrs, _ = cycle_curve(0.01, 3, 4)
    assert [row["lr"] for row in history] == lrs[2::3]  # of the last step of each epoch
    assert [line.startswith(f"epoch {n}/4 ") for n, line in enumerate(run.lines, start=1)] == [
        True
    ] * 4
    assert capfd.readouterr() == ("", "")


def with_steplr(folder=None):
    return Run(
        folder,
        3,
        lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3072, 10)),
        optimizer=lambda model: sgd(model, momentum=0.9),
        by_epoch=True,
        seed=3,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(
            optimizer, step_size=1, gamma=0.5
        ),
    )


def test_sgd_with_steplr_and_another_model_is_stepped_by_the_epoch_and_resumed(tmp_path):
    whole, again = with_steplr(), with_steplr(tmp_path)
    assert [row["lr"] for row in whole.fit()] == [0.01, 0.005, 0.0025]
    again.fit(epochs=2)
    again = with_steplr(tmp_path)
    assert len(again.fit()) == 3 and same(again.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize(
    "call", [2, 4, 7, 14]
)  # forward passes: 3 of training and 3 of evaluation an epoch
def test_ctrl_c_is_logged_and_raised_and_the_same_objects_go_on(tmp_path, uninterrupted, call):
    """As in a notebook whose cell is interrupted and run again."""
    run, calls = Run(tmp_path), iter(range(1, 1000))

    def interrupted(*_):
        if next(calls) == call:
            raise KeyboardInterrupt

    hook = run.model.register_forward_pre_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    kept = f"which is lost; the epochs before are kept in {tmp_path / 'checkpoint.pt'}"
    assert run.lines[-1] == f"interrupted in epoch {(call - 1) // 6 + 1}, {kept}"
    hook.remove()
    assert without_seconds(run.fit()) == uninterrupted[1]
    assert same(run.model.state_dict(), uninterrupted[0])


def go_on(folder):
    assert torch.initial_seed() != 5
    run = Run(folder)
    run.fit()
    assert run.lines[0].startswith("resumed after epoch 2 of 4 from ") and "s saved" in run.lines[0]


def test_a_new_process_goes_on_bit_exactly_dropout_included(tmp_path, uninterrupted):
    first = Run(tmp_path)
    first.fit(epochs=2)
    first.checkpoint.release()
    process = server().Process(target=go_on, args=(tmp_path,))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (
        same(state["model"], uninterrupted[0])
        and without_seconds(state["history"]) == uninterrupted[1]
    )
    again = Run(tmp_path)
    again.loader = None  # a finished run trains nothing, and shows all epochs again
    assert (
        without_seconds(again.fit()) == uninterrupted[1] and "the run is finished" in again.lines[0]
    )
    assert [line.split()[1] for line in again.lines[1:]] == ["1/4", "2/4", "3/4", "4/4"]


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_of_nan_names_epoch_and_learning_rate_and_the_checkpoint_before_is_kept(
    tmp_path, epoch, value
):
    run, calls, criterion = Run(tmp_path), iter(range(1, 100)), make_criterion()
    second = 3 * epoch - 1  # step of that epoch
    run.criterion = lambda *batch: criterion(*batch) * (value if next(calls) == second else 1)
    text = rf"epoch {epoch}: the loss is NaN or infinite at learning rate \d.*smaller LRMAX.*kept in .*checkpoint.pt"
    with pytest.raises(TrainingDiverged, match=text):
        run.fit()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(state["history"]) == epoch - 1
    assert all(weights.isfinite().all() for weights in state["model"].values())


def test_weights_ruined_by_the_last_step_of_an_epoch_are_not_kept(tmp_path):
    """The loss of the step was still finite, its gradient was not: only the evaluation sees it."""
    run, calls = Run(tmp_path), iter(range(1, 100))
    run.model[0].weight.register_hook(
        lambda gradient: gradient * (math.nan if next(calls) == 6 else 1)
    )
    with pytest.raises(
        TrainingDiverged, match=r"epoch 2: the test loss is nan after learning rate \d"
    ):
        run.fit()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(state["history"]) == 1 and all(
        weights.isfinite().all() for weights in state["model"].values()
    )


def test_an_epoch_in_which_the_scaler_skips_every_step_is_an_epoch(monkeypatch):
    """float16 on a GPU begins with a scale that is far too large; SGD's state stays empty then."""
    monkeypatch.setattr(torch.amp.GradScaler, "step", lambda *_: None)
    run = Run(epochs=2, optimizer=sgd)
    before = run.model[0].weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch: the scheduler was stepped before the optimizer
        history = run.fit(epochs=2)
    assert torch.equal(before, run.model[0].weight)
    assert [row["lr"] for row in history] == cycle_curve(0.01, 3, 2)[0][2::3]


def test_a_copy_of_the_file_alone_trains_in_an_empty_folder(tmp_path):
    shutil.copy(module.__file__, tmp_path)
    code = """
import json, torch
from torch import nn
from train import fit, one_cycle, train
model = nn.Linear(12, 2)
loader = [(torch.randn(4, 12), torch.tensor([0, 1, 0, 1]))] * 4  # no images, and no DataLoader
optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), nn.CrossEntropyLoss()
loss, accuracy = train(model, "cpu", loader, optimizer, criterion)
scheduler = one_cycle(optimizer, 0.1, len(loader), epochs=2)
history = fit(model, "cpu", loader, optimizer, criterion, scheduler, epochs=2, evaluate=lambda: (1.0, 50.0))
print(json.dumps(history))"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])) == 2 and done.stdout.count("epoch ") == 2

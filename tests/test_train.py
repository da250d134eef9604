"""An epoch is trained and counted right, one cycle is exact, and a run goes on where it was cut."""

import contextlib
import math
import warnings
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from small_run import TinyNet, same, server
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from extras.checkpoint import Checkpoint
from extras.hardware import memory_format
from test import test as evaluate
from test import to_device as to_device_of_test
from train import (
    RECIPE,
    TrainingDiverged,
    cycle_curve,
    fit,
    make_criterion,
    make_optimizer,
    one_cycle,
    to_device,
    train,
    unwrapped,
)

LRMAX = 0.0123


def batches():
    """A plain DataLoader with an uneven last batch."""
    images = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(images, torch.arange(20) % 10), batch_size=8)


def linear():
    """The fastest network there is."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))


def twins():
    """Two networks with the same weights: one for the product, one for the test's own loop."""
    first, second = linear(), linear()
    second.load_state_dict(first.state_dict())
    return first, second


def sgd(model, lr=0.01, **options):
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


# --- one epoch


def test_an_epoch_is_what_one_computes_by_hand_with_an_uneven_last_batch():
    model, reference = twins()
    losses, correct, optimizer = [], 0, sgd(reference)
    for images, labels in batches():
        output = reference(images)
        each = nn.functional.cross_entropy(output, labels, reduction="none")
        losses += each.tolist()
        correct += sum(int(a) == int(b) for a, b in zip(output.argmax(1), labels, strict=True))
        optimizer.zero_grad()
        each.mean().backward()
        optimizer.step()
    result = train(model.eval(), "cpu", batches(), sgd(model), nn.CrossEntropyLoss())
    assert type(result) is tuple
    assert [type(value) for value in result] == [float, float]
    assert result == pytest.approx((sum(losses) / 20, 100 * correct / 20), rel=1e-5)
    assert model.training
    assert torch.allclose(model[1].weight, reference[1].weight, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_compute_in_the_precision_and_weights_stay_float32(dtype):
    model, dtypes = TinyNet(), set()
    model[0].register_forward_hook(lambda layer, inputs, output: dtypes.add(output.dtype))
    criterion = nn.CrossEntropyLoss()
    fit(
        model,
        "cpu",
        batches(),
        sgd(model),
        criterion,
        epochs=1,
        evaluate=lambda: evaluate(model, "cpu", batches(), criterion, dtype=dtype),
        dtype=dtype,
    )
    assert dtypes == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("function", [to_device, to_device_of_test])
@pytest.mark.parametrize("kind", ["cuda", "mps", "cpu"])
def test_apples_gpu_gets_no_channels_last_and_no_copy_in_the_background(function, kind):
    images, labels = Mock(ndim=4), Mock()
    function(images, labels, torch.device(kind))
    layout = torch.contiguous_format if kind == "mps" else torch.channels_last
    assert memory_format(kind) is memory_format(torch.device(kind)) is layout
    table = Mock(ndim=2)  # other than images, nothing has channels
    function(table, labels, torch.device(kind))
    assert table.to.call_args.kwargs["memory_format"] is torch.contiguous_format
    assert images.to.call_args.kwargs == dict(non_blocking=kind == "cuda", memory_format=layout)
    assert labels.to.call_args.kwargs == dict(non_blocking=kind == "cuda")


# --- the recipe


def test_the_recipe_is_that_of_the_readme():
    assert (
        dict(optimizer="AdamW", weight_decay=0.25, betas=[0.9, 0.999], label_smoothing=0.1)
        == RECIPE
    )


@pytest.mark.parametrize("recipe", [RECIPE, dict(weight_decay=0.03, betas=[0.8, 0.95])])
def test_three_steps_are_those_of_adam_with_decoupled_decay_on_every_parameter(recipe):
    model = TinyNet()
    optimizer = make_optimizer(model, recipe)
    (beta1, beta2), lr = recipe["betas"], 0.004
    optimizer.param_groups[0]["lr"] = lr
    expected = {name: p.detach().double() for name, p in model.named_parameters()}
    means = dict.fromkeys(expected, 0)
    squares = dict.fromkeys(expected, 0)
    for step in (1, 2, 3):
        for name, p in model.named_parameters():
            p.grad = torch.randn_like(p)
            gradient = p.grad.double()
            means[name] = beta1 * means[name] + (1 - beta1) * gradient
            squares[name] = beta2 * squares[name] + (1 - beta2) * gradient**2
            mean = means[name] / (1 - beta1**step)
            square = squares[name] / (1 - beta2**step)
            shrunk = expected[name] * (1 - lr * recipe["weight_decay"])
            expected[name] = shrunk - lr * mean / (square.sqrt() + 1e-8)
        optimizer.step()
    assert len(optimizer.param_groups) == 1
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_label_smoothing_gives_a_share_of_the_label_to_all_classes(smoothing):
    recipe = RECIPE if smoothing == 0.1 else dict(label_smoothing=smoothing)
    logits, labels = torch.randn(6, 10), torch.arange(6)
    target = (1 - smoothing) * torch.eye(10)[labels] + smoothing / 10
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(make_criterion(recipe)(logits, labels), expected)


# --- one cycle


@pytest.mark.parametrize(
    ("steps", "epochs"),
    [
        *[(98, epochs) for epochs in (1, 2, 3, 4, 5, 24)],
        *[(1, 3), (3, 1), (2, 2), (1, 5), (7, 24), (63, 5)],
    ],
)
@pytest.mark.parametrize("lr_min", [None, LRMAX / 7])
def test_every_rate_of_a_cycle(steps, epochs, lr_min):
    lrs, betas = cycle_curve(LRMAX, steps, epochs, lr_min)
    last = steps * epochs - 1
    peak = min(max(round(5 / 24 * (last + 1)), 2), last) - 1  # counted from 0
    corners = [0, peak, last]
    low = LRMAX / 100 if lr_min is None else lr_min
    expected = np.interp(range(last + 1), corners, [low, LRMAX, low])
    np.testing.assert_allclose(lrs, expected, rtol=1e-12)
    np.testing.assert_allclose(
        betas, np.interp(range(last + 1), corners, [0.95, 0.85, 0.95]), rtol=1e-12
    )
    assert int(np.argmax(lrs)) == peak


@pytest.mark.parametrize("lr_max", [1 / 3, np.float64(7.3e-4)])
def test_the_peak_of_24_epochs_is_the_last_step_of_epoch_5_and_there_is_no_annihilation(lr_max):
    lrs, _ = cycle_curve(lr_max, 98, lr_min=lr_max / 7)
    assert lrs[5 * 98 - 1] == pytest.approx(lr_max, rel=1e-15)
    assert lrs[5 * 98 - 2] < lrs[5 * 98 - 1] > lrs[5 * 98]
    assert [lrs[0], lrs[-1]] == pytest.approx([lr_max / 7] * 2, rel=1e-15)
    assert min(lrs) >= min(lrs[0], lrs[-1])
    later, _ = cycle_curve(lr_max, 98, peak=12 / 24)
    assert int(np.argmax(later)) == 12 * 98 - 1


@pytest.mark.parametrize(
    ("steps", "epochs", "rates", "value"),
    [
        (1, 1, {}, "1 steps"),
        (1, 2, {}, "2 steps"),
        (0, 24, {}, "0 steps"),
        (9, 9, dict(lr_min=0.02), "LRMIN is 0.02 and LRMAX 0.0123"),
        (9, 9, dict(lr_min=0.0), "LRMIN is 0 "),
    ],
)
def test_a_cycle_that_cannot_be_is_refused(steps, epochs, rates, value):
    with pytest.raises(ValueError, match=value):
        one_cycle(sgd(nn.Linear(1, 1)), LRMAX, steps, epochs, **rates)


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_sgd_without_momentum_has_none_in_the_cycle(momentum):
    """The range test found LRMAX without it; with 0.95 a step would go twenty times as far."""
    optimizer = sgd(nn.Linear(1, 1), momentum=momentum)
    one_cycle(optimizer, LRMAX, 9, 9)
    assert optimizer.param_groups[0]["momentum"] == (0.95 if momentum else 0)


# --- a whole run


class SeededBatches(list):
    """Three batches whose order follows the epoch; it notes epochs and PyTorch's seed."""

    def __init__(self):
        self.epochs, self.seeds = [], []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)
        images, labels = batches().dataset.tensors
        order = torch.randperm(20, generator=torch.Generator().manual_seed(epoch))
        self[:] = [(images[chosen], labels[chosen]) for chosen in order.split(8)]

    def __iter__(self):
        self.seeds.append(torch.initial_seed())
        return super().__iter__()


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
        self.model = model()
        self.epochs = epochs
        self.options = options
        self.optimizer = optimizer(self.model)
        make_scheduler = scheduler or (lambda optimizer: one_cycle(optimizer, 0.01, 3, epochs))
        self.scheduler = make_scheduler(self.optimizer)
        self.criterion = make_criterion()
        self.loader = SeededBatches()
        self.checkpoint = Checkpoint(folder, dict(epochs=epochs)) if folder else None

    def evaluate(self):
        return evaluate(self.model, "cpu", batches(), nn.CrossEntropyLoss())

    def fit(self, **options):
        arguments = dict(epochs=self.epochs, evaluate=self.evaluate, checkpoint=self.checkpoint)
        parts = (self.model, "cpu", self.loader, self.optimizer, self.criterion, self.scheduler)
        return fit(*parts, **{**arguments, **self.options, **options})


def without_seconds(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def saved(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted():
    """Weights and history of a run that was never cut."""
    run = Run()
    history = run.fit()
    return run.model.state_dict(), without_seconds(history)


def test_the_history_has_the_keys_and_the_rates_of_the_contract(tmp_path, uninterrupted, capsys):
    history = Run(tmp_path).fit()
    keys = ["epoch", "train_loss", "train_acc", "test_loss", "test_acc", "lr", "seconds"]
    assert [list(row) for row in history] == [keys] * 4
    assert without_seconds(history) == uninterrupted[1]
    assert all(type(value) in (int, float) for row in history for value in row.values())
    assert [row["lr"] for row in history] == cycle_curve(0.01, 3, 4)[0][2::3]  # of the last steps
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [
        f"{epoch}/4" for epoch in (1, 2, 3, 4)
    ]


def test_an_epochs_random_numbers_are_a_function_of_seed_and_epoch():
    seeds = {}
    for seed in (0, 1):
        run = Run(epochs=3, seed=seed)
        run.fit()
        assert run.loader.epochs == [1, 2, 3]  # epoch 0 is the range test's
        seeds[seed] = run.loader.seeds
    assert len({*seeds[0], *seeds[1]}) == 6


def test_an_optimizer_of_another_model_is_refused_before_anything_is_trained(tmp_path):
    """As after running the notebook's model cell again, but not the cell of the optimizer."""
    run = Run(tmp_path)
    run.model = TinyNet()
    with pytest.raises(ValueError, match="5 of .*0.weight"):
        run.fit()
    assert run.loader.seeds == []
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_scheduler_of_another_optimizer_is_refused():
    run = Run()
    run.optimizer = make_optimizer(run.model)
    with pytest.raises(ValueError, match="scheduler .* another optimizer"):
        run.fit()


def test_a_cycle_that_ends_before_the_run_is_refused_and_a_longer_one_is_named(capsys):
    """As after Ctrl-C without a checkpoint: the model is trained, and the cycle half over."""
    run = Run(scheduler=lambda optimizer: one_cycle(optimizer, 0.01, 3, 4))
    run.loader.set_epoch(1)  # before, it is empty
    run.fit(epochs=3)
    assert "9 of the cycle's 12 steps" in capsys.readouterr().out
    with pytest.raises(ValueError, match="3 steps left, and the run takes 12"):
        run.fit()
    assert len(run.fit(epochs=1)) == 1


def test_a_sampler_for_several_processes_hears_of_every_epoch():
    run = Run(epochs=2)
    tensors = batches().dataset
    sampler = torch.utils.data.DistributedSampler(tensors, num_replicas=2, rank=0)
    run.loader = DataLoader(tensors, batch_size=4, sampler=sampler)
    run.fit()
    assert sampler.epoch == 2


@pytest.mark.parametrize("function", [train, evaluate])
def test_a_network_with_several_outputs_is_refused(function):
    model = linear()
    model.register_forward_hook(lambda module, images, output: (output, output))
    parts = (sgd(model), nn.CrossEntropyLoss()) if function is train else (nn.CrossEntropyLoss(),)
    with pytest.raises(ValueError, match="tuple"):
        function(model, "cpu", batches(), *parts)


def test_frozen_layers_need_no_optimizer():
    run = Run(epochs=1, optimizer=lambda model: sgd(model[6]))
    with pytest.raises(ValueError, match="requires_grad_"):
        run.fit()
    for layer in list(run.model)[:6]:
        layer.requires_grad_(False)
    before = run.model[0].weight.clone()
    head = run.model[6].weight.clone()
    run.fit()
    assert torch.equal(run.model[0].weight, before)
    assert not torch.equal(run.model[6].weight, head)


def test_the_results_cell_after_the_model_cell_gets_the_weights_of_the_finished_run(
    tmp_path, uninterrupted
):
    Run(tmp_path).fit()
    model = TinyNet()
    Checkpoint(tmp_path, dict(epochs=4)).load_model(model)
    assert same(model.state_dict(), uninterrupted[0])


# --- when the scheduler is stepped


def rates_of(scheduler, **options):
    """The rate of each step of three epochs with three steps each, from 0.1."""
    run = Run(
        epochs=3,
        model=linear,
        optimizer=lambda model: sgd(model, lr=0.1),
        scheduler=scheduler,
        **options,
    )
    rates = []
    run.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    history = run.fit()
    assert [row["lr"] for row in history] == rates[2::3]
    return rates


def by_epoch_of(*rates):
    return [rate for rate in rates for _ in range(3)]


@pytest.mark.parametrize(
    ("scheduler", "options", "expected"),
    [
        (lambda o: lr_scheduler.StepLR(o, 1, gamma=0.5), {}, by_epoch_of(0.1, 0.05, 0.025)),
        (
            lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=2),
            {},
            by_epoch_of(0.1, 0.05, 0.0),
        ),
        (
            lambda o: lr_scheduler.StepLR(o, 1, gamma=0.5),
            dict(by_epoch=False),
            [0.1 * 0.5**step for step in range(9)],
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9, anneal_strategy="linear"),
            dict(by_epoch=None),
            np.interp(range(9), [0, 0.3 * 9 - 1, 8], [0.004, 0.1, 4e-7]),
        ),
        (
            lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.5, step_size_up=4),
            {},
            [0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.3, 0.2, 0.1],
        ),
        (
            lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.5, step_size_up=4),
            dict(by_epoch=True),
            by_epoch_of(0.1, 0.2, 0.3),
        ),
        (lambda o: None, {}, by_epoch_of(0.1, 0.1, 0.1)),
    ],
)
def test_a_scheduler_is_stepped_when_its_authors_meant_it_to_be(scheduler, options, expected):
    assert rates_of(scheduler, **options) == pytest.approx(list(expected), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("test_losses", "expected"),
    [([1.0, 2.0, 3.0], (0.1, 0.1, 0.05)), ([3.0, 2.0, 1.0], (0.1, 0.1, 0.1))],
)
def test_a_plateau_is_one_of_the_test_loss(test_losses, expected):
    losses = iter(test_losses)  # the training loss falls in either case
    rates = rates_of(
        lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
        evaluate=lambda: (next(losses), 50.0),
    )
    assert rates == pytest.approx(by_epoch_of(*expected))


# --- after an epoch


def test_what_is_called_after_an_epoch_can_end_the_run_which_stays_ended(tmp_path, uninterrupted):
    """Early stopping in a line, with the epoch's row of the history."""
    rows = []

    def stop(row):
        rows.append(dict(row))
        return len(rows) == 2

    history = Run(tmp_path).fit(after_epoch=stop)
    assert without_seconds(rows) == uninterrupted[1][:2]
    assert len(history) == 2
    again = Run(tmp_path)
    again.loader = None
    assert again.fit(after_epoch=stop) == history
    assert again.fit() == history
    assert len(rows) == 2


def test_clipping_class_weights_and_a_moving_average_need_no_edit():
    model, reference = twins()
    weights = torch.linspace(0.5, 1.5, 10)
    optimizer = sgd(model, lr=0.1)

    def clip(*_):
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.1)

    optimizer.register_step_pre_hook(clip)
    average = AveragedModel(model)
    fit(
        model,
        "cpu",
        batches(),
        optimizer,
        nn.CrossEntropyLoss(weight=weights),
        epochs=2,
        evaluate=lambda: (1.0, 50.0),
        after_epoch=lambda row: average.update_parameters(model),
    )
    kept = []
    for _ in range(2):
        for images, labels in batches():
            logs = reference(images).log_softmax(1)[torch.arange(len(labels)), labels]
            loss = -(weights[labels] * logs).sum() / weights[labels].sum()
            gradients = torch.autograd.grad(loss, list(reference.parameters()))
            norm = sum((gradient**2).sum() for gradient in gradients).sqrt()
            with torch.no_grad():
                for p, gradient in zip(reference.parameters(), gradients, strict=True):
                    p -= 0.1 * gradient * min(1, 0.1 / float(norm))
        kept.append(reference[1].weight.detach().clone())
    assert torch.allclose(model[1].weight, kept[1], atol=1e-6)
    assert torch.allclose(average.module[1].weight, (kept[0] + kept[1]) / 2, atol=1e-6)


def test_a_compiled_model_trains_and_is_resumed_also_by_one_that_is_not(tmp_path, uninterrupted):
    def compiled():
        return torch.compile(TinyNet(), backend="eager")

    Run(tmp_path, model=compiled).fit(epochs=2)
    again = Run(tmp_path, model=compiled)
    assert without_seconds(again.fit(epochs=3)) == uninterrupted[1][:3]
    plain = Run(tmp_path)
    assert without_seconds(plain.fit()) == uninterrupted[1]
    assert same(saved(tmp_path)["model"], uninterrupted[0])


def test_the_network_is_found_inside_of_compile_and_distributed_in_either_order():
    model = linear()

    def distributed(inner):  # without the processes that its constructor asks for
        wrapper = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
        nn.Module.__init__(wrapper)
        wrapper.module = inner
        return wrapper

    def compiled(inner):
        wrapper = nn.Module()
        wrapper._orig_mod = inner
        return wrapper

    for wrapped in (model, distributed(compiled(model)), compiled(distributed(model))):
        assert unwrapped(wrapped) is model


# --- interrupted, and resumed


def test_sgd_with_steplr_and_dropout_is_resumed(tmp_path):
    def run(folder=None):
        return Run(
            folder,
            epochs=3,
            model=lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3072, 10)),
            optimizer=lambda model: sgd(model, momentum=0.9),
            scheduler=lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5),
            seed=3,
        )

    whole = run()
    history = whole.fit()
    run(tmp_path).fit(epochs=2)
    again = run(tmp_path)
    assert without_seconds(again.fit()) == without_seconds(history)
    assert same(again.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("call", [2, 4, 7, 14])  # of forward: 3 to train, 3 to evaluate an epoch
def test_ctrl_c_is_said_and_raised_and_the_same_objects_go_on(
    tmp_path, uninterrupted, call, capsys
):
    """As in a notebook whose cell is interrupted and run again."""
    run, calls = Run(tmp_path), iter(range(1, 1000))

    def interrupted(*_):
        if next(calls) == call:
            raise KeyboardInterrupt

    hook = run.model.register_forward_pre_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"epoch {(call - 1) // 6 + 1}," in last
    assert str(tmp_path / "checkpoint.pt") in last
    hook.remove()
    assert without_seconds(run.fit()) == uninterrupted[1]
    assert same(run.model.state_dict(), uninterrupted[0])


def go_on(folder):
    assert torch.initial_seed() != 5
    Run(folder).fit()


def test_a_new_process_goes_on_bit_exactly_dropout_included(tmp_path, uninterrupted, capsys):
    Run(tmp_path).fit(epochs=2)
    process = server().Process(target=go_on, args=(tmp_path,))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    state = saved(tmp_path)
    assert same(state["model"], uninterrupted[0])
    assert without_seconds(state["history"]) == uninterrupted[1]
    again = Run(tmp_path)
    again.loader = None  # a finished run trains nothing, and shows all epochs again
    capsys.readouterr()
    assert without_seconds(again.fit()) == uninterrupted[1]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_of_nan_names_epoch_and_rate_and_the_checkpoint_before_is_kept(
    tmp_path, epoch, value
):
    run, calls, criterion = Run(tmp_path), iter(range(1, 100)), make_criterion()
    second = 3 * epoch - 1  # step of that epoch
    run.criterion = lambda *batch: criterion(*batch) * (value if next(calls) == second else 1)
    rate = f"{cycle_curve(0.01, 3, 4)[0][3 * epoch - 1]:.2g}"
    with pytest.raises(TrainingDiverged, match=rf"epoch {epoch}: .*{rate}.*checkpoint.pt"):
        run.fit()
    state = saved(tmp_path)
    assert len(state["history"]) == epoch - 1
    assert all(weights.isfinite().all() for weights in state["model"].values())


def test_weights_ruined_by_the_last_step_of_an_epoch_are_not_kept(tmp_path):
    """The loss of the step was still finite, its gradient was not: only the evaluation sees it."""
    run, calls = Run(tmp_path), iter(range(1, 100))
    run.model[0].weight.register_hook(
        lambda gradient: gradient * (math.nan if next(calls) == 6 else 1)
    )
    with pytest.raises(TrainingDiverged, match=r"epoch 2: .*nan .*rate \d"):
        run.fit()
    state = saved(tmp_path)
    assert len(state["history"]) == 1
    assert all(weights.isfinite().all() for weights in state["model"].values())


# --- float16, as far as a CPU can show it


def test_float16_without_a_scaler_is_refused():
    run = Run(model=linear)
    with pytest.raises(ValueError, match="GradScaler"):
        train(run.model, "cpu", run.loader, run.optimizer, run.criterion, dtype=torch.float16)


def test_float16_scales_the_loss_and_the_step_is_that_of_float32(tmp_path):
    """Else a gradient below 6e-8 is 0. The scale is part of the checkpoint."""
    weights, largest = {}, {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        folder = tmp_path / str(dtype)
        run = Run(folder, epochs=1, model=linear, optimizer=lambda model: sgd(model, lr=1e-3))
        run.scheduler = None

        def note(gradient, dtype=dtype):
            largest.setdefault(dtype, gradient.abs().max().item())

        run.model[1].weight.register_hook(note)
        run.fit(dtype=dtype)
        weights[dtype] = run.model[1].weight.detach()
        assert bool(saved(folder)["scaler"]) == (dtype == torch.float16)
    assert largest[torch.bfloat16] == pytest.approx(largest[torch.float32], rel=0.05)
    assert largest[torch.float16] > 100 * largest[torch.float32]
    for reduced in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(weights[reduced], weights[torch.float32], rtol=0, atol=1e-4)
        assert not torch.equal(weights[reduced], weights[torch.float32])


@pytest.mark.parametrize("optimizer", [sgd, make_optimizer])
def test_an_epoch_in_which_the_scaler_skips_every_step_is_an_epoch(monkeypatch, optimizer):
    """float16 on a GPU begins with a scale that is far too large; SGD's state stays empty then."""
    monkeypatch.setattr(torch.amp.GradScaler, "step", lambda *_: None)
    run = Run(epochs=2, optimizer=optimizer)
    before = run.model[0].weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch: the scheduler was stepped before the optimizer
        history = run.fit()
    assert torch.equal(before, run.model[0].weight)
    assert [row["lr"] for row in history] == cycle_curve(0.01, 3, 2)[0][::3]  # nothing was stepped


def test_fit_leaves_no_hook_behind_whatever_happens():
    run = Run(epochs=2, by_epoch=True, scheduler=lambda o: None)
    run.fit()
    with contextlib.suppress(ZeroDivisionError):
        run.fit(evaluate=lambda: 1 / 0)
    assert not run.optimizer._optimizer_step_pre_hooks

"""Is an epoch trained, counted and scheduled right, and does a whole run go on where it was cut?"""

import math
import time

import numpy as np
import pytest
import torch
from small_run import TinyNet, same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from checkpoint import Checkpoint
from test import confusion_matrix, mistakes, predict, test
from train import TrainingDiverged, cycle_curve, find_lr, fit, make_criterion, make_optimizer, one_cycle, train

LRMAX = 0.0123


def batches(n=20, batch_size=8, shape=(3, 32, 32), classes=10, **options):
    """A plain DataLoader with an uneven last batch."""
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(n, *shape, generator=generator)
    return DataLoader(TensorDataset(pictures, torch.arange(n) % classes), batch_size, **options)


def test_the_curve_that_is_shown_is_the_one_that_trains_also_with_another_peak():
    lrs, betas = cycle_curve(LRMAX, 98)
    assert (lrs, betas) == whole_cycle(98, 24)
    late, _ = cycle_curve(LRMAX, 98, peak=12 / 24)  # the notebook's exercise
    assert np.argmax(lrs) == 5 * 98 - 1 and np.argmax(late) == 12 * 98 - 1


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.01)


# --- one cycle


def whole_cycle(steps, epochs, optimizer=None, lr_max=LRMAX):
    """The rate and beta1 that each step of a whole cycle uses."""
    optimizer = optimizer or adam(nn.Linear(1, 1))
    scheduler = one_cycle(optimizer, lr_max, steps, epochs)
    rates, betas = [], []
    for _ in range(steps * epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0].get("betas", [None])[0])
        optimizer.step()
        scheduler.step()
    return rates, betas


@pytest.mark.parametrize(
    ("steps", "epochs"),
    [(98, 24), (98, 1), (98, 2), (98, 5), (98, 7), (1, 3), (3, 1), (2, 2), (1, 5), (7, 24), (49, 1), (32, 5), (391, 3)],
)
def test_every_rate_of_a_cycle(steps, epochs):
    rates, betas = whole_cycle(steps, epochs)
    total = steps * epochs
    peak = min(max(round(5 / 24 * total), 2), total - 1) - 1  # index of the peak's step
    up, down = np.linspace(LRMAX / 100, LRMAX, peak + 1), np.linspace(LRMAX, LRMAX / 100, total - peak)
    assert len(rates) == total
    assert rates == pytest.approx([*up, *down[1:]], rel=1e-9)
    assert np.argmax(rates) == peak and max(rates) == pytest.approx(LRMAX, rel=1e-12)
    assert rates[0] == pytest.approx(LRMAX / 100, rel=1e-12) and rates[-1] == pytest.approx(LRMAX / 100, rel=1e-12)
    up, down = np.linspace(0.95, 0.85, peak + 1), np.linspace(0.85, 0.95, total - peak)
    assert betas == pytest.approx([*up, *down[1:]], rel=1e-9)


@pytest.mark.parametrize("lr_max", [LRMAX, 0.01, 1 / 3, 7.3e-4])
def test_the_peak_of_24_epochs_is_the_last_step_of_epoch_5(lr_max):
    rates, _ = whole_cycle(98, 24, lr_max=lr_max)
    assert rates[5 * 98 - 1] == pytest.approx(lr_max, rel=1e-15)
    assert rates[5 * 98 - 2] < rates[5 * 98 - 1] > rates[5 * 98]


def test_a_scheduler_can_be_made_for_any_number_of_steps():
    """A division that rounds the wrong way must neither hang nor move the peak."""
    optimizer = adam(nn.Linear(1, 1))
    for total in [*range(3, 600), 999, 1000, 4999, 12345, 98 * 23, 98 * 100]:
        scheduler = one_cycle(optimizer, LRMAX, total, 1)
        peak = scheduler._schedule_phases[0]["end_step"]
        assert peak == pytest.approx(min(max(round(5 / 24 * total), 2), total - 1) - 1, abs=1e-9)


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (2, 1), (1, 2), (0, 24)])
def test_a_cycle_of_fewer_than_three_steps_is_refused(steps, epochs):
    with pytest.raises(ValueError, match=f"{epochs} epochs of {steps} batches.*needs 3 or more.*take more"):
        one_cycle(adam(nn.Linear(1, 1)), LRMAX, steps, epochs)


def test_all_parameter_groups_follow_the_cycle_and_the_given_beta_is_overridden():
    model = TinyNet()
    optimizer = make_optimizer(model, dict(weight_decay=0.05, betas=[0.5, 0.99]))
    scheduler = one_cycle(optimizer, LRMAX, 4, 3)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 3]  # weights; BatchNorm's two and a bias
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    for _ in range(11):
        first, second = optimizer.param_groups
        assert first["lr"] == second["lr"] and first["betas"] == second["betas"] and 0.85 <= first["betas"][0] <= 0.95
        optimizer.step()
        scheduler.step()


def test_sgd_follows_the_cycle_too():
    rates, _ = whole_cycle(10, 2, torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1, momentum=0.9))
    assert [max(rates), rates[0], rates[-1]] == pytest.approx([LRMAX, LRMAX / 100, LRMAX / 100], rel=1e-12)


# --- one epoch


def test_loss_and_accuracy_of_an_epoch_are_right_with_an_uneven_last_batch():
    loader, model = batches(20, 8), nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    losses, hits = [], 0
    reference = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    reference.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.01)
    for pictures, labels in loader:  # by hand
        output = reference(pictures)
        each = nn.functional.cross_entropy(output, labels, reduction="none")
        losses += each.tolist()
        hits += sum(int(a) == int(b) for a, b in zip(output.argmax(1), labels, strict=True))
        optimizer.zero_grad()
        each.mean().backward()
        optimizer.step()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss, accuracy = train(model, "cpu", loader, optimizer, nn.CrossEntropyLoss())
    assert (loss, accuracy) == pytest.approx((sum(losses) / 20, 100 * hits / 20), rel=1e-5)
    assert model.training and type(loss) is float and type(accuracy) is float
    assert torch.allclose(model[1].weight, reference[1].weight, atol=1e-6)


def test_the_scheduler_is_stepped_by_the_batch():
    model = TinyNet()
    optimizer = adam(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train(model, "cpu", batches(20, 8), optimizer, nn.CrossEntropyLoss(), scheduler)
    assert scheduler.last_epoch == 3 and optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**3)


@pytest.mark.parametrize("shape", [(1, 28, 28), (5,), (4, 6), (3, 17, 9)])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.AdamW])
def test_other_inputs_models_and_optimizers_learn(shape, make):
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 4), nn.LogSoftmax(dim=1))
    loader, optimizer = batches(24, 10, shape, classes=4), make(model.parameters(), lr=0.01)
    losses = [train(model, "cpu", loader, optimizer, nn.NLLLoss())[0] for _ in range(8)]
    assert losses[-1] < losses[0]
    assert train(model, "cpu", list(loader), optimizer, nn.NLLLoss())[0] < losses[0]  # a list of batches is a loader


class Spoilt(nn.Module):
    """A linear model that does something at one call."""

    def __init__(self, call, act):
        super().__init__()
        self.linear, self.call, self.act, self.calls = nn.Linear(3072, 10), call, act, 0

    def forward(self, x):
        self.calls += 1
        output = self.linear(x.flatten(1))
        return self.act(output) if self.calls == self.call else output


def out_of_memory(_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def ctrl_c(_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_loss_that_is_not_finite_is_named_with_step_and_rate(value, step):
    model = Spoilt(step, lambda output: output * value)
    optimizer = adam(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 1 / (1 + s))
    text = rf"NaN or infinite at step {step}, learning rate {0.01 / step:.2g}: take a smaller LRMAX"
    with pytest.raises(TrainingDiverged, match=text):
        train(model, "cpu", batches(40, 8), optimizer, nn.CrossEntropyLoss(), scheduler)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels_that_are_not_finite_are_named(value):
    model, loader = TinyNet(), batches(40, 8)
    loader.dataset.tensors[0][17, 1, 2, 3] = value  # the third step
    with pytest.raises(TrainingDiverged, match="a picture of step 3 holds NaN or infinite pixels: check the data"):
        train(model, "cpu", loader, adam(model), nn.CrossEntropyLoss())


@pytest.mark.parametrize("label", [10, 1000, -1])
@pytest.mark.parametrize("use", [train, test, find_lr])
def test_a_label_out_of_range_is_one_sentence(use, label):
    model, loader = TinyNet(), batches()
    loader.dataset.tensors[1][3] = label
    optimizer = [adam(model)] if use is not test else []
    with pytest.raises(ValueError, match=f"label is not among the network's classes.*{label}.*count the classes"):
        use(model, "cpu", loader, *optimizer, nn.CrossEntropyLoss())


@pytest.mark.parametrize("use", [train, find_lr])
def test_a_batch_of_one_with_batchnorm_is_one_sentence(use):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.BatchNorm1d(10))
    with pytest.raises(ValueError, match="BatchNorm cannot learn from a batch of 1: choose a batch size"):
        use(model, "cpu", batches(17, 8), adam(model), nn.CrossEntropyLoss())


def test_a_last_batch_of_one_picture_is_no_problem_for_convolutions():
    model = TinyNet()
    loss, _ = train(model, "cpu", batches(17, 8), adam(model), nn.CrossEntropyLoss())
    assert math.isfinite(loss)


@pytest.mark.parametrize("use", [train, test, find_lr])
def test_out_of_memory_names_the_batch_size_and_a_smaller_one(use):
    model = Spoilt(1, out_of_memory)
    optimizer = [adam(model)] if use is not test else []
    with pytest.raises(MemoryError, match="out of memory with a batch of 8: try a batch size of 4"):
        use(model, "cpu", batches(), *optimizer, nn.CrossEntropyLoss())


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(7, 10))
        train(model, "cpu", batches(), adam(model), nn.CrossEntropyLoss())


@pytest.mark.parametrize("use", [train, test, find_lr, predict])
def test_an_empty_loader_is_one_sentence(use):
    model = TinyNet()
    arguments = {train: [adam(model), nn.CrossEntropyLoss()], test: [nn.CrossEntropyLoss()], predict: []}
    with pytest.raises(ValueError, match="loader is empty: there is nothing to"):
        use(model, "cpu", [], *arguments.get(use, arguments[train]))


# --- evaluation


class Fixed(nn.Module):
    """Scores that are known: picture i is taken for class i % 3, ever more surely."""

    def forward(self, x):
        number = x[:, 0].long()
        return nn.functional.one_hot(number % 3, 3) * (1 + x[:, :1] / 10)


def test_evaluation_counts_an_uneven_last_batch_right_and_changes_nothing():
    inputs, labels = torch.arange(10.0)[:, None], torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 0, 0])  # 7 and 8 are wrong
    loader = DataLoader(TensorDataset(inputs, labels), 4)
    expected = nn.functional.cross_entropy(Fixed()(inputs), labels)
    model = Fixed().train()
    assert test(model, "cpu", loader, nn.CrossEntropyLoss()) == pytest.approx((float(expected), 80.0))
    assert not model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    probabilities, found = predict(model, "cpu", loader)
    assert np.allclose(probabilities, Fixed()(inputs).softmax(1)) and found.tolist() == labels.tolist()
    assert mistakes(probabilities, found).tolist() == [8, 7]  # the most confident first
    assert confusion_matrix(probabilities, found).tolist() == [[4, 1, 1], [0, 2, 0], [0, 0, 2]]


def test_no_mistake_and_a_class_without_pictures():
    probabilities, labels = np.eye(4)[[0, 1, 3, 3]], np.array([0, 1, 3, 3])
    assert mistakes(probabilities, labels).tolist() == []
    assert confusion_matrix(probabilities, labels).tolist() == np.diag([1, 1, 0, 2]).tolist()


def test_batchnorm_learns_nothing_in_evaluation():
    model = TinyNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    test(model, "cpu", batches(), nn.CrossEntropyLoss())
    predict(model, "cpu", batches())
    assert same(before, model.state_dict())


# --- a whole run


class Setting:
    """A small run in this process, made anew each time as after a restart."""

    def __init__(self, folder=None, epochs=4, model=None):
        torch.manual_seed(5)
        self.model = model or TinyNet()
        self.loader, self.epochs, self.lines = SeededBatches(), epochs, []
        self.optimizer, self.criterion = make_optimizer(self.model), make_criterion()
        self.scheduler = one_cycle(self.optimizer, 0.01, len(self.loader), epochs)
        config = dict(epochs=epochs)
        self.checkpoint = folder and Checkpoint(folder, config, log=self.lines.append)

    def fit(self, **options):
        arguments = dict(train_loader=self.loader, test_loader=batches(10, 5), optimizer=self.optimizer)
        arguments |= dict(criterion=self.criterion, scheduler=self.scheduler, epochs=self.epochs)
        arguments |= dict(checkpoint=self.checkpoint, log=self.lines.append)
        return fit(self.model, "cpu", **arguments | options)


class SeededBatches:
    """Batches whose order follows the epoch."""

    def __len__(self):
        return 3

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        order = torch.randperm(20, generator=torch.Generator().manual_seed(self.epoch))
        pictures, labels = batches().dataset.tensors
        return iter([(pictures[chosen], labels[chosen]) for chosen in order.split(8)])


@pytest.fixture(scope="module")
def uninterrupted():
    """Weights and history of a run that was never cut."""
    setting = Setting()
    return setting.model.state_dict(), setting.fit()


def without_seconds(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def test_history_has_the_keys_and_rates_of_the_contract(uninterrupted):
    _, history = uninterrupted
    assert [list(row) for row in history] == [
        ["epoch", "train_loss", "train_acc", "test_loss", "test_acc", "lr", "seconds"]
    ] * 4
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert all(type(value) in (int, float) for row in history for value in row.values())
    rates, _ = whole_cycle(3, 4, lr_max=0.01)
    assert [row["lr"] for row in history] == pytest.approx(rates[2::3])  # of the last step of each epoch


def test_a_run_without_scheduler_keeps_its_rate(tmp_path):
    setting = Setting(tmp_path, epochs=2)
    setting.scheduler, setting.optimizer = None, adam(setting.model)
    assert [row["lr"] for row in setting.fit()] == [0.01, 0.01]


@pytest.mark.parametrize("call", [2, 4, 7, 11, 14])  # forward passes: 3 of training and 2 of evaluation an epoch
def test_ctrl_c_leaves_a_process_in_which_training_goes_on(tmp_path, uninterrupted, call):
    """The same objects, as in a notebook whose cell is interrupted and run again."""
    setting = Setting(tmp_path)
    calls, forward = iter(range(1, 1000)), TinyNet.forward

    def interrupted(self, x):
        if next(calls) == call:
            raise KeyboardInterrupt
        return forward(self, x)

    setting.model.forward = interrupted.__get__(setting.model)
    with pytest.raises(KeyboardInterrupt):
        setting.fit()
    epoch = (call - 1) // 5 + 1
    assert setting.lines[-1] == (
        f"interrupted: epoch {epoch} is dropped; {epoch - 1} finished epoch{' is' if epoch == 2 else 's are'} kept in "
        f"{tmp_path / 'checkpoint.pt'}: run the same again to go on"
    )
    history = setting.fit()
    assert same(setting.model.state_dict(), uninterrupted[0])
    assert without_seconds(history) == without_seconds(uninterrupted[1])
    assert not setting.optimizer._optimizer_step_post_hooks


def test_ctrl_c_between_two_batches_of_the_evaluation_leaves_gradients_on(tmp_path, uninterrupted):
    setting, calls = Setting(tmp_path), iter(range(1, 100))
    criterion = setting.criterion

    def interrupted(output, labels):
        if next(calls) == 5:  # 3 batches of training, then the second of the evaluation
            raise KeyboardInterrupt
        return criterion(output, labels)

    with pytest.raises(KeyboardInterrupt) as kept:  # as a notebook keeps the last traceback, and so its frames
        setting.fit(criterion=interrupted)
    assert not torch.is_inference_mode_enabled()
    setting.fit()
    assert same(setting.model.state_dict(), uninterrupted[0]) and kept.tb is not None


def test_without_a_checkpoint_nothing_is_promised():
    setting = Setting(model=Spoilt(2, ctrl_c))
    with pytest.raises(KeyboardInterrupt):
        setting.fit()
    assert setting.lines == ["interrupted: epoch 1 is dropped; nothing is kept of the run"]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_new_process_goes_on_bit_exactly_and_says_so(tmp_path, uninterrupted, stop):
    first, calls = Setting(tmp_path), []

    def log(line):
        calls.append(line)
        if sum(line.startswith("epoch") for line in calls) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.fit(log=log)
    second = Setting(tmp_path)
    assert second.lines[0].startswith(f"resumed after epoch {stop} of 4 from ") and "s saved" in second.lines[0]
    history = second.fit()
    assert same(second.model.state_dict(), uninterrupted[0])
    assert without_seconds(history) == without_seconds(uninterrupted[1])
    assert sum(line.startswith("epoch") for line in second.lines) == 4  # the finished ones are shown again


def test_a_finished_run_says_so_and_trains_nothing(tmp_path, uninterrupted):
    Setting(tmp_path).fit()
    again = Setting(tmp_path)
    again.model.forward = None  # cannot be called
    history = again.fit()
    assert "the run is finished, 4 of 4 epochs" in again.lines[0]
    assert [line.split()[1] for line in again.lines[1:]] == ["1/4", "2/4", "3/4", "4/4"]  # shown again
    assert same(again.model.state_dict(), uninterrupted[0]) and len(history) == 4


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_loss_of_nan_names_the_epoch_and_keeps_the_checkpoint_before(tmp_path, uninterrupted, epoch):
    setting, calls = Setting(tmp_path), iter(range(1, 100))
    criterion = setting.criterion

    def spoilt(output, labels):
        return criterion(output, labels) * (math.nan if next(calls) == 5 * (epoch - 1) + 2 else 1)

    text = rf"epoch {epoch}: the loss is NaN or infinite at step 2, learning rate .*; {epoch - 1} finished epochs"
    with pytest.raises(TrainingDiverged, match=text):
        setting.fit(criterion=spoilt)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(state["history"]) == epoch - 1
    assert all(value.isfinite().all() for value in state["model"].values())
    again = Setting(tmp_path)
    again.fit()
    assert same(again.model.state_dict(), uninterrupted[0])


def test_weights_ruined_by_the_last_step_of_an_epoch_are_not_kept(tmp_path):
    """The loss of the step was still finite, its gradient was not: only the evaluation sees it."""
    setting, calls = Setting(tmp_path), iter(range(1, 100))

    def ruin(gradient):
        return gradient * (math.nan if next(calls) == 6 else 1)

    setting.model[0].weight.register_hook(ruin)
    with pytest.raises(TrainingDiverged, match="epoch 2: the test loss is nan.*1 finished epoch is kept"):
        setting.fit()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(state["history"]) == 1 and all(value.isfinite().all() for value in state["model"].values())


@pytest.mark.parametrize(("pause", "said"), [(0.03, True), (0, False)])
def test_waiting_for_pictures_is_said_once(pause, said):
    class Slow(SeededBatches):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(pause)
                yield batch

    def steady(output, labels):
        time.sleep(0.03)
        return nn.functional.cross_entropy(output, labels)

    setting = Setting()
    setting.fit(train_loader=Slow(), criterion=steady)
    waiting = [line for line in setting.lines if "waited for pictures" in line]
    assert len(waiting) == said
    if said:
        assert setting.lines.index(waiting[0]) == 1 and 'loader="device"' in waiting[0]


def test_nothing_but_the_log_is_printed(tmp_path, capfd):
    Setting(tmp_path).fit()
    assert capfd.readouterr() == ("", "")

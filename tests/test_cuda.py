"""What runs on a GPU: the right choices for each generation, the CPU's numbers, no needless wait.

Without a GPU, these tests run on one that is not there (fake_cuda.py).
"""

import contextlib
import itertools
import json
import warnings
from functools import partial
from pathlib import Path

import fake_cuda
import numpy as np
import pytest
import torch
from small_run import TinyNet, tiny_sample
from torch import nn

import dataset
import extras.sample
import main
import models
import test
import train
from extras import hardware
from extras.checkpoint import Checkpoint
from extras.gradcam import grad_cam
from extras.lr_finder import find_lr

REAL = torch.cuda.is_available()
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPOCHS = 2


class RealGpu:
    """A GPU that is there: PyTorch itself warns where Python waits for it."""

    def __init__(self, warned):
        self.warned = warned

    @property
    def waits(self):
        return [f"{Path(w.filename).name}:{w.lineno}" for w in self.warned if "synchron" in str(w)]


@contextlib.contextmanager
def real_gpu():
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield RealGpu(warned)
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def gpu(monkeypatch):
    with real_gpu() if REAL else fake_cuda.fake_gpu(monkeypatch) as gpu:
        yield gpu


@pytest.fixture(autouse=True)
def small_test_batches(monkeypatch):
    monkeypatch.setattr(dataset, "TEST_BATCH", 30)


def waits(gpu, work):
    """The places where Python waits for the GPU while `work` is done."""
    before = len(gpu.waits)
    work()
    return gpu.waits[before:]


def network(device="cpu"):
    """A network without dropout, which draws other numbers on a real GPU."""
    torch.manual_seed(0)
    net = TinyNet()
    net[5].p = 0.0
    return net.to(device, memory_format=hardware.memory_format(device))


def dtypes_of(net):
    """A list that grows by the dtype of each output of the convolution."""
    dtypes = []
    net[0].register_forward_hook(lambda conv, inputs, output: dtypes.append(output.dtype))
    return dtypes


def make_loaders(device, dtype=torch.float32, batch_size=25, loader="device"):
    images = (dataset.ArrayDataset(*tiny_sample(part), range(10)) for part in (True, False))
    data = dataset.Data("noise", *images)
    return dataset.loaders(
        data, batch_size, loader=loader, device=device, workers=0, dtype=dtype, seed=3
    )


def fit(net, device, dtype=torch.float32, epochs=EPOCHS, **options):
    """Train as main.py does; returns the history without its times."""
    train_loader, test_loader = make_loaders(device, dtype)
    optimizer, criterion = train.make_optimizer(net), train.make_criterion()
    scheduler = train.one_cycle(optimizer, 0.02, len(train_loader), epochs)
    evaluate = partial(test.test, net, device, test_loader, criterion, dtype=dtype)
    options = dict(epochs=epochs, dtype=dtype, evaluate=evaluate) | options
    history = train.fit(net, device, train_loader, optimizer, criterion, scheduler, **options)
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def weights(net):
    return {name: tensor.cpu() for name, tensor in net.state_dict().items()}


def assert_same(actual, expected):
    """To the last bit; on a real GPU, up to its own rounding."""
    tolerance = dict(rtol=0.05, atol=0.02) if REAL else dict(rtol=0, atol=0)
    torch.testing.assert_close(actual, expected, **tolerance)


# The GPU that is not there behaves as one that is


@pytest.mark.parametrize(
    "mix",
    [
        lambda gpu, cpu: gpu + cpu,
        lambda gpu, cpu: torch.cat([gpu, cpu]),
        lambda gpu, cpu: nn.functional.linear(gpu, cpu),
        lambda gpu, cpu: nn.Linear(3, 3)(gpu),
        lambda gpu, cpu: cpu[gpu.argmax(dim=1)],
        lambda gpu, cpu: gpu.index_put_([gpu.argmax(dim=1)], cpu),
        lambda gpu, cpu: torch.equal(gpu, cpu),
        lambda gpu, cpu: gpu.numpy(),
        lambda gpu, cpu: np.asarray(gpu),
    ],
)
def test_devices_do_not_mix(gpu, mix):
    with pytest.raises((RuntimeError, TypeError)):
        mix(torch.ones(3, 3, device="cuda"), torch.ones(3, 3))


@pytest.mark.parametrize(
    ("expected", "work"),
    [
        (True, lambda gpu, cpu: gpu.sum().item()),
        (True, lambda gpu, cpu: gpu.tolist()),
        (True, lambda gpu, cpu: gpu.cpu()),
        (True, lambda gpu, cpu: cpu.to("cuda")),
        (True, lambda gpu, cpu: gpu.copy_(cpu)),
        (True, lambda gpu, cpu: cpu.copy_(gpu)),
        (True, lambda gpu, cpu: torch.tensor([1.0, 2.0], device="cuda")),
        (True, lambda gpu, cpu: gpu.nonzero()),
        (True, lambda gpu, cpu: gpu[gpu > 0]),
        (True, lambda gpu, cpu: gpu[torch.tensor([0, 2])]),
        (True, lambda gpu, cpu: gpu.index_put_([gpu.argmax(dim=1)], torch.tensor(0.0))),
        (False, lambda gpu, cpu: cpu.to("cuda", non_blocking=True)),
        (False, lambda gpu, cpu: gpu.copy_(cpu, non_blocking=True)),
        (False, lambda gpu, cpu: gpu.index_put_([gpu.argmax(dim=1)], gpu.new_zeros(()))),
        (False, lambda gpu, cpu: gpu * torch.tensor(2.0) + 1),
        (False, lambda gpu, cpu: gpu.half().softmax(dim=1)[0, 1]),
        (False, lambda gpu, cpu: torch.zeros(3, device="cuda").masked_fill_(gpu[0] > 0, 1)),
    ],
)
def test_waits_are_seen(gpu, expected, work):
    there, here = torch.ones(3, 3).to("cuda"), torch.ones(3, 3)
    assert bool(waits(gpu, lambda: work(there, here))) == expected


# Device and precision


CUDA_12 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]  # the wheels' kernels
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "kernels", "precision"),
    [
        ((6, 0), CUDA_13, None),  # Kaggle's P100
        ((6, 0), CUDA_12, "float16"),
        ((6, 1), CUDA_12, "float16"),
        ((7, 0), CUDA_13, None),  # V100
        ((7, 0), CUDA_12, "float16"),
        ((7, 5), CUDA_13, "float16"),  # Colab's T4
        ((7, 5), CUDA_12, "float16"),
        ((8, 0), CUDA_13, "bfloat16"),  # A100
        ((8, 9), CUDA_13, "bfloat16"),  # L4: kernels for 8.6 run on 8.9
        ((9, 0), CUDA_13, "bfloat16"),  # H200
        ((10, 0), CUDA_13, "bfloat16"),  # B200
        ((10, 0), CUDA_12, None),
        ((12, 0), CUDA_13, "bfloat16"),
        ((8, 0), ["sm_86"], None),
        ((9, 0), ["sm_75", "compute_75"], "bfloat16"),  # compiled anew on the machine
        ((7, 0), ["sm_75", "compute_75"], None),
        ((9, 4), ["gfx90a", "gfx942"], "bfloat16"),  # AMD's names
    ],
)
def test_a_gpu_is_used_where_pytorch_has_kernels_for_it_and_in_its_best_precision(
    gpu, monkeypatch, capsys, capability, kernels, precision
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: kernels)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    device = hardware.pick_device()
    said = capsys.readouterr().out
    version = ".".join(map(str, capability))
    if precision is None:
        assert device.type == "cpu" and version in said and kernels[0] in said
        with pytest.raises(ValueError, match=version):
            hardware.pick_device("cuda")
    else:
        assert device.type == hardware.pick_device("cuda").type == "cuda" and not said
        assert hardware.choose_precision("auto", device)[0] == precision
        assert hardware.choose_precision("auto", device, "float32")[0] == "float32"
        assert hardware.choose_precision("float16", device)[0] == "float16"
        if precision == "float16":  # emulated, and a hundred times slower
            with pytest.raises(ValueError, match="bfloat16"):
                hardware.choose_precision("bfloat16", device)


# The run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_batches_made_on_the_gpu_are_the_cpus(gpu, dtype):
    for here, there in zip(make_loaders("cpu", dtype), make_loaders("cuda", dtype), strict=True):
        assert len(here) == len(there) == 4
        for (images, labels), (images_there, labels_there) in zip(here, there, strict=True):
            assert images_there.is_cuda and labels_there.is_cuda and images_there.dtype == dtype
            assert_same((images_there.cpu(), labels_there.cpu()), (images, labels))


class ByHand:
    """Training as PyTorch's recipe for mixed precision writes it, on the CPU."""

    def __init__(self, dtype):
        self.net, self.criterion = network(), train.make_criterion()
        self.optimizer = train.make_optimizer(self.net)
        self.scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
        self.autocast = partial(torch.autocast, "cpu", dtype, enabled=dtype != torch.float32)

    def step(self, images, labels):
        with self.autocast():
            loss = self.criterion(self.net(images), labels)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    @torch.no_grad()
    def test_loss(self, batches):
        self.net.eval()
        with self.autocast():
            losses = [self.criterion(self.net(x), labels) * len(labels) for x, labels in batches]
        return sum(losses).item() / sum(len(labels) for _, labels in batches)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_training_has_the_precision_the_loss_scale_and_the_numbers_of_the_recipe(
    gpu, tmp_path, dtype
):
    net = network("cuda")
    dtypes = dtypes_of(net)
    checkpoint = Checkpoint(tmp_path, {"epochs": EPOCHS})
    history = fit(net, "cuda", dtype, checkpoint=checkpoint)
    assert set(dtypes) == {dtype} and len(dtypes) == EPOCHS * (4 + 4)

    by_hand = ByHand(dtype)
    batches, test_batches = make_loaders("cpu", dtype)
    scheduler = train.one_cycle(by_hand.optimizer, 0.02, len(batches), EPOCHS)
    for epoch in range(1, EPOCHS + 1):
        batches.set_epoch(epoch)
        for images, labels in batches:
            by_hand.step(images, labels)
            scheduler.step()
    assert_same(weights(net), weights(by_hand.net))
    test_loss = by_hand.test_loss(test_batches)
    assert history[-1]["test_loss"] == pytest.approx(test_loss, rel=0.05 if REAL else 1e-6)
    assert checkpoint.state["scaler"] == by_hand.scaler.state_dict()
    assert bool(checkpoint.state["scaler"]) == (dtype == torch.float16)


@pytest.mark.parametrize(
    ("loader", "dtype"), [*(("device", dtype) for dtype in DTYPES), ("torchvision", torch.float16)]
)
@pytest.mark.filterwarnings("ignore:.*pin_memory")
def test_an_epoch_waits_for_its_table_of_draws_and_for_its_metrics_and_nowhere_else(
    gpu, loader, dtype
):
    net = network("cuda")
    train_loader, test_loader = make_loaders("cuda", dtype, 5, loader)
    optimizer, criterion = train.make_optimizer(net), train.make_criterion()
    scheduler = train.one_cycle(optimizer, 0.02, len(train_loader), EPOCHS)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    epoch = partial(train.train, net, "cuda", train_loader, optimizer, criterion, scheduler)
    found = waits(gpu, lambda: epoch(scaler=scaler, dtype=dtype))
    assert len(train_loader) == 20  # so 20 waits would be one in each step
    assert len([place for place in found if place.startswith("train.py")]) <= 5 or REAL, found
    assert len(found) <= (5 if loader == "torchvision" else 6 + 5), found
    evaluate = partial(test.test, net, "cuda", test_loader, criterion, dtype=dtype)
    assert len(waits(gpu, evaluate)) <= 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_evaluation_and_prediction_are_the_networks_own(gpu, dtype):
    net, here = network("cuda"), network().eval()
    dtypes = dtypes_of(net)
    loader, images = make_loaders("cuda", dtype)[1], make_loaders("cpu", dtype)[1]
    images, labels = (torch.cat(part) for part in zip(*images, strict=True))
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        output, mirrored = here(images), here(images.flip(3))
        loss = nn.functional.cross_entropy(output, labels).item()
    accuracy = 100 * (output.argmax(dim=1) == labels).float().mean().item()
    found = test.test(net, "cuda", loader, nn.CrossEntropyLoss(), dtype=dtype)
    assert found == pytest.approx((loss, accuracy), rel=0.05 if REAL else 1e-5)
    probabilities = output.float().softmax(dim=1), mirrored.float().softmax(dim=1)
    for both, expected in ((False, probabilities[0]), (True, sum(probabilities) / 2)):
        found = test.predict(net, "cuda", loader, dtype=dtype, mirrored=both)
        np.testing.assert_allclose(found[0], expected, atol=0.02 if REAL else 1e-5)
        assert found[1].tolist() == labels.tolist()
    assert set(dtypes) == {dtype} and len(dtypes) == 4 + 4 + 2 * 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_range_test_has_the_losses_of_training_by_hand_and_leaves_no_trace(gpu, dtype):
    net, steps = network("cuda"), 40
    before, draws, dtypes = weights(net), torch.get_rng_state(), dtypes_of(net)
    batches, optimizer = make_loaders("cuda", dtype)[0], train.make_optimizer(net)
    options = dict(guess=np.log(10), iterations=steps, dtype=dtype)
    found = find_lr(net, "cuda", batches, optimizer, train.make_criterion(), **options)
    assert set(dtypes) == {dtype} and len(dtypes) == steps
    assert_same(weights(net), before)
    assert next(net.parameters()).is_cuda and torch.equal(torch.get_rng_state(), draws)

    by_hand, batches, losses = ByHand(dtype), make_loaders("cpu", dtype)[0], []
    for images, labels in itertools.chain.from_iterable(itertools.repeat(batches, 10)):
        by_hand.optimizer.param_groups[0]["lr"] = 1e-6 * 1e6 ** (len(losses) / (steps - 1))
        losses.append(by_hand.step(images, labels))
    assert found.losses[:30] == pytest.approx(losses[:30], rel=0.1 if REAL else 1e-5)


@pytest.mark.parametrize("journey", [("cpu", "cuda", "cpu"), ("cuda", "cpu", "cuda")])
def test_a_run_goes_on_on_another_device_with_the_same_numbers(gpu, tmp_path, journey):
    whole = network()
    history = fit(whole, "cpu", epochs=3)
    for device in journey:
        net = network(device)
        evaluations = []

        def interrupt_the_second(net=net, device=device, evaluations=evaluations):
            evaluations.append(1)
            if len(evaluations) == 2:
                raise KeyboardInterrupt
            return test.test(net, device, make_loaders(device)[1], train.make_criterion())

        checkpoint = Checkpoint(tmp_path, {"epochs": 3})
        with contextlib.suppress(KeyboardInterrupt):
            found = fit(net, device, epochs=3, checkpoint=checkpoint, evaluate=interrupt_the_second)
        # what lies on the disk can be read where there is no GPU
        torch.load(tmp_path / "checkpoint.pt", map_location="cpu", weights_only=True)
    assert_same(weights(net), weights(whole))
    assert [row["epoch"] for row in found] == [1, 2, 3]
    if not REAL:
        assert found == history


def test_grad_cam_shows_the_cpus_maps(gpu):
    images, labels = next(iter(make_loaders("cpu")[1]))
    here, there = network(), network("cuda")
    maps = grad_cam(here, images[:8], labels[:8], here[2])
    assert maps.max() == 1
    for batch, classes in ((images[:8], labels[:8]), (images[:8].to("cuda"), labels[:8].tolist())):
        found = grad_cam(there, batch, classes, there[2])
        np.testing.assert_allclose(found, maps, rtol=0, atol=0.02 if REAL else 0)


def test_a_deterministic_run_is_repeated_to_the_last_bit(gpu, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        hardware.set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        runs = [network("cuda"), network("cuda")]
        histories = [fit(net, "cuda", torch.bfloat16) for net in runs]
    finally:
        hardware.set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert histories[0] == histories[1]
    torch.testing.assert_close(weights(runs[0]), weights(runs[1]), rtol=0, atol=0)


# The whole program


@pytest.fixture
def run_main(monkeypatch, tmp_path, capsys):
    """A function that runs main.py on a tiny network: (weights, results.json, what it printed)."""

    def make_network(classes):
        torch.manual_seed(0)
        net = TinyNet(classes)
        net[5].p = 0.0
        return net

    def run(out, *arguments):
        common = ["--data", "sample", "--profile", "quick", "--epochs", "2", "--batch-size", "20"]
        main.main([*common, "--loader", "device", "--out", str(tmp_path / out), *arguments])
        numbers = json.loads((tmp_path / out / "results.json").read_text(encoding="utf-8"))
        # without map_location, as on a machine without a GPU
        state = torch.load(tmp_path / out / "s10_model.pt", weights_only=True)
        assert {tensor.device.type for tensor in state.values()} == {"cpu"}
        return state, numbers, capsys.readouterr().out

    monkeypatch.setattr(models, "s10_model", make_network)
    monkeypatch.setattr(extras.sample, "draw_sample", tiny_sample)
    monkeypatch.setattr(main, "draw", lambda *arguments: None)
    return run


def test_main_on_a_gpu_ends_with_the_cpus_weights_and_numbers(gpu, run_main):
    here, expected, _ = run_main("cpu", "--device", "cpu", "--precision", "float32")
    there, found, said = run_main("cuda", "--precision", "float32")
    assert found["precision"] == "float32" and found["device"] in said
    assert found["device"] != expected["device"]
    if not REAL:
        assert_same(there, here)
        for key in found.keys() - {"device", "seconds", "history"}:
            assert found[key] == expected[key], key
        for row, expected_row in zip(found["history"], expected["history"], strict=True):
            assert row | {"seconds": 0} == expected_row | {"seconds": 0}


def test_a_run_in_float16_on_a_t4_goes_on_on_a_cpu(gpu, run_main, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CUDA_13)
    evaluate, calls = test.test, []

    def interrupt_the_second(*arguments, **options):
        calls.append(options["dtype"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(test, "test", interrupt_the_second)
    with pytest.raises(SystemExit, match="130"):
        run_main("run")
    assert calls == [torch.float16] * 2
    capsys.readouterr()
    _, numbers, said = run_main("run", "--device", "cpu")
    assert "resumed" in said and "float16" in said
    assert numbers["precision"] == hardware.choose_precision("auto", "cpu")[0]
    assert [row["epoch"] for row in numbers["history"]] == [1, 2]
    assert calls[2] == getattr(torch, numbers["precision"])


# Apple's GPU


def test_nothing_is_channels_last_on_apples_gpu(monkeypatch):
    """PyTorch's gradients are wrong there with that layout (pytorch#175189, #175190)."""
    monkeypatch.setattr(fake_cuda, "GPU", torch.device("mps:0"))
    layouts = []

    def record(layer, inputs, output):
        layouts.append(inputs[0].is_contiguous() and output.is_contiguous())

    monkeypatch.setattr(torch.mps, "get_rng_state", lambda device=None: None)
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, device=None: None)
    with fake_cuda.fake_gpu(monkeypatch, is_available=False):
        for loader in ("device", "torchvision"):
            net = network("mps")
            for layer in list(net)[:4]:
                layer.register_forward_hook(record)
            train_loader, test_loader = make_loaders("mps", loader=loader)
            optimizer, criterion = train.make_optimizer(net), train.make_criterion()
            with contextlib.suppress(ValueError):  # so short a test finds no rates
                find_lr(net, "mps", train_loader, optimizer, criterion, iterations=20)
            train.train(net, "mps", train_loader, optimizer, criterion)
            test.test(net, "mps", test_loader, criterion)
            test.predict(net, "mps", test_loader, mirrored=True)
            images, labels = tiny_sample(n=8)
            grad_cam(net, dataset.normalise_images(images), labels, net[2])
            assert net[0].weight.is_contiguous() and net[0].weight.device.type == "mps"
    assert layouts and all(layouts)

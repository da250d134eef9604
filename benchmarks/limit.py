"""How near does a training step come to what the machine can compute?

The step's floating-point operations a second, over those of the best square matrix product of the same run and
precision; and which operations take the step's time. See benchmarks/README.md.
"""

import statistics

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Trainer, alternate, main, now, row, rows_of

SIZES = dict(
    tiny=dict(batch=4, sides=[64, 128], repeats=1, steps=1, products=2),
    cpu=dict(batch=64, sides=[1024, 2048], repeats=4, steps=1, products=2),
    cuda=dict(batch=512, sides=[4096, 8192], repeats=9, steps=10, products=20),
)
KINDS = dict(  # how PyTorch's names of operations begin or go on, after "aten::"
    convolution=("conv", "mkldnn_conv", "cudnn_conv", "thnn_conv", "slow_conv"),
    BatchNorm=("batch_norm", "native_batch_norm", "cudnn_batch_norm"),
    pooling=("max_pool", "mkldnn_max_pool"),
    Adam=("_fused_adam", "_foreach"),
    ReLU=("relu", "threshold", "clamp"),
)


def kind_of(operation):
    """Which kind of work an operation is, by its name in PyTorch."""
    name = operation.removeprefix("aten::")
    for kind, names in KINDS.items():
        if any(part in name for part in names):
            return kind
    return "additions, copies and the rest"


def shares(trainer, ready, steps):
    """{kind: share of the step's time}, from PyTorch's profiler; on CUDA the time of the kernels, not of the host."""
    cuda = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    with profile(activities=activities) as watched:
        for _ in range(steps):
            trainer.step(*ready)
        now(trainer.device)
    spent = {}
    for event in watched.key_averages():
        if event.key.startswith("aten::"):
            time = event.self_device_time_total if cuda else event.self_cpu_time_total
            spent[kind_of(event.key)] = spent.get(kind_of(event.key), 0) + time
    total = sum(spent.values())
    return {kind: time / total for kind, time in sorted(spent.items(), key=lambda item: -item[1])}


def split(trainer, ready, repeats):
    """Medians of the seconds of forward, backward and Adam; the device is waited for in between."""
    times = []
    for _ in range(repeats):
        marks = [now(trainer.device)]
        loss = trainer.forward(*ready)
        marks.append(now(trainer.device))
        trainer.backward(loss)
        marks.append(now(trainer.device))
        trainer.update()
        marks.append(now(trainer.device))
        times.append([after - before for before, after in zip(marks, marks[1:], strict=False)])
    return dict(zip(("forward", "backward", "Adam"), map(statistics.median, zip(*times, strict=True)), strict=True))


def measure(device, sizes):
    trainer, batch = Trainer(device), sizes["batch"]
    ready = trainer.batch(batch)
    with FlopCounterMode(display=False) as counter:
        trainer.backward(trainer.forward(*ready))
    work = counter.get_total_flops() / batch  # convolutions and FC; the rest is under a hundredth of it

    def steps():
        for _ in range(sizes["steps"]):
            trainer.step(*ready)

    def products(side):
        a, b = (torch.randn(side, side, device=device, dtype=trainer.dtype) for _ in range(2))
        return lambda: [torch.mm(a, b) for _ in range(sizes["products"])]

    contestants = {"step": steps} | {side: products(side) for side in sizes["sides"]}
    found = alternate(contestants, sizes["repeats"], device)
    speed = {side: 2 * side**3 * sizes["products"] / min(found[side]) / 1e9 for side in sizes["sides"]}
    best = max(speed, key=speed.get)
    achieved = rows_of("training step", found["step"], "GFLOP/s", amount=work * batch * sizes["steps"] / 1e9)
    rows = [row("one picture, forward and backward", work / 1e9, "GFLOP"), achieved]
    product = f"best matrix product ({best} x {best}, {trainer.dtype})".replace("torch.", "")
    rows.append(row(product, speed[best], "GFLOP/s"))
    rows.append(row("training step / best matrix product", 100 * achieved["value"] / speed[best], "%"))
    parts = split(trainer, ready, sizes["repeats"])
    rows += [row(f"part of the step: {part}", 100 * s / sum(parts.values()), "%") for part, s in parts.items()]
    kinds = shares(trainer, ready, sizes["steps"])
    return rows + [row(f"kind of operation: {kind}", 100 * share, "%") for kind, share in kinds.items()], []


if __name__ == "__main__":
    main("limit", measure, SIZES)

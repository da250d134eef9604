"""The training step: images/s by precision, the fraction of the best matrix product's speed, memory
at batch 512.
"""

import re
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import (
    HERE,
    Size,
    alternate,
    bare_step,
    build,
    command,
    goal,
    ratios,
    row,
    speed_row,
)
from extras import settings as st


def peak_memory(precision, batch):
    """MB that a step of so many images holds at most: of the GPU, or of this process, libraries
    included.

    0 where it is not known, outside Linux.
    """
    size = Size(st.pick_device())
    step = bare_step(build(size, batch, batch=batch, precision=precision), size, precision)
    images, labels = step.__defaults__
    step(images[:8], labels[:8])  # Adam's state is there from the first step on
    step()
    if size.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path(
        "/proc/self/status"
    )  # not ru_maxrss, which begins with the memory of the process that started this
    return (
        int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) * 1024 / 1e6
        if status.exists()
        else 0
    )


def peak_elsewhere(precision, batch):
    """The same in a fresh process, whose peak is that of the step."""
    code = f"from benchmarks.step import peak_memory; print(peak_memory({precision!r}, {batch}))"
    return float(subprocess.check_output([sys.executable, "-c", code], cwd=HERE.parent))


def repeat(function, times):
    return lambda: [function() for _ in range(times)]


def measure(size):
    batch, big = (4, 8) if size.tiny else (size.images(3, most=512, batch=64), 512)
    times, sides = (
        (1, (64, 128))
        if size.tiny
        else (10, (4096, 8192))
        if size.speed > 1000
        else (1, (2048, 4096))
    )
    if size.device.type == "cuda":
        torch.set_float32_matmul_precision(
            "high"
        )  # TF32, in which cuDNN computes float32 convolutions by default
    contestants = {}
    for precision in size.precisions:
        step = bare_step(build(size, batch, batch=batch, precision=precision), size, precision)
        with FlopCounterMode(
            display=False
        ) as counter:  # convolutions and FC; the rest is less than a hundredth
            step()
        flop = counter.get_total_flops()
        contestants["step", precision] = repeat(step, times)
        for side in sides:
            a, b = torch.randn(2, side, side, device=size.device).to(getattr(torch, precision))
            contestants[side, precision] = repeat(lambda a=a, b=b: torch.mm(a, b), times)
    found = alternate(contestants, size.repeats(5), size.device)

    rows, goals = [row("one image, forward and backward", flop / batch / 1e9, "GFLOP")], []
    for precision in size.precisions:
        seconds = found["step", precision]
        products = [[flop / (2 * side**3) * s for s in found[side, precision]] for side in sides]
        best = [
            min(of_round) for of_round in zip(*products, strict=True)
        ]  # seconds, for as many operations as a step
        rows.append(speed_row(f"bare step, {precision}", batch * times, seconds))
        rows.append(
            row(
                f"best matrix product, {precision}",
                flop * times / statistics.median(best) / 1e9,
                "GFLOP/s",
            )
        )
        rows.append(
            row(
                f"step / best matrix product, {precision}",
                [100 * r for r in ratios(best, seconds)],
                "%",
            )
        )
        if precision != "float16":
            goals.append(goal(rows[-1], "at least", 75))
        if precision != "float32":
            rows.append(
                row(
                    f"step, {precision} / float32",
                    ratios(found["step", "float32"], seconds),
                    "times",
                )
            )
        if held := peak_elsewhere(precision, big):
            rows.append(row(f"memory at batch {big}, {precision}", held, "MB"))
    return rows, goals


if __name__ == "__main__":
    command("step", measure)

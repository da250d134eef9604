"""The training step: images/s by precision, and its share of the best matrix product's speed."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Run, alternate, goal, ratios, row, speed_row

SIDES = (2048, 4096)  # of square matrices; in each round the faster product counts


def measure(sizes):
    with FlopCounterMode(display=False) as counter:  # convolutions and FC: the rest is below 1 %
        Run(sizes, "float32").step()
    flop = counter.get_total_flops()
    contestants = {}
    for precision in sizes.precisions:
        contestants["step", precision] = Run(sizes, precision).step
        for side in SIDES:
            a, b = torch.randn(2, side, side, device=sizes.device).to(getattr(torch, precision))
            contestants[side, precision] = lambda a=a, b=b: torch.mm(a, b)
    seconds = alternate(contestants, sizes.repeats, sizes.device)

    rows = [row("one image, forward and backward", [flop / sizes.batch_size / 1e9], "GFLOP")]
    goals = []
    for precision in sizes.precisions:
        steps = seconds["step", precision]
        speeds = [[2 * side**3 / s for s in seconds[side, precision]] for side in SIDES]
        best = [max(of_round) for of_round in zip(*speeds, strict=True)]  # FLOP/s
        share = [100 * flop / s / speed for s, speed in zip(steps, best, strict=True)]
        rows.append(speed_row(f"bare step, {precision}", sizes.batch_size, steps))
        rows.append(row(f"best matrix product, {precision}", [b / 1e9 for b in best], "GFLOP/s"))
        rows.append(row(f"step / best matrix product, {precision}", share, "%"))
        if sizes.device.type == "cpu":  # on a GPU 30 to 40 % is usual
            goals.append(goal(rows[-1], "at least", 75))
        if precision != "float32":
            faster = ratios(seconds["step", "float32"], steps)
            rows.append(row(f"step, {precision} / float32", faster, "times"))
    return rows, goals

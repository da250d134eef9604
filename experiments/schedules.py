"""The learning rates of the rows: one cycle, a half of it, a constant rate, and the cycle of 2023.

scheduler, lr_min, lr_max = make_schedule("fall_only", optimizer, 5e-5, 4e-3, steps=240)
"""

import statistics

import numpy as np
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

import train

BETA1 = (0.95, 0.85)  # at LRMIN, and at LRMAX and above: what OneCycleLR does with Adam's beta1


class RateSchedule(LambdaLR):
    """A given rate for every step, and with each rate the beta1 that one cycle has at it.

    OneCycleLR cannot have its peak at the first step, nor stay at it. beta1 follows the rate on the
    same line between LRMIN and LRMAX, so that two schedules differ in their rates and nothing else.

    Args:
        rates: one for each step.
        lr_min, lr_max: where beta1 is 0.95 and 0.85.
    """

    def __init__(self, optimizer, rates, lr_min, lr_max):
        self.lr_min = lr_min
        self.lr_max = lr_max
        for group in optimizer.param_groups:
            group["lr"] = rates[0]  # what LambdaLR multiplies
        last = len(rates) - 1  # it steps once more after the last batch
        super().__init__(optimizer, lambda step: rates[min(step, last)] / rates[0])

    def step(self, *arguments):
        super().step(*arguments)
        for group in self.optimizer.param_groups:
            beta1 = np.interp(group["lr"], (self.lr_min, self.lr_max), BETA1)
            group["betas"] = (float(beta1), group["betas"][1])


def step_rates(name, lr_min, lr_max, steps):
    """The rate of every step of "cycle", "fall_only", "rise_only" or "constant"."""
    cycle, _ = train.cycle_curve(lr_max, 1, steps, lr_min)
    if name == "cycle":
        return cycle
    if name == "fall_only":
        return np.linspace(lr_max, lr_min, steps).tolist()
    if name == "rise_only":
        top = cycle.index(max(cycle))
        return cycle[:top] + [lr_max] * (steps - top)
    if name == "constant":
        return [statistics.fmean(cycle)] * steps
    raise ValueError(f"schedule is {name!r}: give cycle, fall_only, rise_only, constant or 2023")


def make_schedule(name, optimizer, lr_min, lr_max, steps, factor=1):
    """Make a row's scheduler, which is stepped after every batch.

    Args:
        name: "cycle", "fall_only", "rise_only", "constant", or "2023".
        lr_min, lr_max: from the range test.
        steps: batches of the whole run.
        factor: LRMAX (of a cycle) or the rate (a constant one) is so many times as high.

    Returns:
        The scheduler, and the lowest and the highest rate that it takes ("2023": but for its last
        drop, to a hundredth of LRMIN).
    """
    if name == "2023":
        scheduler = OneCycleLR(
            optimizer,
            lr_max,
            total_steps=steps,
            pct_start=train.PEAK,
            anneal_strategy="linear",
            div_factor=lr_max / lr_min,
            final_div_factor=100,
        )
        return scheduler, lr_min, lr_max
    if name == "cycle":
        top = factor * lr_max
        low = min(lr_min, top)
        return train.one_cycle(optimizer, top, 1, steps, low), low, top
    rates = [factor * rate for rate in step_rates(name, lr_min, lr_max, steps)]
    return RateSchedule(optimizer, rates, lr_min, lr_max), min(rates), max(rates)

"""Which runs are compared? The rows of `make results`, and how each differs from the recipe.

A row is `train.RECIPE` with a few `changes`; everything else is the project's own code. The keys of `changes` beyond
RECIPE's own (`weight_decay`, `betas`, `label_smoothing`, …) are read here:

    additions       False: the twin without the two additions
    fc_scale        factor on FC's initial weights (the network's own is 1/8)
    augmentation    a name of `augmentation.VARIANTS`
    optimizer       COUPLED: Adam with L2 in the gradient, on every parameter, as in 2023
    schedule        "2023", "constant" or "no warm-up" instead of one cycle
    lr_max          a peak of its own; lr_factor: a multiple of the one that the recipe's range test found
    corruption      a name of `augmentation.CORRUPTIONS`: no training, the recipe's weights on spoilt test pictures
"""

from dataclasses import dataclass, field

import torch

import models
from lr_finder import DIVISOR
from train import PEAK, RECIPE, make_optimizer, one_cycle

FC_SCALE = 1 / 8  # what models.CustomResNet multiplies its FC by
COUPLED = "Adam, coupled decay"


@dataclass(frozen=True)
class Row:
    """`key` names the row's folders, `name` is for people, `seeds` is how many a GPU session runs."""

    key: str
    name: str
    note: str = ""
    seeds: int = 3
    changes: dict = field(default_factory=dict)


ORIGINAL = dict(
    optimizer=COUPLED, weight_decay=1e-4, betas=[0.9, 0.999], label_smoothing=0.0, fc_scale=1.0,
    augmentation="2023", schedule="2023", lr_max=4.93e-2,
)  # fmt: skip
SAME_LR = "the recipe's LRMAX; a range test of its own might find another"
NO_TRAINING = "the recipe's weights, no training"

ROWS = (  # in order of worth
    Row("recipe", "the recipe", seeds=5),
    Row("original", "the 2023 recipe", "its own LRMAX, and the device's precision instead of float32", 5, ORIGINAL),
    Row("plain", "twin without the additions", SAME_LR, changes=dict(additions=False)),
    Row("no-decay", "without weight decay", changes=dict(weight_decay=0.0)),
    Row("no-smoothing", "without label smoothing", SAME_LR, changes=dict(label_smoothing=0.0)),
    Row("beta2", f"beta2 0.999 instead of {RECIPE['betas'][1]}", SAME_LR, changes=dict(betas=[0.9, 0.999])),
    Row("fc", "FC not scaled by 1/8", SAME_LR, changes=dict(fc_scale=1.0)),
    Row("no-cutout", "without cutout", changes=dict(augmentation="no cutout")),
    Row("no-flip", "without flips", changes=dict(augmentation="no flip")),
    Row("no-crop", "without random crops", changes=dict(augmentation="no crop")),
    Row("lr-half", "half of LRMAX", changes=dict(lr_factor=0.5)),
    Row("lr-double", "twice LRMAX", changes=dict(lr_factor=2.0)),
    Row(
        "constant", "constant rate", "the mean of the cycle's rates; beta1 stays 0.9", changes=dict(schedule="constant")
    ),
    Row("no-warm-up", "without warm-up", "LRMAX from the second step on", changes=dict(schedule="no warm-up")),
    Row("blurred", "test pictures blurred", NO_TRAINING, 5, dict(corruption="blurred")),
    Row("noisy", "test pictures noisy", NO_TRAINING, 5, dict(corruption="noisy")),
    Row("darker", "test pictures darker", NO_TRAINING, 5, dict(corruption="darker")),
)


def make_network(recipe, classes, make_model=models.CustomResNet):
    """The network of a row; its random numbers are the recipe's for the same seed."""
    model = make_model(classes, additions=recipe.get("additions", True))
    if "fc_scale" in recipe:
        with torch.no_grad():
            model.fc.weight.mul_(recipe["fc_scale"] / FC_SCALE)
    return model


def make_adam(model, recipe):
    """The optimizer of a row."""
    if recipe["optimizer"] == COUPLED:
        decay, betas = recipe["weight_decay"], tuple(recipe["betas"])
        return torch.optim.Adam(model.parameters(), betas=betas, weight_decay=decay, fused=True)
    return make_optimizer(model, recipe)


def make_schedule(optimizer, recipe, lr_max, steps_per_epoch, epochs):
    """The scheduler of a row, or None for a constant rate, which the optimizer then has."""
    schedule = recipe.get("schedule")
    if schedule == "constant":
        for group in optimizer.param_groups:
            group["lr"] = (lr_max + lr_max / DIVISOR) / 2
        return None
    if schedule == "2023":
        options = dict(pct_start=PEAK, anneal_strategy="linear", div_factor=100, final_div_factor=100)
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr_max, total_steps=epochs * steps_per_epoch, **options)
    peak = 0 if schedule == "no warm-up" else PEAK  # one_cycle rounds 0 up to the second step
    return one_cycle(optimizer, lr_max, steps_per_epoch, epochs, peak=peak)

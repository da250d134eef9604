"""Measure what each ingredient of the recipe contributes to the accuracy.

    python -m experiments.ablation                                # 5,000 images, two seeds
    python -m experiments.ablation --limit 50000 --rows recipe,strict,strict_2023_rate

Every row is the recipe with one change (strict and 2023: with several), and takes LRMIN and LRMAX
from the recipe's range test with the same seed, so that nothing else differs. 5,000 images make
240 steps where a full run has 2,352, so the decay of AdamW is 9.8 times as large there; nothing
else is scaled. The test set is for reporting: no value was chosen by it.
"""

from experiments import paired, study
from experiments.study import Row

LRMAX_2023 = 4.93e-2
# The letter of the assignment: torch.optim.Adam, PyTorch's initialisation, no decay, no smoothing
STRICT = dict(optimizer="Adam", weight_decay=0.0, label_smoothing=0.0, network="s10_unscaled")
ORIGINAL = STRICT | dict(weight_decay=1e-4, augmentation="2023", schedule="2023")

ROWS = [  # in order of worth
    Row("recipe", "the recipe"),
    Row("no_decay", "no weight decay", changes=dict(weight_decay=0.0)),
    Row(
        "strict",
        "strict: the letter of the assignment",
        "plain Adam, PyTorch's initialisation, no decay, no label smoothing; its own range test",
        STRICT,
        rates="strict",
    ),
    Row(
        "strict_2023_rate",
        "strict, at the LRMAX of 2023",
        "strict with LRMAX 4.93e-2, and LRMIN a hundredth of it",
        STRICT,
        lr_max=LRMAX_2023,
    ),
    Row("plain", "no skip connections", changes=dict(network="s10_plain")),
    Row(
        "constant",
        "constant rate",
        "the mean of the cycle's rates, with the beta1 that belongs to it",
        dict(schedule="constant"),
    ),
    Row("fall_only", "fall only: LRMAX from the start", changes=dict(schedule="fall_only")),
    Row("rise_only", "rise only: LRMAX to the end", changes=dict(schedule="rise_only")),
    Row("no_smoothing", "no label smoothing", changes=dict(label_smoothing=0.0)),
    Row("beta2_099", "beta2 0.99 instead of 0.999", changes=dict(betas=[0.9, 0.99])),
    Row("fc_scale", "FC as PyTorch initialises it", changes=dict(network="s10_unscaled")),
    Row(
        "logits_8",
        "logits × 1/8 in every step",
        "instead of FC's initial weights × 1/8; at the recipe's rates",
        dict(network="s10_logits_8"),
    ),
    Row("mean_padding", "padding with the mean colour", changes=dict(augmentation="mean_padding")),
    Row("no_cutout", "no cutout", changes=dict(augmentation="no_cutout")),
    Row(
        "recipe_2023",
        "recipe of 2023",
        "its LRMAX, transforms, cycle, and decay in the gradient, which is not scaled",
        ORIGINAL,
        lr_max=LRMAX_2023,
    ),
]


def main(arguments=None):
    parser = study.options("The ablation: what does each ingredient buy?", seeds=2)
    study.main(study.start(parser, arguments, "ablation", ROWS), paired.table, paired.plot)


if __name__ == "__main__":
    main()

"""Measure what each ingredient of the recipe contributes to the accuracy.

    python -m experiments.ablation --limit 12500 --seeds 2    # -> misc/ablation.json, .png
    python -m experiments.ablation --limit 50000 --seeds 2 --rows recipe,strict,plain

Every row is the recipe with one change (strict and 2023: with several), and takes LRMIN and LRMAX
from the recipe's range test with the same seed, so that nothing else differs. Weight decay is
scaled so that the sum of rate x decay over the run is that of the recipe at full size. The test set
is for reporting only: to choose a recipe there is search.py.
"""

from experiments import paired
from experiments.common import Row, guarded, options, start
from experiments.training import run_and_draw

ASSIGNMENT = dict(weight_decay=0.0, betas=[0.9, 0.999], label_smoothing=0.0, fc_scale=1.0)
ORIGINAL = dict(
    optimizer="coupled",
    weight_decay=1e-4,
    betas=[0.9, 0.999],
    label_smoothing=0.0,
    fc_scale=1.0,
    transform="2023",
    schedule="2023",
    lr_max=4.93e-2,
)

ROWS = [  # in order of worth
    Row("recipe", "the recipe"),
    Row(
        "strict",
        "strict: plain Adam, PyTorch's defaults",
        "no decay, no label smoothing, beta2 0.999, PyTorch's initialisation; rates by its own range test",
        ASSIGNMENT,
        rates="strict",
    ),
    Row("plain", "plain network", "without the two skip connections", dict(residual=False)),
    Row(
        "constant",
        "constant rate",
        "the mean of the cycle's rates; beta1 stays 0.9",
        dict(schedule="constant"),
    ),
    Row("lr_half", "half of LRMAX", changes=dict(lr_factor=0.5)),
    Row("lr_double", "twice LRMAX", changes=dict(lr_factor=2.0)),
    Row(
        "recipe_2023",
        "recipe of 2023",
        "its LRMAX, transforms and coupled decay, which is not scaled",
        ORIGINAL,
    ),
    Row("no_decay", "no weight decay", changes=dict(weight_decay=0.0)),
    Row("no_smoothing", "no label smoothing", changes=dict(label_smoothing=0.0)),
    Row("fc_scale", "FC not scaled by 1/8", changes=dict(fc_scale=1.0)),
    Row("beta2", "beta2 0.999 instead of 0.99", changes=dict(betas=[0.9, 0.999])),
    Row("no_cutout", "no cutout", changes=dict(transform="no_cutout")),
]


def main(arguments=None):
    parser = options("The ablation: what does each ingredient buy?", limit=12_500, seeds=2)
    study = start(parser, arguments, "ablation", ROWS)

    guarded(lambda: run_and_draw(study, paired.table, paired.plot))


if __name__ == "__main__":
    main()

"""Differences to a reference row with 95 % intervals, paired by seed and by test image; as a table
and as a figure.

    found = differences(rows, "recipe")       # rows of a results file, all of one size

Two kinds of chance are in an interval: which test images there are (a paired bootstrap over them,
from SciPy), and the seed. Two or three seeds alone tell little about a row's spread, so it is
estimated from all rows together, as in an
analysis of variance with seeds as blocks: what is left of an accuracy once the mean of its row and
that of its seed are taken away. That supposes that all rows spread alike. Of twenty rows without an
effect, one has an interval without zero all the same.
"""

import math

import numpy as np

import utils
from experiments.common import note
from experiments.training import unpack


def differences(rows, reference="recipe"):
    """A dict for each row but the reference, the best first: key, name, difference, low, high,
    seeds, seed_noise.

    In percentage points, over the seeds that both have; a row without any in common is left out.
    seed_noise is False
    where no row has two: then the interval knows of the test images alone.
    """
    recipe = next((row for row in rows if row["key"] == reference), None)
    if recipe is None:
        return []
    spread, freedom = seed_spread(rows, recipe)
    found = []
    for row in rows:
        seeds = [seed for seed in row["seeds"] if seed in recipe["seeds"]]
        if row is recipe or not seeds:
            continue
        by_seed = np.stack(
            [correct(row, seed).astype(float) - correct(recipe, seed) for seed in seeds]
        )
        by_image = 100 * by_seed.mean(axis=0)
        variance = image_error(by_image) ** 2 + (2 * spread**2 / len(seeds) if freedom else 0)
        half = quantile(freedom) * math.sqrt(variance)
        middle = float(by_image.mean())
        found.append(
            dict(
                key=row["key"],
                name=row["name"],
                difference=middle,
                low=middle - half,
                high=middle + half,
                seeds=len(seeds),
                seed_noise=bool(freedom),
            )
        )
    return sorted(found, key=lambda one: -one["difference"])


def correct(row, seed):
    """Which test images a run got right, as booleans."""
    return unpack(row["correct"][row["seeds"].index(seed)], row["test_images"])


def image_error(by_image):
    """Standard error of the mean of paired differences, one for each test image."""
    from scipy.stats import bootstrap  # installed with albumentations

    if np.ptp(by_image) == 0:  # all alike: nothing to draw from
        return 0.0
    drawn = bootstrap(
        (by_image,),
        np.mean,
        n_resamples=2000,
        batch=100,
        method="basic",
        rng=np.random.default_rng(0),
    )
    return float(drawn.standard_error)


def seed_spread(rows, recipe):
    """(standard deviation of a run about its row and its seed, degrees of freedom; 0 where it
    cannot be told).
    """
    several = [row for row in rows if len(set(row["seeds"]) & set(recipe["seeds"])) > 1]
    seeds = sorted(set(recipe["seeds"]).intersection(*(row["seeds"] for row in several)))
    freedom = (len(several) - 1) * (len(seeds) - 1)
    if freedom < 1:
        return 0.0, 0
    table = np.array(
        [[row["accuracies"][row["seeds"].index(seed)] for seed in seeds] for row in several]
    )
    left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    return math.sqrt((left**2).sum() / freedom), freedom


def quantile(freedom):
    """Half the width of a 95 % interval, in standard errors."""
    from scipy.stats import norm, t

    return float(t.ppf(0.975, freedom) if freedom else norm.ppf(0.975))


def table(rows, reference="recipe"):
    """The rows of one size as a table in Markdown: the reference first, the others by their
    difference to it.
    """
    found = {one["key"]: one for one in differences(rows, reference)}
    place = {key: at for at, key in enumerate([reference, *found])}
    lines = [f"{note(rows[0])}, accuracy on {rows[0]['test_images']:,} images", ""]
    lines += ["| row | accuracy | seeds | difference, 95 % interval | LRMAX | decay | minutes |"]
    lines += ["| :--- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for row in sorted(rows, key=lambda row: place.get(row["key"], len(place))):
        spread = f" ± {row['std']:.2f}" if len(row["seeds"]) > 1 else ""
        one = found.get(row["key"])
        gap = f"{one['difference']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})" if one else ""
        rates, minutes = np.mean(row["lr_maxs"]), np.mean(row["seconds"]) / 60
        cells = (
            row["name"],
            f"{row['mean']:.2f}{spread} %",
            len(row["seeds"]),
            gap,
            utils.short_rate(rates),
            f"{np.mean(row['weight_decays']):.2g}",
            f"{minutes:.0f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    words = [f"{row['name']}: {row['note']}." for row in rows if row["note"]]
    return "\n".join([*lines, "", interval_words(list(found.values())), *words])


def interval_words(found):
    """What the intervals cover."""
    if all(one["seed_noise"] for one in found):
        return "Intervals: 95 %, for other seeds and other test images."
    return "Intervals: 95 %, for other test images only; another seed may lie outside."


@utils.styled
def plot(rows, reference="recipe", title="Difference to the recipe in test accuracy", path=None):
    """The differences with their intervals, sorted; grey where the interval includes zero."""
    found = differences(rows, reference)
    if not found:
        return None
    fig = utils.new_figure(height_px=90 + 38 * len(found))
    ax = fig.subplots()
    for at, one in enumerate(found):
        significant = one["low"] > 0 or one["high"] < 0
        colour = (
            (utils.BLUE if one["difference"] > 0 else utils.ORANGE) if significant else utils.GREY
        )
        reach = [[one["difference"] - one["low"]], [one["high"] - one["difference"]]]
        ax.errorbar(
            one["difference"],
            at,
            xerr=reach,
            fmt="o" if significant else "D",
            color=colour,
            ms=8,
            lw=3,
            capsize=5,
            mfc=colour if significant else "white",
        )
    ax.axvline(0, color=utils.INK, lw=1.5)
    ax.set_yticks(range(len(found)), [one["name"] for one in found])
    ax.set(
        xlabel="percentage points (right: better than the recipe)", ylim=(len(found) - 0.5, -0.5)
    )
    ax.grid(axis="y", visible=False)
    words = f"{interval_words(found)} Grey, hollow: within noise"
    return utils.finish(fig, f"{title}\n{words}", note(rows[0]), path)

"""Differences to a reference row with 95 % intervals, paired by seed and by test image.

    found = differences(rows("misc/ablation.json", images=5000))        # experiments.results.rows
    print(comparison(rows("misc/depth.json"), "resnet44", "resnet8"))

Two kinds of chance are in an interval. *Which test images there are*: the standard deviation of the
difference over the images, divided by the root of their number. *The seed*: two or three runs tell
little about a row's spread, so it is estimated from all rows together, as in an analysis of
variance with seeds as blocks: what is left of an accuracy once the mean of its row and that of its
seed are taken away. That supposes that all rows spread alike.

Which images a run happens to get wrong changes with its seed. This noise is in both estimates, and
is taken out of one. The quantile is Student's, with the degrees of freedom of the sum (Welch 1947).
Of twenty rows without an effect, one has an interval without zero all the same.
"""

import math

import numpy as np
from scipy.stats import t  # installed with albumentations

import utils
from experiments.results import mean, note, spread, unpack
from extras.report import markdown_table


def differences(rows, reference=None):
    """Compare each row with the reference.

    Args:
        rows: {key: runs}, from `experiments.results.rows`.
        reference: a key; None: the row that changes nothing.

    Returns:
        A dict for each other row, the best first: key, name, difference, low, high (percentage
        points), seeds (that both rows have), seed_noise (False where no row has two seeds: then
        the interval knows of the test images alone).
    """
    reference = reference or unchanged(rows)
    if reference not in rows:
        return []
    base = correct_images(rows[reference])
    others = {key: correct_images(runs) for key, runs in rows.items() if key != reference}
    spreads = seed_spread([base, *others.values()])
    found = []
    for key, other in others.items():
        seeds = [seed for seed in other if seed in base]
        if not seeds:
            continue
        by_image = np.mean([other[seed] - base[seed] for seed in seeds], axis=0)
        middle = float(by_image.mean())
        half = half_width(by_image, len(seeds), *spreads)
        found.append(
            dict(
                key=key,
                name=rows[key][0]["name"],
                difference=middle,
                low=middle - half,
                high=middle + half,
                seeds=len(seeds),
                seed_noise=spreads[2] > 0,
            )
        )
    return sorted(found, key=lambda one: -one["difference"])


def unchanged(rows):
    """The key of the row that changes nothing, or None."""
    return next((key for key, runs in rows.items() if not runs[0]["changes"]), None)


def correct_images(runs):
    """{seed: 100 for each test image that the run got right, else 0}."""
    return {run["seed"]: 100.0 * unpack(run["correct"], run["test_images"]) for run in runs}


def seed_spread(table):
    """How much runs scatter about their rows and seeds, from the rows with the same seeds.

    Args:
        table: a {seed: by image} for each row, the reference first.

    Returns:
        (variance of an accuracy, the part of it that is which images a run happens to get wrong,
        degrees of freedom); the last is 0 where no other row has two seeds in common with the
        reference.
    """
    several = [row for row in table if len(row.keys() & table[0].keys()) > 1]
    seeds = sorted(set(table[0]).intersection(*several))
    freedom = (len(several) - 1) * (len(seeds) - 1)
    if freedom < 1:
        return 0.0, 0.0, 0
    right = np.array([[row[seed] for seed in seeds] for row in several])  # row, seed, image
    left = right - right.mean(axis=1, keepdims=True) - right.mean(axis=0)
    left += right.mean(axis=(0, 1))
    total = (left.mean(axis=2) ** 2).sum() / freedom
    of_images = left.var(axis=2, ddof=1).sum() / freedom / right.shape[2]
    return float(total), float(of_images), freedom


def half_width(by_image, seeds, total, of_images, freedom):
    """Half the width of a 95 % interval.

    Args:
        by_image: difference of the two rows for each test image, mean over `seeds` seeds.
        total, of_images, freedom: from `seed_spread`.
    """
    images = len(by_image)
    both = by_image.var(ddof=1) / images  # the images, and which of them these runs get wrong
    if not freedom:
        return float(t.ppf(0.975, images - 1)) * math.sqrt(both)
    by_seed = 2 * total / seeds  # of two rows
    by_row = max(0.0, both - 2 * of_images / seeds)  # the images alone
    variance = max(by_row + by_seed, both)  # a seed adds noise, and never takes any away
    if variance == 0:
        return 0.0
    welch = variance**2 / (by_row**2 / (images - 1) + by_seed**2 / freedom)
    return float(t.ppf(0.975, max(welch, freedom))) * math.sqrt(variance)


def comparison(rows, better, worse):
    """Two named rows in a sentence; the spread over seeds is estimated from these two alone."""
    found = differences({key: rows[key] for key in (worse, better)}, worse)
    if not found:
        return f"{better} and {worse} have no seed in common."
    one = found[0]
    reach = "other seeds and test images" if one["seed_noise"] else "other test images only"
    return (
        f"{one['name']}, beside {rows[worse][0]['name']}: {one['difference']:+.1f} points "
        f"({one['low']:+.1f} to {one['high']:+.1f}; 95 %, {one['seeds']} seeds, {reach})"
    )


def table(rows):
    """The rows in Markdown: the reference first, the others by their difference to it."""
    reference = unchanged(rows)
    found = differences(rows, reference)
    by_key = {one["key"]: one for one in found}
    order = [key for key in (reference, *by_key) if key in rows]
    lines = []
    for key in order + [key for key in rows if key not in order]:
        runs = rows[key]
        one = by_key.get(key)
        accuracy = f"{mean(runs, 'accuracies'):.2f}"
        if len(runs) > 1:
            accuracy += f" ± {spread(runs, 'accuracies'):.2f}"
        gap = f"{one['difference']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})" if one else ""
        mirrored = [run["accuracies_mirrored"][0] for run in runs if "accuracies_mirrored" in run]
        lines.append(
            (
                runs[0]["name"],
                f"{accuracy} %",
                f"{np.mean(mirrored):.2f} %" if mirrored else "",
                len(runs),
                gap,
                ", ".join(utils.short_rate(run["lr_max"]) for run in runs),
                f"{mean(runs, 'weight_decay'):.2g}",
            )
        )
    head = ("row", "accuracy", "mirrored too", "seeds", "difference, 95 %", "LRMAX", "decay")
    first = rows[order[0] if order else next(iter(rows))][0]
    words = [f"{runs[0]['name']}: {runs[0]['note']}." for runs in rows.values() if runs[0]["note"]]
    about = f"{note(first)}; accuracy on {first['test_images']:,} images"
    reach = [reach_of(found)] if found else []
    return "\n".join([about, "", markdown_table(head, lines), "", *reach, *words])


def reach_of(found):
    """What the intervals cover."""
    if all(one["seed_noise"] for one in found):
        return "Intervals: 95 %, for other seeds and other test images."
    return "Intervals: 95 %, for other test images only; another seed may lie outside."


def finding(rows, found):
    """The single change that costs most, as a title."""
    single = [one for one in found if len(rows[one["key"]][0]["changes"]) == 1]
    worst = (single or found)[-1]
    if not single or worst["difference"] >= 0:
        return f"{worst['name']}: {worst['difference']:+.1f} points"
    name = worst["name"].split(":")[0]
    return f"Of the single changes, {name} costs most: {-worst['difference']:.1f} points"


@utils.styled
def plot(rows, path=None):
    """The differences with their intervals, sorted; grey where the interval includes zero.

    Returns the figure, or None where there is nothing to compare.
    """
    reference = unchanged(rows)
    found = differences(rows, reference)
    if not found:
        return None
    fig = utils.new_figure(height_px=90 + 38 * len(found))
    ax = fig.subplots()
    for at, one in enumerate(found):
        colour, mark, fill = look(one)
        reach = (one["high"] - one["low"]) / 2
        ax.errorbar(
            one["difference"],
            at,
            xerr=reach,
            fmt=mark,
            color=colour,
            mfc=fill,
            ms=8,
            lw=3,
            capsize=5,
        )
    ax.axvline(0, color=utils.INK, lw=1.5)
    ax.set_yticks(range(len(found)), [one["name"] for one in found])
    ax.set(ylim=(len(found) - 0.5, -0.5))
    zero = f"{rows[reference][0]['name']}, {mean(rows[reference], 'accuracies'):.1f} %"
    ax.set_xlabel(f"points of test accuracy; 0: {zero}")
    ax.grid(axis="y", visible=False)
    noise = sum(one["low"] <= 0 <= one["high"] for one in found)
    words = f"{reach_of(found)} Grey, hollow: within noise ({noise} of {len(found)})"
    return utils.finish(fig, f"{finding(rows, found)}\n{words}", note(rows[reference][0]), path)


def look(one):
    """Colour, marker and its fill: blue for better, orange for worse, grey for neither."""
    if one["low"] > 0:
        return utils.BLUE, "o", utils.BLUE
    if one["high"] < 0:
        return utils.ORANGE, "o", utils.ORANGE
    return utils.GREY, "D", "white"

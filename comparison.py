"""What did each ingredient buy? Table, words and figures of the runs in `misc/ablation.json`.

    rows = read("misc/ablation.json")        # written by `make results`
    print(block(rows))                       # Markdown: a table for each setting, and what it says
    plot(rows, path="misc/ablation.png")     # accuracies, with error bars
    plot_curves(rows)                        # how they came about, epoch by epoch

Rows stand in one table only where data, pictures, epochs, batch size and recipe are the same.
"""

import json
import math
from pathlib import Path

import utils
from train import PEAK

TARGET, GAIN, FALL = 92.0, 2.5, 3.0  # per cent; points above the 2023 recipe; points an epoch may lose after the peak
SETTING = ("data", "fingerprint", "pictures", "epochs", "batch_size", "recipe")
ONE_CYCLE = {"constant": "a constant rate of the same mean", "no-warm-up": "the same cycle without its warm-up"}
CURVES = ("recipe", "original", "plain", *ONE_CYCLE)  # the rows whose way tells more than their end


def read(path):
    """The rows of a results file, or none where there is no file yet."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def groups(rows):
    """The rows by setting: lists that may be compared, the one with the most training first."""
    found = {}
    for row in rows:
        found.setdefault(json.dumps([row[key] for key in SETTING], sort_keys=True), []).append(row)
    return sorted(found.values(), key=lambda group: -group[0]["pictures"] * group[0]["epochs"])


def find(rows, key):
    return next((row for row in rows if row["row"] == key), None)


def setting(rows):
    """What the rows of a group have in common, in a line."""
    one, devices = rows[0], {row["device"] for row in rows}
    recipe = ", ".join(f"{key} {value}" for key, value in one["recipe"].items() if key != "optimizer")
    return (
        f"{one['data']}: {one['pictures']:,} training and {one['test_pictures']:,} test pictures, "
        f"{one['epochs']} epochs, batches of {one['batch_size']}{', on ' + one['device'] if len(devices) == 1 else ''} "
        f"({one['recipe']['optimizer']}, {recipe.replace('_', ' ')})"
    )


def table(rows):
    """The rows of one group in Markdown, and their notes below."""
    recipe, several = find(rows, "recipe"), len({row["device"] for row in rows}) > 1
    lines = [
        "| | test accuracy | to the recipe | seeds | largest fall | LRMAX | a run |" + " device |" * several,
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |" + " :--- |" * several,
    ]
    for row in rows:
        fall = f"{max(row['largest_falls']):.1f}" if row["largest_falls"] else ""
        minutes = f"{sum(row['seconds']) / len(row['seconds']) / 60:.1f} min" if row["seconds"] else "no training"
        cells = row["name"], accuracy(row), difference(row, recipe), len(row["seeds"]), fall, rates(row), minutes
        lines.append("| " + " | ".join(map(str, cells + (row["device"],) * several)) + " |")
    notes = {}
    for row in rows:
        notes.setdefault(row["note"], []).append(row["name"])
    below = [f"{', '.join(names)}: {note}." for note, names in notes.items() if note]
    return "\n".join(lines + (["", " ".join(below)] if below else []))


def accuracy(row):
    """Mean and standard deviation; one seed has no deviation."""
    return f"{row['mean']:.2f} ± {row['std']:.2f} %" if len(row["seeds"]) > 1 else f"{row['mean']:.2f} %"


def difference(row, recipe):
    """Points above the recipe's accuracy with the same seeds, or nothing where they have none in common."""
    if recipe is None or row is recipe:
        return ""
    theirs = dict(zip(recipe["seeds"], recipe["accuracies"], strict=True))
    gains = [a - theirs[seed] for seed, a in zip(row["seeds"], row["accuracies"], strict=True) if seed in theirs]
    return f"{sum(gains) / len(gains):+.2f}" if gains else ""


def rates(row):
    low, high = min(row["lr_max"]), max(row["lr_max"])
    return f"{low:.2e}" if low == high else f"{low:.1e} to {high:.1e}"


def words(rows):
    """How the recipe fares in its group, against the targets where they apply, and what the other rows answer."""
    recipe, original = find(rows, "recipe"), find(rows, "original")
    if recipe is None:
        return ""
    text = f"The recipe reaches {accuracy(recipe)} ({seeds(len(recipe['seeds']))})"
    whole = recipe["pictures"] >= 50_000 and recipe["epochs"] >= 24
    if whole:
        text += f"; the target is {TARGET:g} %: {verdict(recipe['mean'] >= TARGET)}"
    if original:
        gain = recipe["mean"] - original["mean"]
        goal = f" (target: at least {GAIN:g}, {verdict(gain >= GAIN)})" if whole else ""
        text += f". Against the 2023 recipe, {gain:+.2f} points{goal}"
    fall = max(recipe["largest_falls"])
    text += f". After its peak, no epoch lost more than {fall:.1f} points of test accuracy to the one before it"
    text += f" (target: at most {FALL:g}, {verdict(fall <= FALL)})"
    return "\n".join([f"{text}. {noise(recipe)}", "", *answers(rows)])


def answers(rows):
    """The questions of the assignment's title, answered by the rows of the group: a Markdown list."""
    pictures = rows[0]["pictures"]
    recipe, plain, original = (find(rows, key) for key in ("recipe", "plain", "original"))
    cycle = [(find(rows, key), words) for key, words in ONE_CYCLE.items()]
    twin = "the twin without the two additions, which has as many parameters"
    residual = [gain(recipe, plain, twin)] if plain else []
    one_cycle = [gain(recipe, row, words) for row, words in cycle if row]
    return [
        f"- *{question}* "
        + (" ".join(found) or f"Not run on {pictures:,} pictures yet: `make results ROWS={keys} LIMIT={pictures}`.")
        for question, found, keys in (
            ("What did the residual connections buy?", residual, "plain"),
            ("What did one cycle buy?", one_cycle, ",".join(ONE_CYCLE)),
            ("Why did the original swing?", [swings(recipe, original)] if original else [], "original"),
        )
    ]


def gain(recipe, row, words):
    """What the recipe has over a row, and whether chance could have done it."""
    points = recipe["mean"] - row["mean"]
    text = f"{points:+.2f} points over {words} ({accuracy(row)})"
    error = math.hypot(chance(recipe), chance(row))
    return f"{text}." if abs(points) > 2 * error else f"{text}: no more than chance may bring (± {2 * error:.1f})."


def chance(row):
    """The standard error of a row's accuracy in points: of its seeds, or of the choice of the test pictures."""
    if len(row["seeds"]) > 1:
        return row["std"] / math.sqrt(len(row["seeds"]))
    share = row["mean"] / 100
    return 100 * math.sqrt(share * (1 - share) / row["test_pictures"])


def swings(recipe, original):
    """Does the 2023 recipe swing less as its rate gets lower? Falls while the rate is high, and when it is low."""
    high, low = zip(*map(halves, original["curves"]), strict=True)
    ours = [max(falls) for falls in zip(*map(halves, recipe["curves"]), strict=True)]
    text = (
        f"Its LRMAX is {original['lr_max'][0] / recipe['lr_max'][0]:.0f} times the recipe's. From the peak until the "
        f"rate has halved, an epoch costs it up to {max(high):.1f} points of test accuracy, after that up to "
        f"{max(low):.1f}; the recipe {ours[0]:.1f} and {ours[1]:.1f}."
    )
    if max(high) <= max(low) + 1:
        return text
    if max(high) > 2 * ours[0]:
        return f"{text} The swings go as the rate goes: its steps are too large."
    return f"{text} The swings go as the rate goes, but at its far lower rate the recipe swings here nearly as much."


def halves(curve):
    """The largest falls of a test curve from the peak of the rate to the middle of its way down, and from there on."""
    peak = max(0, round(PEAK * len(curve)) - 1)
    middle = (peak + len(curve)) // 2
    falls = [before - after for before, after in zip(curve, curve[1:], strict=False)]
    return max([0, *falls[peak:middle]]), max([0, *falls[middle:]])


def seeds(n):
    return "one seed" if n == 1 else f"mean and standard deviation of {n} seeds"


def verdict(met):
    return "met" if met else "not met"


def noise(row):
    """How much a number can owe to the choice of the test pictures."""
    error = chance(row | dict(seeds=row["seeds"][:1]))
    more = "; one seed adds its own chance to that" if len(row["seeds"]) == 1 else ""
    return (
        f"{row['test_pictures']:,} test pictures tell an accuracy to ± {error:.2f} points (one standard error){more}."
    )


def block(rows):
    """Every group: its setting, its table, and what it says, as Markdown."""
    if not rows:
        return "No row is finished yet: `make results` runs them."
    parts = [f"**{setting(group)}**\n\n{table(group)}\n\n{words(group)}".rstrip() for group in groups(rows)]
    about = (
        "Accuracy is that of the weights at the end, without test-time augmentation. *To the recipe*: points, over the "
        "seeds that both have. *Largest fall*: points of test accuracy from one epoch to the next once the rate has "
        "peaked, the worst of all seeds. Every trained row but the 2023 recipe takes its LRMAX from the recipe's range "
        "test, so that one thing differs."
    )
    return "\n\n".join([about, *parts])


def plot(rows, path=None):
    """The accuracies of one group, with error bars."""
    shown, note = trained(rows)
    recipe = find(shown, "recipe")
    reference = dict(label="the recipe", value=recipe["mean"]) if recipe and len(shown) > 1 else None
    bars = "one standard deviation"
    if any(len(row["seeds"]) == 1 for row in shown):  # seeds have no spread where there is one
        shown = [dict(row, error=chance(row)) for row in shown]
        several = any(len(row["seeds"]) > 1 for row in shown)
        bars = f"standard error by {'seeds or ' * several}test pictures"
    return utils.plot_bars(shown, bars=bars, reference=reference, note=note, path=path)


def plot_curves(rows, path=None):
    """The test accuracy of the telling rows of the same group, epoch by epoch."""
    shown, note = trained(rows)
    peak = max(1, round(PEAK * shown[0]["epochs"]))
    return utils.plot_curves([row for row in shown if row["row"] in CURVES], peak=peak, note=note, path=path)


def trained(rows):
    """The group with the most rows, without those on spoilt test pictures, which would press the others flat."""
    every = [[row for row in group if "corruption" not in row["changes"]] for group in groups(rows)]
    shown = max(every, key=len)
    one = shown[0]
    return shown, f"{one['data']}: {one['pictures']:,} training pictures, {one['epochs']} epochs, on {one['device']}"

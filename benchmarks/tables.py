"""How do the tables and the figure of benchmarks/README.md come from benchmarks/results/*.json and misc/ablation.json?

python -m benchmarks.tables                     # rewrites README.md between its markers, and results.png
python -m benchmarks.tables --print FOLDER      # the goals found in a folder of results, as plain text
"""

import argparse
import hashlib
import json
import math
import re
from pathlib import Path

import matplotlib.pyplot as plt

import comparison
from benchmarks.recipes import ROWS
from drawing import BLUE, GREEN, GREY, ORANGE, STYLE

HERE = Path(__file__).parent
ABLATION = HERE.parent / "misc" / "ablation.json"
ORDER = ("pipeline", "overhead", "course", "limit", "growth", "start", "scaling")
MARKER = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
CONTEXTS = (("one CPU thread", "o", BLUE), ("workers", "^", ORANGE), ("cuda", "s", GREEN))  # of the pipeline's rows


def read_results(folder):
    """The results of a folder, in the order of worth, then by device."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*-*.json"))]
    found = [result for result in found if "benchmark" in result]
    place = {name: i for i, name in enumerate(ORDER)}
    return sorted(found, key=lambda r: (place.get(r["benchmark"], len(place)), r["benchmark"], r["device"]))


def digest(results):
    """What the figure carries, so that a test can tell whether it is of these results."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def number(value):
    """Three figures that count: 0.0123, 4.56, 78.9, 12,345."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def note(one):
    """What a row has besides its value, in words."""
    if one.get("repeats", 1) > 1:
        return f"{number(one['low'])} to {number(one['high'])}, {one['repeats']} repeats"
    return f"r² = {one['r2']:.4f}" if "r2" in one else ""


def goals_table(results):
    """Every goal of every result in Markdown."""
    lines = ["| benchmark | what | goal | measured | met | device |", "| --- | --- | ---: | ---: | --- | --- |"]
    for result in results:
        lines += [
            f"| {result['benchmark']} | {g['name']} | {g['sense']} {g['goal']:g} | {number(g['value'])} "
            f"| {'yes' if g['met'] else '**no**'} | {result['device']} |"
            for g in result["goals"]
        ]
    return "\n".join(lines)


def table(result):
    """One result in Markdown: where it was measured, then its rows."""
    versions = result["versions"]
    about = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch") if name in versions)
    lines = [f"**{result['device']}** ({about})", ""]
    lines += ["| what | measured | unit | spread or fit |", "| --- | ---: | --- | --- |"]
    lines += [f"| {one['name']} | {number(one['value'])} | {one['unit']} | {note(one)} |" for one in result["rows"]]
    return "\n".join(lines)


def fill(text, results):
    """README's text with every table made anew.

    Raises:
        ValueError: a result has no place in the text.
    """
    places = {name for _, name, _ in MARKER.findall(text)}
    homeless = {result["benchmark"] for result in results} - places
    if homeless:
        raise ValueError(f"README.md has no place for the results of {min(homeless)}: add its '<!-- table: ... -->'")

    def tables(match):
        begin, name, end = match.groups()
        mine = [table(result) for result in results if result["benchmark"] == name]
        body = "\n\n".join(mine)
        if name == "goals":
            body = goals_table(results)
        if name == "ablation":
            body = ablation(comparison.read(ABLATION))
        return f"{begin}\n{body or 'Not measured yet.'}\n\n{end}"

    return MARKER.sub(tables, text)


def ablation(rows):
    """The tables of `make results`, and for each the rows that were not run."""
    parts = [comparison.block(rows)]
    for group in comparison.groups(rows):
        names = [row.name for row in ROWS if comparison.find(group, row.key) is None]
        if names:
            parts.append(f"Not run on {group[0]['pictures']:,} pictures of {group[0]['data']}: {', '.join(names)}.")
    return "\n\n".join(parts)


def draw(results, path):
    """The figure: for each device a row of three panels (pipeline, overhead, growth)."""
    panels = dict(pipeline=draw_pipeline, overhead=draw_overhead, growth=draw_growth)
    devices = list(dict.fromkeys(result["device"] for result in results if result["benchmark"] in panels))
    with plt.style.context(["default", STYLE]):
        fig = plt.figure(figsize=(13, 3.6 * max(len(devices), 1)), layout="constrained")
        plt.close(fig)
        axes = fig.subplots(max(len(devices), 1), 3, squeeze=False)
        for ax in axes.flat:
            ax.axis("off")
        for result in results:
            if result["benchmark"] in panels:
                ax = axes[devices.index(result["device"]), list(panels).index(result["benchmark"])]
                ax.axis("on")
                panels[result["benchmark"]](ax, result)
        fig.savefig(path, dpi=120, metadata={"Software": None, "Source": digest(results)})


def draw_pipeline(ax, result):
    """Pictures a second of every library, a mark for each place where it ran; on a logarithmic axis."""
    names = list(dict.fromkeys(one["name"].split(" (")[0] for one in result["rows"]))
    for words, mark, colour in CONTEXTS:
        mine = [one for one in result["rows"] if words in one["name"].split(" (")[1]]
        places = [names.index(one["name"].split(" (")[0]) for one in mine]
        label = mine[0]["name"].split(" (")[1].rstrip(")") if mine else None
        ax.plot([one["value"] for one in mine], places, mark, color=colour, ms=8, label=label)
    ax.set_yticks(range(len(names)), names)
    ax.set(xscale="log", ylim=(len(names) - 0.5, -0.5), xlabel="pictures a second")
    ax.set_title(f"Augmentation\n{result['device']}", loc="left", size=10)
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.2), ncols=1 + len(ax.lines) // 3, frameon=False)


def draw_overhead(ax, result):
    """An epoch's time over that of the bare steps, for each loader."""
    mine = [one for one in result["rows"] if "/" in one["name"]]
    names, values = [one["name"].split(", ")[1] for one in mine], [one["value"] for one in mine]
    ax.barh(names, values, color=BLUE, height=0.5)
    for place, value in enumerate(values):
        ax.annotate(f" {value:.3f}", (value, place), va="center", weight="bold")
    ax.axvline(1, color=GREY, lw=1)
    ax.axvline(result["goals"][0]["goal"], color=ORANGE, ls="--", lw=1.5)
    ax.set(xlim=(0, 1.25 * max(values)), ylim=(len(names) - 0.5, -0.5))
    ax.set_xlabel(f"epoch / bare steps (dashed: goal of device, {result['goals'][0]['goal']:g})")
    ax.grid(visible=False, axis="y")
    ax.set_title(f"What a training epoch costs besides the steps\n{result['device']}", loc="left", size=10)


def draw_growth(ax, result):
    """Seconds of a step against the batch size, with the straight line through them."""
    points = [one for one in result["rows"] if "size" in one and "a batch: time" in one["name"]]
    slope = next(one for one in result["rows"] if one["name"].startswith("slope of time, by pictures a batch"))
    sizes = [one["size"] for one in points]
    ax.plot(sizes, [slope["start"] + slope["value"] / 1e6 * n for n in sizes], "--", color=GREY, lw=1.5)
    ax.plot(sizes, [one["value"] for one in points], "o", color=BLUE, ms=8)
    limits = dict(xlim=(0, 1.08 * max(sizes)), ylim=(0, 1.08 * max(one["value"] for one in points)))
    ax.set(xlabel="pictures a batch", ylabel="seconds a step", **limits)
    words = f"A step: {number(slope['value'] / 1000)} ms a picture, r² = {slope['r2']:.4f}"
    ax.set_title(f"{words}\n{result['device']}", loc="left", size=10)


def main():
    parser = argparse.ArgumentParser(description="Tables and figure of benchmarks/README.md from its results.")
    parser.add_argument("--tiny", action="store_true", help="from and to the folder of the tiny runs")
    parser.add_argument("--print", metavar="FOLDER", dest="folder", help="only print the goals in a folder of results")
    args = parser.parse_args()
    if args.folder:
        print(goals_table(read_results(args.folder)))
        return
    source = out = Path("runs/bench-tiny")
    if not args.tiny:
        source, out = HERE / "results", HERE
    results = read_results(source)
    text = fill((HERE / "README.md").read_text(encoding="utf-8"), results)
    (out / "README.md").write_text(text, encoding="utf-8")
    draw(results, out / "results.png")


if __name__ == "__main__":
    main()

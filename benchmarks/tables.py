"""Make the tables of benchmarks/README.md, between its marks, from the result files.

python -m benchmarks.tables                  # rewrites benchmarks/README.md
python -m benchmarks.tables --out FOLDER     # from the results in FOLDER; writes FOLDER/README.md
"""

import json
import math
import re

from benchmarks.common import HERE, ORDER, parse

MARKS = re.compile(r"(<!-- (goals|rows) -->\n).*?(<!-- end -->)", re.DOTALL)
NOTHING = "not measured yet: run `make bench`"


def read_results(folder):
    """The results of a folder in the order of ORDER, then by device."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-*.json"))
    ]
    return sorted(found, key=lambda result: (ORDER.index(result["benchmark"]), result["device"]))


def number(value):
    """Three significant digits: 0.0123, 4.56, 78.9, 12,345."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def measured(row):
    """A row's number and its unit, with the lowest and the highest of the repeats."""
    spread = (
        f" ({number(row['low'])} to {number(row['high'])})" if row.get("repeats", 1) > 1 else ""
    )
    return f"{number(row['value'])} {row['unit']}{spread}"


def reached(goal):
    return f"{number(goal['value'])}, {'met' if goal['met'] else '**missed**'}"


def table(results, key, columns, cell):
    """Markdown: a line for each row or goal (`key`), a column for each device."""
    devices = list(dict.fromkeys(result["device"] for result in results))
    lines = {}
    for result in results:
        for one in result[key]:
            line = (
                result["benchmark"],
                one["name"],
                *(f"{one['sense']} {one['goal']:g}" for _ in columns[2:]),
            )
            lines.setdefault(line, {})[result["device"]] = cell(one)
    texts = [[*columns, *devices], ["---"] * len(columns) + ["---:"] * len(devices)]
    texts += [
        [*line, *(cells.get(device, "") for device in devices)] for line, cells in lines.items()
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in texts)


def fill(text, results):
    """README's text with its tables made anew."""
    made = dict(goals=NOTHING, rows=NOTHING)
    if results:
        made["goals"] = table(results, "goals", ("benchmark", "what", "goal"), reached)
        made["rows"] = table(results, "rows", ("benchmark", "what"), measured)
    return MARKS.sub(lambda match: f"{match[1]}\n{made[match[2]]}\n\n{match[3]}", text)


def main():
    out = parse("The tables of benchmarks/README.md from its results.").out
    text = fill((HERE / "README.md").read_text(encoding="utf-8"), read_results(out))
    path = (HERE if out == HERE / "results" else out) / "README.md"
    path.write_text(text, encoding="utf-8")
    print(f"  {path}")


if __name__ == "__main__":
    main()

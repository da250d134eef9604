"""README.md: what it quotes is in a committed file, and what it promises is there."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

import train
from experiments import learning_rate, story
from experiments.results import FLOAT32, rows
from extras import report

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# the assignment's, in its order
SECTIONS = [
    "Objective",
    "Dataset",
    "Code base",
    "Receptive field",
    "Model summary",
    "Notebook",
    "Target",
    "Result",
    "Analysis",
    "Last few epochs",
    "Misclassified images",
    "Loss curves",
]
FIRST = [
    "# ",
    "colab-badge.svg",
    "](S10_model.ipynb)",
    "](misc/story.png)",
    "\n| ",
    "## What came out",
    "examples/predict.py",
    "main.py --evaluate",
    "make run",
    "make test",
]
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
# Accuracies with their decimals, and learning rates such as 2.9e-3
PER_CENT = re.compile(r"(?<![\d.,-])(\d+\.\d+) %")
RATE = re.compile(r"(?<![\d.])(\d\.\d+)e-0?(\d)\b")


def read(path):
    return path.read_text(encoding="utf-8")


def results():
    return json.loads(read(ROOT / "misc/results.json"))


def numbers(value):
    """Every number in what was read from a JSON file, those within its sentences included."""
    if isinstance(value, dict):
        return {number for part in value.values() for number in numbers(part)}
    if isinstance(value, list):
        return {number for part in value for number in numbers(part)}
    if isinstance(value, str) and len(value) < 1000:  # longer ones are packed bits
        return {float(number) for number in NUMBER.findall(value)}
    return {float(value)} if isinstance(value, int | float) else set()


@pytest.fixture(scope="module")
def known():
    """Every number of the results in misc/."""
    paths = [*ROOT.glob("misc/*.json"), *ROOT.glob(f"misc/{FLOAT32}/*.json")]  # no trials
    files = [json.loads(read(path)) for path in paths]
    return set().union(*map(numbers, files))


def notebook_texts():
    cells = nbformat.read(ROOT / "S10_model.ipynb", as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


PAGES = {
    "README.md": README,
    "S10_model.ipynb": notebook_texts(),
    "solutions.md": read(ROOT / "examples/solutions.md"),
}


def test_the_result_the_story_and_the_first_commands_come_first():
    places = [README.find(part) for part in FIRST]
    assert -1 not in places and places == sorted(places), dict(zip(FIRST, places, strict=True))
    assert places[-1] < README.index(f"## {SECTIONS[0]}")
    top = README[: README.index("## What came out")]
    for part in (f"{results()['final_test_acc']:.2f}", f"| {results()['epoch_90']} |", "2023"):
        assert part in top, part


def test_sections_are_the_assignment_s_in_its_order():
    headings = re.findall(r"^## (.+)$", README, flags=re.MULTILINE)
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS
    assert "Deviations from the assignment, and why" in README


@pytest.mark.parametrize("page", PAGES)
def test_accuracies_and_rates_are_in_a_committed_file(page, known):
    for quoted in set(PER_CENT.findall(PAGES[page])):
        decimals = len(quoted.partition(".")[2])
        assert any(f"{number:.{decimals}f}" == quoted for number in known), f"{quoted} %"
    for digits, power in set(RATE.findall(PAGES[page])):
        decimals = len(digits.partition(".")[2])
        written = f"{digits}e-0{power}"
        assert any(f"{number:.{decimals}e}" == written for number in known), written


def test_shows_the_last_epochs_and_the_rates_of_the_committed_run():
    assert report.epoch_table(results()["history"], last=5) in README
    for name in ("lr_min", "lr_max"):
        digits, exponent = f"{results()[name]:.1e}".split("e")
        assert f"{digits}e{int(exponent)}" in README, name


def test_the_gain_of_one_cycle_is_counted_from_the_lrmax_found_everywhere():
    lines = json.loads(read(ROOT / "misc/learning_rate.json"))
    accuracies = {line["key"].removesuffix("_1cd1259"): line["accuracies"][0] for line in lines}
    constants = [value for key, value in accuracies.items() if key.startswith("constant")]
    gain = f"{accuracies['recipe'] - max(constants):.1f} points"
    loss = f"{accuracies['recipe'] - accuracies['cycle_4']:.1f} points"
    both = rows(ROOT / "misc/learning_rate.json", ROOT / "misc/ablation.json", images=5000)
    assert gain in learning_rate.finding(both)
    for page in (README, notebook_texts(), read(ROOT / "experiments/README.md")):
        assert gain in page and loss in page


def test_is_short_and_has_no_placeholder():
    prose = re.sub(r"(?m)^\|.*$|<!--.*?-->", "", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    assert len(prose.split()) <= 2000, len(prose.split())
    assert not re.search(r"@[A-Z]+@|owner/name|TODO", README)


@pytest.mark.parametrize("page", PAGES)
def test_names_only_files_that_exist(page):
    folders = "tests|extras|examples|experiments|benchmarks|misc"
    for name in set(re.findall(rf"`(?:python )?((?:{folders})/[\w./]+)`", PAGES[page])):
        assert (ROOT / name).exists(), name


def test_the_tree_and_the_make_targets_are_what_there_is():
    tree = README.partition("```text")[2].partition("```")[0]
    folders = ["misc/", "extras/", "experiments/", "benchmarks/", "examples/", "tests/"]
    for name in [*(path.name for path in ROOT.glob("*.py")), *folders]:
        assert re.search(rf"(?m)^{re.escape(name)} ", tree), name
    commands = re.sub(r"\s+", " ", "".join(re.findall(r"`+[^`]+`+", README)))
    for target in set(re.findall(r"make ([a-z-]+)", commands)):
        assert re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE), target


def test_the_story_has_the_committed_runs_and_their_rates():
    shown, take_off = story.runs(ROOT / "misc")
    ends = {run.name: (run.accuracies[-1], max(run.lrs), run.lrs[-1]) for run in shown}
    assert list(ends) == ["2023", "strict", "shown run"]
    now = results()
    assert ends["shown run"] == pytest.approx((now["final_test_acc"], now["lr_max"], now["lr_min"]))
    # OneCycleLR(max_lr=4.93e-2, div_factor=100, final_div_factor=100), as the file says
    assert ends["2023"] == pytest.approx((90.27, 4.93e-2, 4.93e-6), rel=1e-3)
    steps, _ = train.cycle_curve(now["lr_max"], 98, 24, now["lr_min"])
    rates = np.interp(np.arange(1, 2353) / 98, shown[2].done, shown[2].lrs)
    assert rates == pytest.approx(steps, rel=0.05, abs=1e-5)
    for run in shown:
        assert len(run.accuracies) == 24 and run.done[-1] == 24
        beyond = run.done[run.lrs > take_off]
        assert (len(beyond) > 0) == (run.name == "2023")
    assert 1 < shown[0].done[shown[0].lrs > take_off][0] < 2  # from epoch 3 to 17, all of it
    assert 17 < shown[0].done[shown[0].lrs > take_off][-1] < 18

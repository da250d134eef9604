"""README.md: what it quotes and promises; and tests/README.md: the tests that it names."""

import json
import re
from pathlib import Path

from extras import report

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SECTIONS = [
    "Objective",
    "Dataset",
    "Code base",
    "Receptive field",
    "Model summary",
    "Notebook",
    "Target",
    "Result",
]
SECTIONS += [
    "Analysis",
    "Last few epochs",
    "Misclassified images",
    "Loss curves",
]  # the assignment's, in its order
FIRST_SCREEN = [
    "# ",
    "colab-badge.svg",
    "](S10_model.ipynb)",
    "\n| ",
    "](misc/loss_curves.png)",
    "make run",
    "make test",
]


def results():
    return json.loads((ROOT / "misc/results.json").read_text(encoding="utf-8"))


def numbers(value):
    """All numbers in what was read from a JSON file, with two decimals."""
    if isinstance(value, dict | list):
        return {
            n
            for part in (value.values() if isinstance(value, dict) else value)
            for n in numbers(part)
        }
    return {f"{value:.2f}"} if isinstance(value, int | float) else set()


def test_the_result_is_in_the_first_screen():
    places = [README.find(part) for part in FIRST_SCREEN]
    assert -1 not in places and places == sorted(places), dict(
        zip(FIRST_SCREEN, places, strict=True)
    )
    assert places[-1] < README.index(f"## {SECTIONS[0]}")
    top = README[: places[-1]]
    for part in (f"{results()['final_test_acc']:.2f}", f"{results()['parameters']:,}", "2023"):
        assert part in top, part


def test_sections_are_the_assignment_s_in_its_order():
    headings = re.findall(r"^## (.+)$", README, flags=re.MULTILINE)
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS
    assert "Deviations from the assignment, and why" in README


def test_quotes_the_committed_results():
    files = [json.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("misc/*.json")]
    known = set().union(*map(numbers, files))
    quoted = set(re.findall(r"(?<![\d.,-])(\d+\.\d\d) %", README))
    assert quoted <= known, f"in no file of misc/: {quoted - known}"
    assert report.epoch_table(results()["history"], last=5) in README
    for name in ("lr_min", "lr_max"):
        digits, exponent = f"{results()[name]:.1e}".split("e")
        assert f"{digits}e{int(exponent)}" in README or f"{results()[name]:.2e}" in README, name


def test_is_short_and_has_no_placeholder():
    prose = re.sub(r"(?m)^\|.*$|<!--.*?-->", "", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    assert len(prose.split()) <= 1300, len(prose.split())
    assert not re.search(r"@[A-Z]+@|owner/name|TODO", README)


def test_names_only_what_exists():
    for name in set(
        re.findall(r"`((?:tests|extras|examples|experiments|benchmarks)/[\w./]+)`", README)
    ):
        assert (ROOT / name).exists(), name
    tree = README.partition("```text")[2].partition("```")[0]
    for name in [
        *(path.name for path in ROOT.glob("*.py")),
        "misc/",
        "extras/",
        "experiments/",
        "benchmarks/",
        "examples/",
    ]:
        assert re.search(rf"(?m)^{re.escape(name)} ", tree), name
    for target in set(
        re.findall(
            r"make ([a-z-]+)", re.sub(r"\s+", " ", "".join(re.findall(r"`+[^`]+`+", README)))
        )
    ):
        assert re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE), target


def test_the_table_of_faults_names_tests_that_exist():
    table = (ROOT / "tests/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"`(test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)", table)
    assert len(rows) > 50
    for file, names in rows:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            assert f"def {name}(" in source, f"{file} has no {name}"

"""Sixty one-line changes of the product, drawn with a fixed seed: does a test see each of them?

    python tests/mutants.py draw             # writes tests/mutants.jsonl, a line for each change
    python tests/mutants.py run [FIRST LAST] # tries them, and says which survive

A change is a sign, a constant, an argument left out, or a condition turned round. Each is tried in
a copy of the checkout with the test files that concern its file, until one test fails. Messages are
left alone, and so are functions that draw: where a label stands in a figure, no test should hold.
"""

import ast
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("mutants.jsonl")
SEED, NUMBER, LEAST = 2026, 60, 12  # at least so many in each folder
FOLDERS = {
    "the files at the top": ["models.py", "transform.py", "dataset.py", "train.py", "test.py"],
    "extras": ["extras/*.py"],  # but for drawings: diagram.py, sample.py
    "experiments": ["experiments/*.py"],
}
COMPARISONS = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "is": "is not",
    "is not": "is",
    "in": "not in",
    "not in": "in",
}
SIGNS = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "**": "*", "%": "*"}
SYMBOLS = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Pow: "**",
    ast.Mod: "%",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
# Besides tests/test_NAME.py
TESTS = {
    "models": ["test_evaluate", "test_receptive_field"],
    "transform": ["test_dataset"],
    "dataset": ["test_transform", "test_evaluate", "test_distributed"],
    "train": ["test_cuda", "test_checkpoint", "test_distributed"],
    "test": ["test_evaluate", "test_cuda"],
    "files": ["test_checkpoint", "test_kill"],
    "checkpoint": ["test_kill", "test_main"],
    "hardware": ["test_cuda", "test_main"],
    "settings": ["test_main"],
    "distributed": ["test_cuda"],
    "lr_finder": ["test_cuda", "test_main"],
    "report": ["test_main", "test_readme"],
    "notebook": ["test_notebook", "test_transform"],
    "colab": ["test_settings", "test_notebook"],
}


def replaced(node, source, old, new, start, end):
    """The source with `old` turned into `new` between two children of a node, on one line."""
    lines = source.splitlines(keepends=True)
    (row, column), (last_row, last_column) = start, end
    if row != last_row:
        return None
    line = lines[row - 1].encode()
    middle = line[column:last_column].decode()
    if middle.count(old) != 1:
        return None
    middle = middle.replace(old, new)
    lines[row - 1] = (line[:column] + middle.encode() + line[last_column:]).decode()
    return "".join(lines)


def changes(source):
    """(line, what, changed source) of every change that is tried, in the order of the file."""
    tree = ast.parse(source)
    quiet = set()  # nodes of messages and drawings
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith(("plot", "print")):
            quiet |= set(ast.walk(node))
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
            quiet |= set(ast.walk(node))
    for node in ast.walk(tree):
        if node in quiet:
            continue
        for what, text in variants(node, source):
            if text is not None and text != source:
                try:
                    ast.parse(text)
                except SyntaxError:
                    continue
                yield node.lineno, what, text


def variants(node, source):
    """(what is changed, the changed source or None) for one node of the syntax tree."""

    def span(child):
        return (child.lineno, child.col_offset), (child.end_lineno, child.end_col_offset)

    def written(text):
        start, end = span(node)
        old = ast.get_source_segment(source, node)
        return replaced(node, source, old, text, start, end) if "\n" not in old else None

    if isinstance(node, ast.BinOp) and type(node.op) in SYMBOLS:
        old = SYMBOLS[type(node.op)]
        new = SIGNS[old]
        between = span(node.left)[1], span(node.right)[0]
        yield f"{old} becomes {new}", replaced(node, source, old, new, *between)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SYMBOLS:
        old = SYMBOLS[type(node.ops[0])]
        between = span(node.left)[1], span(node.comparators[0])[0]
        new = COMPARISONS[old]
        yield f"{old} becomes {new}", replaced(node, source, old, new, *between)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} becomes {not node.value}", written(str(not node.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        new = node.value + 1 if isinstance(node.value, int) else node.value * 2
        yield f"{node.value} becomes {new}", written(repr(new))
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        test = ast.get_source_segment(source, node.test)
        start, end = span(node.test)
        if "\n" not in test:
            new = f"(not ({test}))"
            yield f"if {test} is turned round", replaced(node, source, test, new, start, end)
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            text = ast.get_source_segment(source, keyword)
            if keyword.arg and "\n" not in text:
                start, end = span(keyword)
                yield f"{text} is left out", left_out(source, start, end)


def left_out(source, start, end):
    """The source without an argument and the comma behind or before it."""
    lines = source.splitlines(keepends=True)
    if start[0] != end[0]:
        return None
    line = lines[start[0] - 1].encode()
    before = line[: start[1]].decode()
    behind = line[end[1] :].decode()
    if behind.startswith(","):
        behind = behind[1:].lstrip(" ") if before.strip() else behind[1:]
    elif before.rstrip().endswith(","):
        before = before.rstrip()[:-1]
    lines[start[0] - 1] = before + behind
    return "".join(lines)


def draw():
    """Draw the changes: NUMBER of them, at least LEAST in each folder."""
    rng = random.Random(SEED)
    drawn = []
    for place, (_, patterns) in enumerate(FOLDERS.items()):
        files = sorted(path for pattern in patterns for path in TOP.glob(pattern))
        files = [path for path in files if path.name not in ("diagram.py", "sample.py")]
        candidates = []
        for path in files:
            source = path.read_text(encoding="utf-8")
            lines = source.splitlines()
            name = path.relative_to(TOP).as_posix()
            for line, what, _ in changes(source):
                candidates.append((name, lines[line - 1].strip(), what))
        wanted = NUMBER - 2 * LEAST if place == 0 else LEAST
        drawn += sorted(rng.sample(candidates, wanted))
    return drawn


def tests_of(name):
    """The test files that concern a file of the product."""
    stem = Path(name).stem
    names = [f"test_{stem}", *TESTS.get(stem, [])]
    if name.startswith("experiments/"):
        names.append("test_experiments")
    files = [f"tests/{test}.py" for test in names if (TOP / "tests" / f"{test}.py").exists()]
    return files or ["tests/test_main.py", "tests/test_notebook.py"]


def survives(name, line, what):
    """Try one change in a copy of the checkout; True where all tests stay green."""
    source = (TOP / name).read_text(encoding="utf-8")
    lines = source.splitlines()
    found = [
        text
        for number, said, text in changes(source)
        if (lines[number - 1].strip(), said) == (line, what)
    ]
    if not found:
        return None  # the file has moved on since the list was drawn
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".git", ".venv*", "runs", "data", "__pycache__")
        shutil.copytree(TOP, copy, ignore=ignored, symlinks=True)
        (copy / name).write_text(found[0], encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        try:
            run = subprocess.run(
                [*command, *tests_of(name)], cwd=copy, capture_output=True, timeout=600
            )
        except subprocess.TimeoutExpired:
            return False  # it hangs: seen
        return run.returncode == 0


def main(arguments):
    if arguments == ["draw"]:
        rows = [json.dumps(row) for row in draw()]
        LIST.write_text("\n".join(rows) + "\n", encoding="utf-8")
        print(f"{len(rows)} changes in {LIST}")
        return
    rows = [json.loads(row) for row in LIST.read_text(encoding="utf-8").splitlines()]
    first, last = map(int, arguments[1:]) if len(arguments) == 3 else (1, len(rows))
    for number, row in list(enumerate(rows, start=1))[first - 1 : last]:
        result = {True: "SURVIVES", False: "killed", None: "gone"}[survives(*row)]
        print(f"{number:2} {result:8} {row[0]}: {row[2]} in `{row[1]}`", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Run the notebook from top to bottom without a browser, as `make run` does.

    python tests/run_notebook.py S10_model.ipynb runs/notebook -p data sample -p limit 100

Parameters replace the values in the cell that is tagged `parameters`. Written to the folder: the executed notebook and
an HTML page of it; the notebook itself writes its figures and results there (its parameter `out`).
"""

import argparse
import json
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

# On a narrow page nbconvert cuts code off, breaks outputs in the middle of a word, and makes figures too small to read
STYLE = """
.jp-InputArea-editor, .jp-OutputArea-output, .jp-RenderedMarkdown { overflow-x: auto !important }
.jp-OutputArea-output pre { white-space: pre !important }
.jp-RenderedImage img { min-width: 600px }
@media (max-width: 600px) { body.jp-Notebook { padding: 4px } }
"""


class Echo(NotebookClient):
    """Shows what the cells print while they run."""

    def process_message(self, message, cell, cell_index):
        if message["msg_type"] == "stream":
            print(message["content"]["text"], end="", flush=True)
        return super().process_message(message, cell, cell_index)


def set_parameters(notebook, values):
    """Put values into the parameters cell, and give it: `name = old  # comment` becomes `name = new  # comment`."""
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for name, value in values.items():
        text = value if re.fullmatch(r"\d+|None|True|False", value) else json.dumps(value)
        pattern = rf"^{name} = (\"[^\"]*\"|'[^']*'|\S+)"
        cell.source, found = re.subn(pattern, lambda _, new=f"{name} = {text}": new, cell.source, flags=re.MULTILINE)
        if not found:
            raise SystemExit(f"{name!r} is no parameter of the notebook: see its cell tagged `parameters`")
    return cell


def export(notebook, path):
    """Write the notebook as one HTML file, which can be read on a phone as well."""
    page, _ = HTMLExporter().from_notebook_node(notebook)
    path.write_text(page.replace("</head>", f"<style>{STYLE}</style></head>", 1), encoding="utf-8")


def run(path, out, values):
    """Execute the notebook in the repository's folder; returns the executed notebook's path."""
    notebook = nbformat.read(path, as_version=4)
    set_parameters(notebook, {"out": str(out), **values})
    out.mkdir(parents=True, exist_ok=True)
    client = Echo(
        notebook, timeout=None, kernel_name="python3", coalesce_streams=True, resources={"metadata": {"path": "."}}
    )
    failure = None
    try:
        client.execute()
    except CellExecutionError as error:
        failure = f"{error.ename}: {error.evalue}"
    executed = out / Path(path).name
    nbformat.write(notebook, executed)
    export(notebook, executed.with_suffix(".html"))
    if failure:
        raise SystemExit(f"the notebook stopped: {failure}\nsee {executed}")
    return executed


def main():
    parser = argparse.ArgumentParser(description="Run the notebook without a browser.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path, help="folder for the notebook, its HTML, the figures and the results")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    args = parser.parse_args()
    executed = run(args.notebook, args.out, dict(args.p))
    print(
        f"\nnotebook: {executed}\nHTML:     {executed.with_suffix('.html')}\nfigures:  {args.out}/*.png",
        file=sys.stdout,
    )


if __name__ == "__main__":
    main()

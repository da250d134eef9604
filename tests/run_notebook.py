"""Run the notebook from top to bottom without a browser, as `make run` does.

    python tests/run_notebook.py S10_model.ipynb runs/notebook -p data sample -p limit 100

Parameters replace the values in the cell that is tagged `parameters`. The executed notebook and an
HTML page of it are written to the folder; the notebook itself writes its figures to misc/ and its
weights to runs/.
"""

import argparse
import asyncio
import html
import json
import re
import signal
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter

# Parameters that are numbers; all others are texts: a folder 2024
NUMBERS = (
    "epochs",
    "batch_size",
    "limit",
    "seed",
    "lr_max",
    "lr_min",
    "workers",
    "resume",
    "drive",
)
PLAIN = re.compile(r"-?\d+|\d*\.?\d+(e-?\d+)?|None|True|False")
NO_ALT = 'alt="No description has been provided for this image"'  # nbconvert's
# On a narrow page nbconvert cuts code off, breaks outputs in the middle of a word, and makes
# figures too small to read; source code in a Markdown output gets the letters of prose
STYLE = """
.jp-RenderedMarkdown .highlight pre { font-family: var(--jp-code-font-family) }
.jp-RenderedMarkdown .highlight pre { font-size: var(--jp-code-font-size) }
.jp-InputArea-editor, .jp-OutputArea-output, .jp-RenderedMarkdown { overflow-x: auto !important }
.jp-OutputArea-output pre { white-space: pre !important }
.jp-RenderedImage img { min-width: 600px }
@media (max-width: 600px) { body.jp-Notebook { padding: 4px } }
"""


class Echo(NotebookClient):
    """Shows what the cells print while they run.

    Ctrl-C interrupts the cell; nbclient itself would kill the kernel.
    """

    interrupted = False

    async def async_start_new_kernel(self, **options):
        def interrupt():
            self.interrupted = True
            if self.km.has_kernel:
                self.interrupting = asyncio.ensure_future(self.km.interrupt_kernel())

        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        await super().async_start_new_kernel(**options)

    def process_message(self, message, cell, cell_index):
        if message["msg_type"] == "stream":
            print(message["content"]["text"], end="", flush=True)
        return super().process_message(message, cell, cell_index)


def set_parameters(notebook, values):
    """Put values into the parameters cell, and return it; the comments behind them stay."""
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for name, value in values.items():
        plain = name in NUMBERS and PLAIN.fullmatch(value)
        text = value if plain else json.dumps(value, ensure_ascii=False)
        pattern = rf"^{name} = (\"(?:\\.|[^\"\\])*\"|'[^']*'|\S+)"
        cell.source, found = re.subn(
            pattern, lambda _, new=f"{name} = {text}": new, cell.source, flags=re.MULTILINE
        )
        if not found:
            raise SystemExit(
                f"{name!r} is no parameter of the notebook: see its cell tagged `parameters`"
            )
    return cell


def export(notebook, path):
    """Write the notebook as one HTML file, with the figures' own alt texts."""
    page, _ = HTMLExporter().from_notebook_node(notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            metadata = output.get("metadata", {})
            alt = metadata.get("alt") or metadata.get("image/png", {}).get("alt")
            if alt:  # in the order of the page
                page = page.replace(NO_ALT, f'alt="{html.escape(alt)}"', 1)
    path.write_text(page.replace("</head>", f"<style>{STYLE}</style></head>", 1), encoding="utf-8")


def run(path, out, values):
    """Execute the notebook in the current folder.

    Returns the path of what was executed, and what stopped it (None: nothing).
    """
    notebook = nbformat.read(path, as_version=4)
    set_parameters(notebook, values)
    out.mkdir(parents=True, exist_ok=True)
    client = Echo(
        notebook,
        timeout=None,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": "."}},
    )
    failure = None
    try:
        client.execute()
    except CellExecutionError as error:
        failure = f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        failure = (
            "its kernel died, most often for want of memory: take a smaller BATCH_SIZE or LIMIT"
        )
    except RuntimeError as error:
        failure = f"its kernel did not start: {error}"
    except KeyboardInterrupt:  # before there was a kernel
        client.interrupted = True
    if client.interrupted:
        failure = "interrupted; the same command goes on after the last finished epoch"
    executed = out / Path(path).name
    nbformat.write(notebook, executed)
    export(notebook, executed.with_suffix(".html"))
    return executed, failure


def main():
    parser = argparse.ArgumentParser(description="Run the notebook without a browser.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path, help="folder for the executed notebook and its HTML page")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter"
    )
    args = parser.parse_args()
    executed, failure = run(args.notebook, args.out, dict(args.p))
    print(f"\nnotebook: {executed}\nHTML:     {executed.with_suffix('.html')}")
    if failure:
        sys.exit(f"the notebook stopped: {failure}")


if __name__ == "__main__":
    main()

"""Run the notebook where people run it: in JupyterLab, in a real browser (`make test-browser`).

    python tests/browser.py [runs/browser]      # the folder for the screenshots: look at them

One story, each step of which needs the one before; so it is a script, and no pytest file.
JupyterLab serves a copy of the repository; Chromium chooses Run All Cells from the menu; then it
trains once more, interrupts, and goes on. At the end come the pages for a person to look at: light
and dark, and the HTML export on a phone.
"""

import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
from PIL import Image
from playwright.sync_api import sync_playwright
from rendered import check_outputs, images
from run_notebook import export, set_parameters

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "S10_model.ipynb"
CHROMIUM = Path("/usr/bin/chromium")  # Debian's; elsewhere Playwright's own
# The real network, few images: 80 steps in the range test, 3 epochs of 10, which is long enough to
# be interrupted
SETTINGS = dict(
    data="sample",
    profile="quick",
    limit="80",
    epochs="3",
    batch_size="8",
    workers="0",
    out="runs/first",
)
SECONDS = 900  # for all cells, on a slow and busy machine
TOKEN = "for-this-test-only"
QUIET = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}
}

PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent)"
IDLE = f"!{PROMPTS}.some(text => text.includes('*'))"
IN_EPOCH_2 = "/epoch 2\\/3: +\\d+%/.test(document.querySelector('.jp-Notebook').textContent)"
# Counts the progress bars that the notebook shows at once, for as long as it runs
WATCH_BARS = """() => { window.bars = 0; new MutationObserver(() => {
    const shown = document.querySelector('.jp-Notebook').textContent.match(/\\d+%\\|/g) || []
    window.bars = Math.max(window.bars, shown.length)
}).observe(document.querySelector('.jp-Notebook'),
           {subtree: true, childList: true, characterData: true}) }"""
SIZES = "all => all.map(i => [i.naturalWidth, i.naturalHeight, i.getBoundingClientRect().width])"
SCROLL = """(root, top) => new Promise(done => {
    root.scrollTop = top; requestAnimationFrame(done)
})"""
SEAM = 8  # dots: two screenshots overlap, where the view has a faint rim
# What ends to the right of the page, and has no bar to scroll it by
STICKING_OUT = """page => [
    ...page.querySelectorAll('img, table, pre, p, li, h1, h2, h3')
].filter(e => {
    const hasBar = e => /auto|scroll/.test(getComputedStyle(e).overflowX)
    const scrolls = e => e !== page && (hasBar(e) || scrolls(e.parentElement))
    const edge = page.getBoundingClientRect().right + 1
    return e.getBoundingClientRect().right > edge && !scrolls(e)
}).map(e => e.outerHTML.slice(0, 200))"""


def copy_of_repository(folder):
    """The working tree without what was made in it, and the notebook without outputs."""
    made = shutil.ignore_patterns(
        ".git", ".venv*", "data", "runs", "__pycache__", ".*_cache", "*.pt"
    )
    shutil.copytree(ROOT, folder, ignore=made)
    notebook = nbformat.read(folder / NOTEBOOK, as_version=4)
    set_parameters(notebook, SETTINGS)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / NOTEBOOK)


@contextlib.contextmanager
def jupyterlab(folder, home):
    """Serve JupyterLab from `folder`, without the reader's own settings; gives its address."""
    (home / "labconfig").mkdir(parents=True)
    (home / "labconfig/default_setting_overrides.json").write_text(
        json.dumps(QUIET), encoding="utf-8"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        name: str(home)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | own
    options = [
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}",
    ]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *options]
    address, log = f"http://127.0.0.1:{port}", home / "log.txt"
    with open(log, "w", encoding="utf-8") as file:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + SECONDS
        while not answers(f"{address}/api?token={TOKEN}"):
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.2)
        yield f"{address}/lab/tree/{NOTEBOOK}?token={TOKEN}"
    finally:
        server.terminate()  # it ends its kernels
        server.wait(60)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def menu(page, *path):
    """Choose from the menu bar, as a person does: menu(page, "Run", "Run All Cells")."""
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{path[0]}$")).click()
    for name in path[1:]:
        page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{name}$")).last.click()


def run_all(page):
    menu(page, "Run", "Run All Cells")
    page.wait_for_function(f"() => {PROMPTS}.some(text => text.includes('*'))")


def cell(page, words):
    """The code cell with these words in it."""
    return page.locator(".jp-CodeCell", has=page.locator(".jp-InputArea", has_text=words))


def errors(page):
    shown = page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]')
    return shown.all_text_contents()


def wait_for_last_cell(page):
    """Until nothing runs any more; then no cell may have an error, and the last one must have been
    run.
    """
    page.wait_for_function(f"() => {IDLE}")
    assert not errors(page), errors(page)[0][-3000:]
    assert re.search(r"\d", page.evaluate(PROMPTS)[-1]), "the last cell was not run"


def check_page(name, root):
    """Every figure is an image with a size, and nothing sticks out of the page."""
    sizes = root.locator('img[src^="data:image/png"]').evaluate_all(SIZES)
    assert all(min(size) > 0 for size in sizes), f"{name}: a figure without a size: {sizes}"
    assert not (out := root.evaluate(STICKING_OUT)), f"{name}: wider than the page: {out}"
    return len(sizes)


def save_notebook(page, path):
    """Choose Save from the menu; gives the notebook as the disk has it then."""
    before = path.stat().st_mtime_ns
    menu(page, "File", "Save Notebook")
    page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")
    assert path.stat().st_mtime_ns > before
    return nbformat.read(path, as_version=4)


def run_once(page, path):
    """Run All Cells: no error, every figure, one progress bar at a time and none that stays."""
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.evaluate(WATCH_BARS)
    run_all(page)
    wait_for_last_cell(page)
    assert page.evaluate("window.bars") == 1, (
        f"{page.evaluate('window.bars')} progress bars at once"
    )
    notebook = save_notebook(page, path)
    check_outputs(notebook)
    assert check_page("JupyterLab", page.locator(".jp-Notebook")) == len(images(notebook)) > 10


def interrupt_and_go_on(page, path):
    """Another run, interrupted while it trains: a sentence says what is kept, and Run All Cells
    goes on from there.
    """
    parameters = set_parameters(nbformat.read(path, as_version=4), {"out": "runs/second"})
    cell(page, "resume = True").locator(".cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(parameters.source)
    run_all(page)
    output = cell(page, "train.fit(").locator(".jp-OutputArea")
    page.wait_for_function(f"() => {IN_EPOCH_2} || {IDLE}")
    menu(page, "Kernel", "Interrupt Kernel")
    page.wait_for_function(f"() => {IDLE}")
    shown = output.text_content()
    assert (
        "interrupted in epoch 2, which is lost; the epochs before are kept in runs/second" in shown
    ), shown
    run_all(page)
    wait_for_last_cell(page)
    assert "resumed after epoch 1 of 3" in page.locator(".jp-Notebook").text_content()
    assert "epoch 3/3" in output.text_content() and "epoch 2/3" in output.text_content()
    check_outputs(save_notebook(page, path))


def photograph(page, root, path):
    """All that `root` scrolls through as one tall image; Chromium's own end at 16,384 dots."""
    page.add_style_tag(
        content=".jp-Cell { content-visibility: visible !important }"
    )  # else the height is a guess
    height, step = root.evaluate("root => [root.scrollHeight, root.clientHeight]")
    box = root.bounding_box()
    tall = Image.new("RGB", (int(box["width"]), height))
    for top in [*range(0, height - step, step - SEAM), height - step]:
        root.evaluate(
            SCROLL,
            top,
        )
        shot = Image.open(io.BytesIO(page.screenshot(clip=box | dict(height=step))))
        cut = SEAM if top else 0
        tall.paste(shot.crop((0, cut, *shot.size)), (0, top + cut))
    tall.save(path)


def photograph_lab(page, out):
    """The notebook in both themes; check_page has its say in each."""
    for theme in ("Light", "Dark"):
        menu(page, "Settings", "Theme", f"JupyterLab {theme}")
        page.locator(f'body[data-jp-theme-name="JupyterLab {theme}"]').wait_for(state="attached")
        photograph(page, page.locator(".jp-WindowedPanel-outer"), out / f"lab-{theme.lower()}.png")


def photograph_phone(chromium, notebook, out):
    """The HTML export of `notebook` on a phone, without a network."""
    export(notebook, out / "phone.html")
    page = chromium.new_page(viewport=dict(width=390, height=844))
    page.route(re.compile("^https?:"), lambda route: route.abort())
    page.goto((out / "phone.html").as_uri())
    check_page("phone", page.locator("body"))
    page.screenshot(path=out / "phone.png", full_page=True)


def main():
    out = (ROOT / (sys.argv[1] if len(sys.argv) > 1 else "runs/browser")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path, home = Path(folder, "copy", NOTEBOOK), Path(folder, "home")
        copy_of_repository(path.parent)
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM if CHROMIUM.exists() else None
        )
        with jupyterlab(path.parent, home) as address:
            page = chromium.new_page(viewport=dict(width=1280, height=900))
            page.set_default_timeout(SECONDS * 1000)
            page.goto(address)
            try:
                run_once(page, path)
                print("ran all cells")
                interrupt_and_go_on(page, path)
                print("interrupted, and went on")
                photograph_lab(page, out)
            finally:
                page.screenshot(path=out / "last.png")  # where a check failed, what it saw
        photograph_phone(chromium, nbformat.read(path, as_version=4), out)
    print(f"all is well; look at the screenshots: {out}/*.png")


if __name__ == "__main__":
    main()

"""How soon something happens: from the command to the first training batch, --help, and refusals.

The first batch is timed on two cores, without what PyTorch itself imports: `import torch`, and what
its first optimizer loads (torch._dynamo); both are timed in the same process.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.common import HERE, command, goal, noise_data, row

ROOT = HERE.parent
# `python main.py …`, but the range test is skipped, and the first training batch ends it
CHILD = """
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
start, times = float(sys.argv.pop(1)), [time.perf_counter()]  # one clock for all processes
import torch
times.append(time.perf_counter())
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
times.append(time.perf_counter())
import main
from extras import lr_finder

def first_batch(module, inputs):
    if module.training:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ours = time.perf_counter() - start - (times[2] - times[0])
        print("FIRST", ours, times[1] - times[0], times[2] - times[1], flush=True)
        os._exit(0)

lr_finder.find_lr = lambda *_, **__: lr_finder.RangeTest([], [], [], 1e-4, 1e-2, 1e-2, 1e-3, 1e-3)
torch.nn.modules.module.register_module_forward_pre_hook(first_batch)
main.main(sys.argv[1:])
"""
REFUSED = (
    ["--epochs", "0"],
    ["--limit", "5"],
    ["--seed", "-1"],
    ["--loader", "x"],
    ["--data", "x"],
    ["--evaluate", "x"],
)


def make_folder(folder, n):
    """n training and n / 5 test images as PNG files in class folders."""
    for split, count in (("train", n), ("test", n // 5)):
        data = noise_data(count).train
        for i, (image, target) in enumerate(zip(data.data, data.targets, strict=True)):
            place = folder / split / data.classes[target]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i:05d}.png", compress_level=1)


def first_batch(images, loader, work):
    """Start a run in the folder `work`, which holds its cache of decoded images.

    Returns:
        Seconds to the first batch without PyTorch's own imports, of `import torch`, of what an
        optimizer imports.
    """
    arguments = ["--data", str(images), "--loader", loader, "--out", "out", "--no-resume"]
    environment = os.environ | dict(
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    )
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(time.perf_counter()), *arguments],
        capture_output=True,
        text=True,
        cwd=work,
        env=environment,
    )
    for line in done.stdout.splitlines():
        if line.startswith("FIRST"):
            return [float(number) for number in line.split()[1:]]
    raise RuntimeError(f"main.py did not come to its first batch:\n{done.stdout}\n{done.stderr}")


def answer(arguments, code):
    """Seconds that main.py takes for arguments that end it at once, with the given exit code."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "main.py", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode != code:
        raise RuntimeError(
            f"main.py {' '.join(arguments)} ended with {done.returncode}, not {code}:\n{done.stderr}"
        )
    return time.perf_counter() - start


def measure(size):
    loaders, repeats, times = (
        (["device"], 1, {}) if size.tiny else (["device", "albumentations"], 3, {})
    )
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        make_folder(images, 50 if size.tiny else 2000)
        for loader in loaders:
            work = Path(folder, loader)
            work.mkdir()
            for turn in range(1 + repeats):
                cache = "no cache" if turn == 0 else "cached images"
                names = (
                    f"first batch, {loader}, {cache}",
                    "left out: import torch",
                    "left out: torch's first optimizer",
                )
                for name, seconds in zip(names, first_batch(images, loader, work), strict=True):
                    times.setdefault(name, []).append(seconds)
    times["--help"] = [answer(["--help"], 0) for _ in range(repeats)]
    refusals = REFUSED[:1] if size.tiny else REFUSED
    times["refusal, the slowest"] = max(
        ([answer(one, 2) for _ in range(repeats)] for one in refusals), key=min
    )
    rows = {name: row(name, seconds, "s") for name, seconds in times.items()}
    goals = [goal(rows["first batch, device, cached images"], "at most", 3)]
    goals += [goal(rows[name], "at most", 1) for name in ("--help", "refusal, the slowest")]
    return list(rows.values()), goals


if __name__ == "__main__":
    command("start", measure)

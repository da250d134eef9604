"""How long does it take from the start of `train.py` until the network gets its first training batch?

Without `import torch`, whose time is taken in the same process, and without the range test. DATA= names the folder of
pictures or CIFAR-10 root; without it, a folder of PNG files is made. See benchmarks/README.md.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.common import goal, main, noise_data, rows_of

SIZES = dict(
    tiny=dict(pictures=50, repeats=1, loaders=["device"]),
    cpu=dict(pictures=2_000, repeats=3, loaders=["albumentations", "device"]),
    cuda=dict(pictures=2_000, repeats=2, loaders=["albumentations", "device"]),
)
ROOT = Path(__file__).parent.parent
# `python train.py …` on two cores, but: the range test is skipped, and the first training batch ends it.
CHILD = """
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
began, before = float(sys.argv.pop(1)), time.perf_counter()  # one clock for all processes
import torch
after = time.perf_counter()
import torchvision
vision = time.perf_counter()
import train, run
import lr_finder

def first_batch(module, inputs):
    if module.training:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print("FIRST", time.perf_counter() - began - (after - before), after - before, vision - after, flush=True)
        sys.exit()

run.find_lr = lambda *ignored, **too: lr_finder.RangeTest(1e-4, 1e-2, [1e-4], [2.3], [2.3])
torch.nn.modules.module.register_module_forward_pre_hook(first_batch)
train.main(sys.argv[1:])
"""


def make_folder(folder, n):
    """n training and n / 5 test pictures as PNG files in class folders."""
    for split, count in (("train", n), ("test", n // 5)):
        data = noise_data(count).train
        for i, (picture, target) in enumerate(zip(data.data, data.targets, strict=True)):
            place = folder / split / data.classes[target]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place / f"{i:05d}.png", compress_level=1)


def start(pictures, loader, work):
    """Start a run in the folder `work`, which holds its cache.

    Returns:
        Seconds to the first batch without `import torch`, of `import torch`, of `import torchvision`.
    """
    command = [sys.executable, "-c", CHILD, str(time.perf_counter()), "--data", str(pictures), "--loader", loader]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | dict(PYTHONPATH=paths)
    command += ["--out", "out", "--no-resume"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, env=environment)
    for text in done.stdout.splitlines():
        if text.startswith("FIRST"):
            return tuple(float(number) for number in text.split()[1:])
    raise RuntimeError(f"train.py did not come to its first batch:\n{done.stdout}\n{done.stderr}")


def measure(device, sizes):
    """Every repeat begins with an empty cache: a first start with each loader, then a second one."""
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        given = os.environ.get("DATA", "")
        pictures = Path(given).resolve() if given else Path(folder, "pictures")
        if not given:
            make_folder(pictures, sizes["pictures"])
        for repeat in range(sizes["repeats"]):
            for loader in sizes["loaders"]:
                work = Path(folder, f"{loader}-{repeat}")
                work.mkdir()
                for which in ("first", "second"):
                    names = (f"{which} start, {loader}", "left out: import torch", "counted in: import torchvision")
                    for name, seconds in zip(names, start(pictures, loader, work), strict=True):
                        times.setdefault(name, []).append(seconds)
    rows = [rows_of(name, seconds) for name, seconds in times.items()]
    name = f"second start, {sizes['loaders'][0]}"
    value = next(one["value"] for one in rows if one["name"] == name)
    return rows, [goal(f"{name}, two cores", "at most", 3, value)]


if __name__ == "__main__":
    main("start", measure, SIZES)

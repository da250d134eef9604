"""How fast it is, side by side.

python -m benchmarks                    all of it, also `make bench`; writes results-cpu.json
python -m benchmarks step --repeats 9   one of them: printed only
"""

import argparse
import importlib
import re
import sys
from pathlib import Path

from benchmarks.common import Sizes
from extras import hardware, report

NAMES = ("pipeline", "step", "epoch", "scaling")


def parse(arguments, device):
    """The command line; by default, sizes that take minutes on a CPU of 60 images/s or on a GPU."""
    on_cpu = device.type == "cpu"
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast it is.")
    add = parser.add_argument
    add("name", nargs="?", choices=NAMES, help="one of them (default: all)")
    add("--images", type=int, default=512 if on_cpu else 10_240, help="in an epoch (%(default)s)")
    add("--batch-size", type=int, default=64 if on_cpu else 512, help="(%(default)s)")
    add("--repeats", type=int, default=5, help="rounds that count (%(default)s)")
    add("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    return parser.parse_args(arguments)


def main(arguments=None):
    device = hardware.pick_device()
    hardware.set_deterministic(False)  # as in a run: cuDNN picks its fastest algorithms
    args = parse(arguments, device)
    sizes = Sizes(device, args.batch_size, args.images, args.repeats)
    rows, goals = [], []
    for name in [args.name] if args.name else NAMES:
        found = importlib.import_module(f"benchmarks.{name}").measure(sizes)
        for kept, new in zip((rows, goals), found, strict=True):
            kept += [{"benchmark": name, **each} for each in new]
    for row in rows:
        print(f"{row['benchmark']}: {row['name']}: {row['value']:,.4g} {row['unit']}")
    for goal in goals:
        verdict = "met" if goal["met"] else "MISSED"
        print(f"{goal['name']}: {goal['value']:.3g}, {goal['sense']} {goal['goal']:g}: {verdict}")
    if args.name:
        return
    name, place, versions = hardware.device_name(device), "cpu", report.versions()
    if device.type != "cpu":
        place = re.sub(r"[^a-z0-9]+", "-", name.lower())
        name = f"{name}, {hardware.cpu_name()}"
    if "kornia" in sys.modules:
        versions["kornia"] = sys.modules["kornia"].__version__
    about = {"benchmark": ", ".join(NAMES), "device": name, "versions": versions}
    path = args.out / f"results-{place}.json"
    path.write_bytes(report.to_json({**about, "rows": rows, "goals": goals}))
    print(path)


if __name__ == "__main__":
    main()

"""The settings of a run: profiles, device, precision, and where its output goes.

    settings = choose("auto", device, epochs=None, batch_size=None, limit=None)     # None: as the
    profile says figures, runs = output_folders(data, settings, drive=False)

Nothing here imports PyTorch before it is needed, so that a wrong argument is refused at once.
"""

import dataclasses
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from extras.files import lock

PROFILES = ("auto", "full", "quick")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DRIVE = Path("/content/drive")  # where Colab has Google Drive
LOCK_SECONDS = 8  # the workers of a process that was killed hold its lock for up to 5 seconds more
# bytes of a run: two checkpoints and the one being written (79 MB each), weights, figures
ROOM = 270_000_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long a run is: `limit` is the number of training images (None: all), `iterations` the
    range test's steps.
    """

    profile: str
    epochs: int
    batch_size: int
    limit: int | None
    iterations: int

    def describe(self):
        images = "all images" if self.limit is None else f"{self.limit:,} training images"
        text = f"profile {self.profile}: {self.epochs} epochs of {images}, batches of {self.batch_size}"
        short = "\nThis is a short run; profile full takes minutes on a GPU, hours on a CPU"
        return text + short * (self.profile == "quick")


FULL = Settings("full", epochs=24, batch_size=512, limit=None, iterations=100)
# 80 * 32 in the range test + 5 * (2,000 + 400) + 400 for the figures: 14,960 images go through the
# network
QUICK = Settings("quick", epochs=5, batch_size=32, limit=2000, iterations=80)


def choose(profile="auto", device="cpu", *, epochs=None, batch_size=None, limit=None):
    """The settings of a profile ("auto": full on an accelerator, quick on a CPU), with what is
    given in their place.

    Raises ValueError where a value makes no sense; the valid ones are named.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}: choose one of {', '.join(PROFILES)}")
    base = QUICK if profile == "quick" or (profile == "auto" and str(device) == "cpu") else FULL
    given = dict(epochs=epochs, batch_size=batch_size, limit=limit)
    for name, value in given.items():
        if value is not None:
            check_int(name.replace("_", " "), value, 10 if name == "limit" else 1)
    return dataclasses.replace(
        base, **{name: value for name, value in given.items() if value is not None}
    )


def check_int(name, value, least):
    """Refuse what is not a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}: give a whole number, {least} or more")


def pick_device():
    """CUDA where there is one, else Apple's MPS, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name(device, processes=1):
    """For people: "NVIDIA H200", "2 × Tesla T4", "Apple MPS", "AMD EPYC, 2 threads"."""
    import torch

    kind, threads = torch.device(device).type, torch.get_num_threads()
    if kind == "cpu":
        name = f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}"
    else:
        name = torch.cuda.get_device_name(device) if kind == "cuda" else "Apple MPS"
    return f"{processes} × {name}" if processes > 1 else name


def cpu_name():
    found = re.search(r"model name\s*:\s*(.+)", cpu_info())
    return " ".join(found[1].split()) if found else "CPU"


def cpu_info():
    """What Linux says of the processor; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.exists() else ""


def cpu_has_bfloat16():
    """Does the processor compute in bfloat16 (AVX512_BF16 or AMX)? Without, it is up to 16 times
    slower (#183815).
    """
    import torch

    if hasattr(torch.cpu, "get_capabilities"):  # from torch 2.14 on
        known = torch.cpu.get_capabilities()
        return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", cpu_info()))


def choose_precision(precision, device, before=None):
    """The precision of a run, as the name of a torch dtype, and why, in a few words.

    "auto" is bfloat16 on CUDA from compute capability 8.0 on, else float16; on a CPU bfloat16 where
    the processor computes it; float32 elsewhere. A run that goes on keeps its precision `before`
    where the device can.
    """
    import torch

    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: choose one of {', '.join(PRECISIONS)}")
    kind = torch.device(device).type
    if kind == "cuda":
        # torch.cuda.is_bf16_supported() says yes on a T4 too, where bfloat16 is emulated and slow
        modern = torch.cuda.get_device_capability(device) >= (8, 0)
        best, why = (
            ("bfloat16", "this GPU computes it")
            if modern
            else ("float16", "this GPU has no bfloat16")
        )
        possible = {"float32", "float16"} | ({"bfloat16"} if modern else set())
    elif kind == "cpu" and cpu_has_bfloat16():
        best, why, possible = (
            "bfloat16",
            "this processor computes it, twice as fast",
            {"float32", "bfloat16"},
        )
    else:
        best, why, possible = "float32", "bfloat16 would be slower here", {"float32"}
    if precision != "auto":
        if kind == "cpu" and precision == "float16":
            raise ValueError(
                "precision is 'float16' on a CPU, where it is slow and inexact: choose auto or float32"
            )
        return precision, "as asked for"
    if before in possible:
        return before, "as before the interruption"
    return (
        (best, why) if before is None else (best, f"{why}; before the interruption it was {before}")
    )


def set_deterministic(deterministic):
    """The same result to the last bit, run after run, or (the default) cuDNN's fastest
    algorithms.
    """
    import torch

    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def run_config(data, settings, seed, recipe, model="s10_model"):
    """What makes a run the run it is: a checkpoint is resumed only where all of it is the same."""
    recipe = dict(recipe, iterations=settings.iterations)
    config = dict(
        model=model, data=data.name, fingerprint=data.fingerprint, limit=data.limit, recipe=recipe
    )
    return config | dict(epochs=settings.epochs, batch_size=settings.batch_size, seed=seed)


def lock_folder(folder):
    """Make a run's folder, and keep other processes out of it for as long as this process lives.

    Raises ValueError where another process uses it, or it cannot be written.
    """
    try:
        return lock(Path(folder).expanduser() / ".lock", timeout=LOCK_SECONDS)
    except TimeoutError:
        raise ValueError(
            f"{folder} is in use by another process: wait for it, or choose another folder"
        ) from None
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be written: {error.strerror}") from None


def run_name(data, settings):
    """The name of a run's folders: "" for the assignment's own run, else what it was ("sample",
    "quick", "photos").
    """
    if data.kind == "cifar10":
        if data.limit is None and (settings.epochs, settings.batch_size) == (
            FULL.epochs,
            FULL.batch_size,
        ):
            return ""
        return "quick" if settings.profile == "quick" else f"cifar10-{len(data.train)}"
    name = (
        "sample"
        if data.kind == "sample"
        else re.sub(r"[^\w.-]+", "-", data.name).strip(".-") or "folder"
    )
    if data.kind == "folder" and name in ("sample", "quick", "full"):
        name += "-folder"  # those are the names of other runs
    return name if settings.profile == "quick" else f"{name}-full"


def output_folders(data, settings, out=None, drive=False, log=print):
    """Where a notebook's run writes: (folder of figures and results.json, folder of weights and
    checkpoints).

    misc/ and runs/full for all of CIFAR-10; misc/NAME and runs/NAME for any lesser run, so that it
    never overwrites what is shown. With `out`, both are that folder. With `drive`, weights and
    checkpoints go to Google Drive, where they outlive a Colab session; a Drive that cannot be used
    is said, and the run goes on without.
    """
    name = run_name(data, settings)
    figures, runs = Path("misc", name), Path("runs", name or "full")
    if out is not None:
        figures = runs = Path(out).expanduser()
    if not drive:
        return figures, runs
    there = DRIVE / "MyDrive" / "s10" / runs.relative_to(runs.anchor)
    if trouble := mount_drive(there):
        log(
            f"Google Drive is not used: {trouble}. In Colab, the files in {runs} end with the session."
        )
        return figures, runs
    log(f"Google Drive keeps this run: {there}")
    return figures, there


def mount_drive(folder):
    """Mount Google Drive in Colab and make `folder` on it; returns why it cannot be used, or None
    where it can.
    """
    if "google.colab" not in sys.modules:
        return "only Colab has it"
    from google.colab import drive

    try:
        drive.mount(str(DRIVE))
        if not (DRIVE / "MyDrive").is_dir():
            return "it is not mounted"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"room?")
        room = shutil.disk_usage(folder).free + sum(
            file.stat().st_size for file in folder.glob("*.pt")
        )
    except (
        Exception
    ) as error:  # a closed dialog, no answer, read only, full: Colab has an error for each
        return (
            getattr(error, "strerror", None) or str(error) or type(error).__name__
        ).splitlines()[0]
    return (
        f"it is full, {room / 1e6:,.0f} MB are left of {ROOM / 1e6:,.0f}" if room < ROOM else None
    )

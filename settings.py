"""Which run is this? The profiles, the device, and what is checked before any work starts.

device = pick_device()
run = choose("auto", device, epochs=None, batch_size=None, limit=None)   # None: as the profile says
out = output_folder("runs/s10", drive=True)   # on Google Drive where that can be used, else here
"""

import contextlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

PROFILES = ("auto", "full", "quick")
CPU_SPEED = 65  # pictures a second in training, measured on two cores of a server CPU (float32, channels last)
DRIVE = Path("/content/drive")  # where Colab has Google Drive
ROOM = 270_000_000  # bytes of a run: the checkpoint, the one before, the one being written (79 MB each), the weights


@dataclass(frozen=True)
class Settings:
    """How long a run is: `iterations` are the range test's steps, `limit` the training pictures (None: all)."""

    profile: str
    epochs: int
    batch_size: int
    limit: int | None
    iterations: int

    def describe(self, device):
        pictures = "all pictures" if self.limit is None else f"{self.limit:,} training pictures"
        text = f"profile {self.profile}: {self.epochs} epochs of {pictures}, batches of {self.batch_size}, "
        text += f"on {device_name(device)}"
        if self.profile == "quick":
            hours = 24 * 50_000 / CPU_SPEED / 3600
            text += (
                f".\nThis is a short run. The assignment's, profile full, takes 24 epochs of all 50,000 pictures:\n"
                f"minutes on a GPU, about {hours:.0f} hours on two CPU cores."
            )
        return text


FULL = Settings("full", epochs=24, batch_size=512, limit=None, iterations=100)
# 80 * 32 in the range test + 5 * (2,000 + 400) + 400 for the figures: 14,960 pictures go through the network
QUICK = Settings("quick", epochs=5, batch_size=32, limit=2000, iterations=80)


def choose(profile="auto", device="cpu", *, epochs=None, batch_size=None, limit=None):
    """The settings of a profile, with what is given explicitly put in their place.

    Args:
        profile: "full", "quick", or "auto": full on an accelerator, quick without one.

    Raises:
        ValueError: a value makes no sense; the valid ones are named.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}: choose one of {', '.join(PROFILES)}")
    base = QUICK if profile == "quick" or (profile == "auto" and torch.device(device).type == "cpu") else FULL
    given = dict(
        epochs=whole("epochs", epochs, 1),
        batch_size=whole("batch size", batch_size, 1),
        limit=whole("limit", limit, 10),
    )
    return Settings(
        base.profile, iterations=base.iterations, **{k: getattr(base, k) if v is None else v for k, v in given.items()}
    )


def whole(name, value, least):
    """`value` if it is None or a whole number of at least `least`."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return value
    raise ValueError(f"{name} is {value!r}: give a whole number, {least} or more")


def pick_device():
    """CUDA where there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name(device):
    """For people: "NVIDIA H200", "Apple MPS", "CPU, 2 threads"."""
    match torch.device(device).type:
        case "cuda":
            return torch.cuda.get_device_name(device)
        case "mps":
            return "Apple MPS"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


def precision(device):
    """bfloat16 from compute capability 8.0 on, float16 on older CUDA GPUs, float32 elsewhere.

    `torch.cuda.is_bf16_supported()` says yes on a T4 as well, where bfloat16 is emulated and slow.
    """
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def set_deterministic(deterministic):
    """The same result to the last bit, run after run, or (the default) cuDNN's fastest algorithms."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def output_folder(out, drive=False, log=print):
    """The folder for a run's files: `out`, or with `drive` the folder of that name on Google Drive (Colab).

    A Drive that cannot be used is no reason not to run: one line says why, and the folder is on this machine. It begins
    with the checkpoint that an earlier run left on the Drive, so that nothing is trained twice.
    """
    out = Path(out)
    if DRIVE in out.parents:  # asked again, or a path on the Drive was given
        here, there = Path(out.name), out
    elif drive:
        here, there = out, DRIVE / "MyDrive" / "s10" / out.relative_to(out.anchor)
    else:
        return out
    trouble = drive_trouble(there)
    if not trouble:
        log(f"Google Drive keeps this run: {there}")
        return there
    log(f"Google Drive is not used: {trouble}. This run's files go to {here}; in Colab they end with the session.")
    with contextlib.suppress(OSError):
        if not (here / "checkpoint.pt").exists():
            here.mkdir(parents=True, exist_ok=True)
            shutil.copy(there / "checkpoint.pt", here)
    return here


def drive_trouble(folder):
    """Mount Google Drive and make `folder` on it; why a run cannot keep its files there, or None where it can."""
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
        room = shutil.disk_usage(folder).free + sum(file.stat().st_size for file in folder.glob("*.pt"))
    except Exception as error:  # a dialog that was closed, no answer, read only, full: Colab has an error for each
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return reason.splitlines()[0]
    if room < ROOM:
        return f"it is full, {room / 1e6:,.0f} MB are left and a run takes {ROOM / 1e6:,.0f}"


def describe_run(data, model, settings, *, seed, loader, workers, recipe):
    """What makes a run the run it is; a checkpoint is resumed only where all of it is the same."""
    return dict(
        model=type(model).__name__ + ("" if getattr(model, "additions", True) else " without additions"),
        data=data.name,
        fingerprint=data.fingerprint,
        limit=settings.limit,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=seed,
        recipe=dict(recipe, iterations=settings.iterations),
        loader=loader,
        workers=0 if loader == "device" else workers,
    )

"""Google Colab and Kaggle: install what is absent there, and keep a run on Google Drive."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("torch_lr_finder", "torchsummary", "albumentations")  # what Colab or Kaggle may lack
DRIVE = Path("/content/drive")  # where Colab has Google Drive
ROOM = 270_000_000  # bytes of a run: three checkpoints of 79 MB at most, weights, figures


def install_absent():
    """Install what is missing in Colab or Kaggle, but never PyTorch: they need their own version.

    Raises RuntimeError where pip cannot.
    """
    hosted = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
    absent = [package for package in PACKAGES if find_spec(package) is None]
    if not hosted or not absent:
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", *absent]
    if subprocess.run(command).returncode:
        raise RuntimeError(
            f"{', '.join(absent)} could not be installed, see above: in Kaggle, switch on Internet "
            "in the notebook's settings first"
        )


def mount_drive(folder):
    """Mount Google Drive and make `folder` on it; returns why it cannot be used, or None."""
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
        old = sum(file.stat().st_size for file in folder.glob("*.pt"))
        room = shutil.disk_usage(folder).free + old
    except Exception as error:  # a closed dialog, no answer, read only: Colab has an error for each
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return reason.splitlines()[0]
    if room < ROOM:
        return (
            f"it is full, {room / 1e6:,.0f} MB are left of the {ROOM / 1e6:,.0f} that a run needs"
        )
    return None

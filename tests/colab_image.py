"""Make this computer look like Colab or Kaggle to the notebook (for colab.py).

`environment()` is Colab's packages, those of requirements-colab.txt; `Place` is a folder with the
rest: a repository to clone, a stand-in for `google.colab` that the kernel imports when it starts
(by a sitecustomize.py), as Colab's does, and images as Kaggle has them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
from packaging.version import Version
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "tests" / "requirements-colab.txt"
VENV = ROOT / ".venv-colab"
PYTHON = VENV / "bin" / "python"
PYTHONS = ("3.13", "3.12")  # Colab's in August 2026, and the one before

# google.colab as far as the notebook meets it
STAND_IN = {
    "google/colab/__init__.py": "",
    "google/colab/drive.py": """
import os

def mount(mountpoint):
    if "DIALOG_CLOSED" in os.environ:
        raise Exception("Error: credential propagation was unsuccessful")  # Colab's words
    os.makedirs(mountpoint + "/MyDrive", exist_ok=True)
    print("Mounted at", mountpoint)
""",
    "sitecustomize.py": "import google.colab\n",
}


def say(text):
    print(text, flush=True)


def pip(*arguments, **options):
    return subprocess.run([PYTHON, "-m", "pip", *arguments], text=True, check=True, **options)


def freeze():
    return set(pip("freeze", stdout=subprocess.PIPE).stdout.splitlines())


def environment():
    """Colab's packages in .venv-colab, made anew when the requirements have changed, and without
    torch-lr-finder.
    """
    wanted = REQUIREMENTS.read_text()
    stamp = VENV / REQUIREMENTS.name
    if not stamp.is_file() or stamp.read_text() != wanted:
        base = base_python()
        say(f"making {VENV.name} with {base}: some 5 GB are fetched, which takes minutes")
        subprocess.run([base, "-m", "venv", "--clear", VENV], check=True)
        pip("install", "--quiet", "--only-binary=:all:", *available(wanted))
        stamp.write_text(wanted)
    pip("uninstall", "--quiet", "--yes", "torch-lr-finder", stderr=subprocess.DEVNULL)
    say(
        f"{subprocess.check_output([PYTHON, '--version'], text=True).strip()}; {', '.join(sorted(pinned(freeze())))}"
    )


def base_python():
    """Colab's Python where this computer has it, else the one that runs this script."""
    for version in PYTHONS:
        own = sorted(
            Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
        )  # pyenv's shims need not work
        for python in (shutil.which(f"python{version}"), *own):
            if (
                python
                and subprocess.run(
                    [python, "-c", "import ensurepip, ssl"], capture_output=True
                ).returncode
                == 0
            ):
                return python
    say(
        f"no Python {' or '.join(PYTHONS)} here: Python {sys.version.split()[0]} stands in for Colab's"
    )
    return sys.executable


def pinned(lines):
    """Those of `name==version` lines that requirements-colab.txt has, too, by name."""
    names = set(re.findall(r"^([\w-]+)==", REQUIREMENTS.read_text(), flags=re.MULTILINE))
    return {line for line in lines if line.partition("==")[0].lower() in names}


def available(requirements):
    """The pins; one that does not exist for this Python is replaced by the next version, or else
    the last.
    """
    pins = []
    for name, version in re.findall(r"^([\w-]+)==(\S+)$", requirements, flags=re.MULTILINE):
        nearest = next(
            (v for v in versions_of(name) if v >= Version(version)), versions_of(name)[-1]
        )
        if nearest != Version(version):
            say(f"{name} {version} does not exist for this Python: {nearest} stands in")
        pins.append(f"{name}=={nearest}")
    return pins


@cache
def versions_of(name):
    """All that can be installed on this Python, the oldest first."""
    said = pip("index", "versions", name, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    versions = map(Version, re.search(r"Available versions: (.*)", said)[1].split(", "))
    return sorted(version for version in versions if not version.is_prerelease)


def make_stand_in(folder):
    for name, text in STAND_IN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def make_repository(folder):
    """A repository of the working tree as it is; returns its address."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git = ["git", "-C", folder, "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message=The working tree"], check=True)
    return folder.as_uri()


def make_images(folder):
    """Class folders as a Kaggle data set has them, PNG and JPEG of several sizes, read-only."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for channel, name in enumerate(("blue", "green", "red")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (40 + i, 48, 3), dtype=np.uint8)
                pixels[..., 2 - channel] += 100
                Image.fromarray(pixels).save(folder / split / name / f"{i}.{('png', 'jpg')[i % 2]}")


class Place:
    """Where all rehearsals take place: a folder, the repository's address, the stand-in, the
    kernel's description.
    """

    def __init__(self, folder):
        self.folder, self.stand_in = folder, folder / "stand-in"
        make_stand_in(self.stand_in)
        self.address = make_repository(folder / "repository")
        kernel = folder / "jupyter" / "kernels" / "colab"
        kernel.mkdir(parents=True)
        command = [
            str(PYTHON),
            "-Xfrozen_modules=off",
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
        ]
        text = json.dumps(dict(argv=command, display_name="Colab", language="python"))
        (kernel / "kernel.json").write_text(text)
        os.environ["JUPYTER_PATH"] = str(folder / "jupyter")

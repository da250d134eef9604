"""The settings of a run: how long it is, what identifies it, and where its output goes.

    settings = choose("auto", device, epochs=None)     # None: as the profile says
    figures, runs = output_folders(data, settings, drive=False)

Nothing here imports PyTorch before it is needed, so that a wrong argument is refused at once.
"""

import ast
import dataclasses
import functools
import re
from pathlib import Path

PROFILES = ("auto", "full", "quick")
# The functions of transform.py that decide what an augmented image looks like
AUGMENTATION = (
    "albumentations_transforms",
    "torchvision_transforms",
    "draw_epoch",
    "crop_windows",
    "augment",
)
LARGEST_SEED = 2**40  # PyTorch's generators take 64 bits, and a seed is multiplied by a million


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long a run is.

    limit: number of training images, None for all. iterations: steps of the LR range test.
    """

    profile: str
    epochs: int
    batch_size: int
    limit: int | None
    iterations: int

    def describe(self):
        images = "all images" if self.limit is None else f"{self.limit:,} training images"
        text = f"profile {self.profile}: {self.epochs} epochs of {images}, "
        text += f"batches of {self.batch_size}"
        if self.profile == "quick":
            text += "\nThis is a short run; profile full takes minutes on a GPU, hours on a CPU"
        return text


FULL = Settings("full", epochs=24, batch_size=512, limit=None, iterations=100)
# 80 * 32 in the range test, 5 * (1,940 + 388) in the epochs, 388 + 2 * 388 for the predictions:
# 15,364 images go through the network
QUICK = Settings("quick", epochs=5, batch_size=32, limit=1940, iterations=80)


def choose(profile="auto", device="cpu", *, epochs=None, batch_size=None, limit=None):
    """The settings of a profile, with what is given in their place.

    "auto" is full on an accelerator, and quick on a CPU. Raises ValueError where a value makes no
    sense; the valid ones are named.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}: choose one of {', '.join(PROFILES)}")
    is_quick = profile == "quick" or (profile == "auto" and str(device) == "cpu")
    given = {}
    for name, value in {"epochs": epochs, "batch_size": batch_size, "limit": limit}.items():
        if value is not None:
            check_int(name.replace("_", " "), value, 10 if name == "limit" else 1)
            given[name] = value
    return dataclasses.replace(QUICK if is_quick else FULL, **given)


def check_int(name, value, least, most=None):
    """Refuse what is not a whole number from `least` to `most`."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or value < least or (most is not None and value > most):
        bound = f"{least} or more" if most is None else f"{least} to {most:,}"
        raise ValueError(f"{name} is {value!r}: give a whole number, {bound}")


def check_rates(lr_max=None, lr_min=None):
    """Refuse rates given by hand that no cycle can have."""
    for name, rate in (("LRMAX", lr_max), ("LRMIN", lr_min)):
        if rate is not None and not 0 < rate < float("inf"):
            raise ValueError(f"{name} is {rate}: give a learning rate above 0, such as 0.003")
    if lr_max is not None and lr_min is not None and lr_min > lr_max:
        raise ValueError(f"LRMIN is {lr_min:g}, above LRMAX, {lr_max:g}: give it a smaller value")


def run_config(data, settings, seed, recipe, model, *, name=None, lr_max=None, lr_min=None):
    """What identifies a run: a checkpoint is resumed only where all of this is the same.

    Plain values: the network (its name, its layers' names and shapes), the data and a fingerprint
    of every pixel, the settings, the recipe, rates given by hand, and the augmentation.

    name: of the network. None: s10_model, or s10_plain where it has no skip connections: their
    layers have the same names and shapes.
    """
    import transform

    if name is None:
        name = "s10_model" if getattr(model, "residual", True) else "s10_plain"
    return {
        "network": name,
        "layers": [f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items()],
        "data": data.name,
        "fingerprint": data.fingerprint,
        "limit": data.limit,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "seed": seed,
        "iterations": settings.iterations,
        "recipe": dict(recipe),
        "lr_max": lr_max,
        "lr_min": lr_min,
        "augmentation": augmentation_identity(transform),
    }


@functools.cache  # of the code that was imported: the file may be edited later
def augmentation_identity(transform):
    """What identifies the augmentation: a dict of plain values.

    The constants of transform.py, and the code of the functions that draw, without comments,
    docstrings and layout. (A library's own description of its transforms changes with its version.)
    """
    tree = ast.parse(Path(transform.__file__).read_text(encoding="utf-8"))
    code = []
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and function.name in AUGMENTATION:
            if ast.get_docstring(function) is not None:
                del function.body[0]
            code.append(ast.unparse(function))
    return {"padding": transform.PADDING, "hole": transform.HOLE, "code": code}


def run_name(data, settings):
    """The name of a run's folders: "" for the assignment's own run, else what it was.

    "sample", "quick", "photos", "photos-full" …
    """
    is_full_size = (settings.epochs, settings.batch_size) == (FULL.epochs, FULL.batch_size)
    if data.kind == "cifar10":
        if data.limit is None and is_full_size:
            return ""
        return "quick" if settings.profile == "quick" else f"cifar10-{len(data.train)}"
    if data.kind == "sample":
        name = "sample"
    else:
        name = re.sub(r"[^\w.-]+", "-", data.name).strip(".-") or "folder"
        if name in ("sample", "quick", "full"):
            name += "-folder"  # those are the names of other runs
    return name if settings.profile == "quick" else f"{name}-full"


def output_folders(data, settings, out=None, drive=False):
    """Where a notebook's run writes: (figures and results.json, with rounded weights; the rest).

    misc/ and runs/full for all of CIFAR-10; misc/NAME and runs/NAME for any lesser run, so that it
    never overwrites what is shown. With `out`, both are that folder. With `drive`, weights and
    checkpoints go to Google Drive, where they outlive a Colab session; where Drive cannot be used,
    a line says why, and the run goes on without it.
    """
    from extras.colab import DRIVE, mount_drive

    name = run_name(data, settings)
    figures = Path("misc", name)
    runs = Path("runs", name or "full")
    if out is not None:
        figures = runs = Path(out).expanduser()
    if not drive:
        return figures, runs
    there = DRIVE / "MyDrive" / "s10" / runs.relative_to(runs.anchor)
    if trouble := mount_drive(there):
        print(f"Google Drive is not used: {trouble}. In Colab, {runs} ends with the session.")
        return figures, runs
    print(f"Google Drive keeps this run: {there}")
    return figures, there

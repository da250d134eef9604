"""Read a folder of images, train/<class>/* and test/<class>/*, into arrays.

    data = read_folder("my-images", cache_dir="data/cache")
    images, targets = data.train      # (N, 32, 32, 3) uint8 and (N,) int64
    image = read_image("my-cat.jpg")  # a single file, treated alike: (32, 32, 3) uint8

What is adapted or left out is said in `data.notes`; broken images, and classes that differ, are
refused.
"""

import hashlib
import io
import os
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps
from tqdm import tqdm

from extras.files import write_atomically

EXTENSIONS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
)
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
)  # not EPS, for which Pillow starts Ghostscript
KEPT = 4  # cache files; one of CIFAR-10's size takes 184 MB
NAMED = 5  # how many of the files in question a message names
RULES = (
    3  # count up when the same file gives other pixels than before, so that no old cache is used
)


class FolderError(ValueError):
    """A folder of images that cannot be trained on; the message says why and what to do."""


@dataclass
class FolderData:
    """The images of a folder, in the order of their file names."""

    train: tuple[np.ndarray, np.ndarray]  # images (N, size, size, 3) uint8, targets (N,) int64
    test: tuple[np.ndarray, np.ndarray]
    classes: tuple[str, ...]  # sorted; a target is a position in it
    notes: list[str]  # what was adapted or left out, a sentence each


def read_folder(path, size=32, cache_dir=None):
    """Read all images of `path`/train/<class>/ and `path`/test/<class>/ into memory, as a
    FolderData.

    Args:
        size: side of the square images that come out, in pixels; see `read_image`.
        cache_dir: where the decoded images are kept for the next start, while name, size and time
            of every file are the same. None: decode them each time.

    Raises FolderError where the folder, its classes or some of its images are not as they must be.
    """
    root, left_out = Path(path).expanduser().resolve(), []
    folders = [entry.name for entry in shown(root) if entry.is_dir()]
    if not {"train", "test"} <= set(folders):
        inside = some(folders) or "no folder"
        raise FolderError(
            f"{plain(root)} must hold train/<class>/ and test/<class>/, but has {inside}."
        )
    found = {split: find_images(root / split, left_out) for split in ("train", "test")}
    classes = check_classes(root, found)
    # by file name, which mixes the classes where each numbers its own images
    train, test = (
        sorted((plain(file.name), label, file) for label in classes for file in images[label])
        for images in found.values()
    )
    files = [file for _, _, file in train + test]
    targets = np.array([classes.index(label) for _, label, _ in train + test], dtype=np.int64)

    # another key as soon as a file differs
    stamps = [f"{file}\t{file.stat().st_size}\t{file.stat().st_mtime_ns}" for file in files]
    key = "\n".join([f"{root}, {size} pixels, rules {RULES}, Pillow {PIL.__version__}", *stamps])
    arrays = cached_arrays(cache_dir, key, lambda: decode_all(files, size))
    images, n = arrays["images"], len(train)
    notes = describe(
        arrays["adapted"], [file.relative_to(root) for file in left_out], len(files), size
    )
    return FolderData((images[:n], targets[:n]), (images[n:], targets[n:]), classes, notes)


def shown(folder):
    """What lies in a folder, by name, without what is hidden."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise FolderError(
            f"The folder {plain(folder)} cannot be listed: {error.strerror}."
        ) from None


def find_images(split, left_out):
    """The image files of a split, {class: [path, …]}. What else is found is added to `left_out`."""
    found = {}
    for folder in shown(split):
        if not folder.is_dir():
            left_out.append(folder)
            continue
        files, todo = found.setdefault(plain(folder.name), []), [folder]
        while todo:
            for entry in shown(todo.pop()):
                if (
                    entry.is_dir() and not entry.is_symlink()
                ):  # a link may lead to another class, or up, for ever
                    todo.append(entry)
                else:
                    is_image = entry.is_file() and entry.name.lower().endswith(EXTENSIONS)
                    (files if is_image else left_out).append(entry)
    return found


def check_classes(root, found):
    """The sorted names of the classes, if train and test have the same ones, at least two, and none
    is empty.
    """
    train, test = sorted(found["train"]), sorted(found["test"])
    if train != test:
        differ = some(sorted(set(train) ^ set(test)))
        raise FolderError(
            f"{plain(root)} must have the same classes in train/ and test/: only one has {differ}."
        )
    if len(train) < 2:
        raise FolderError(
            f"{plain(root)} has too few classes ({some(train) or 'none'}): give at least two."
        )
    empty = [
        f"{split}/{label}"
        for split, images in found.items()
        for label in train
        if not images[label]
    ]
    if empty:
        raise FolderError(f"{plain(root)} has no image ({', '.join(EXTENSIONS)}) in {some(empty)}.")
    return tuple(train)


def decode_all(files, size):
    """{"images": (N, size, size, 3) uint8, "adapted": how many images in which of the ways of
    `decode`}.
    """

    def read(file):
        try:
            return decode(file, size)
        except ValueError as error:
            return error

    # Pillow decodes outside Python's lock: two cores halve the time for photographs
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        options = dict(total=len(files), leave=False, file=sys.stdout, disable=len(files) < 1000)
        results = list(tqdm(pool.map(read, files), "reading images", **options))
    broken = [str(error) for error in results if isinstance(error, ValueError)]
    if broken:
        raise FolderError(
            f"{len(broken):,} of {len(files):,} images cannot be used: {some(broken, '; ')}."
        )
    images, adapted = zip(*results, strict=True)
    return {"images": np.stack(images), "adapted": np.sum(adapted, axis=0)}


def describe(adapted, left_out, n, size):
    """The notes: a sentence for each way in which something was adapted or left out."""
    ways = (
        f"were not {size}x{size}: cut to the square in the middle and resized",
        "were not plain RGB (grey, palette, transparent, …): made RGB, transparent parts white, 16 bits scaled to 8",
    )
    notes = [
        f"{count:,} of {n:,} images {way}."
        for count, way in zip(adapted, ways, strict=True)
        if count
    ]
    if left_out:
        why = "no image by its extension, outside the class folders, or a link to a folder or to nothing"
        notes.append(f"{len(left_out):,} files were left out ({why}): {some(left_out)}.")
    return notes


def cached_arrays(cache_dir, key, build):
    """Return the dict of arrays stored in `cache_dir` for the text `key`, or what `build` returns,
    and store that.
    """
    if cache_dir is None:
        return build()
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    path = Path(cache_dir).expanduser() / f"arrays-{digest[:32]}.npz"
    # damage raises anything, and the cure is always to build anew
    with suppress(Exception), np.load(path, allow_pickle=False) as stored:
        return dict(stored)
    arrays = build()
    with suppress(OSError):  # no space, no permission
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(path, buffer.getbuffer())
        for old in sorted(path.parent.glob("arrays-*"), key=os.path.getmtime)[:-KEPT]:
            old.unlink()
    return arrays


def some(names, separator=", "):
    """The first few of a list of names, and how many more there are."""
    more = [f"and {len(names) - NAMED:,} more"] if len(names) > NAMED else []
    return separator.join([plain(name) for name in names[:NAMED]] + more)


def plain(name):
    """A name as text to compare and print: composed (macOS decomposes é), without undecodable
    bytes.
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


def read_image(path, size=32):
    """Read one image file as the network sees it: (size, size, 3) uint8, RGB.

    The first frame of an animation is taken, turned upright as EXIF says, made RGB (white where it
    is transparent), cut to the square in its middle, and resized. A file that is no image raises a
    ValueError.
    """
    return decode(Path(path).expanduser(), size)[0]


def decode(path, size):
    """Decode one file: (image, (had another size?, was not RGB?))."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            adapted = (image.size != (size, size), image.mode != "RGB")
            image.draft(
                None, (4 * size, 4 * size)
            )  # large JPEGs are decoded at 1/2, 1/4 or 1/8: many times faster
            image.load()
            with suppress(
                Exception
            ):  # broken EXIF data does not make a broken image: it stays as it lies
                image = ImageOps.exif_transpose(image)
            method = Image.Resampling.BOX if min(image.size) > size else Image.Resampling.BICUBIC
            return np.array(ImageOps.fit(to_rgb(image), (size, size), method)), adapted
    except Exception as error:  # decoders raise anything when they meet damage
        reason = (
            getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        )
        raise ValueError(f"{plain(path)} cannot be read ({reason})") from None


def to_rgb(image):
    """An image of any mode as RGB; what is transparent becomes white."""
    if image.mode.startswith(
        ("I", "F")
    ):  # grey with more than 8 bits, which `convert` would clip, not scale
        levels = np.asarray(image, dtype=np.float64)
        if image.mode == "F" or levels.min() < 0 or levels.max() > 65_535:
            raise ValueError("it has 32-bit grey levels: save it with 8 or 16 bits")
        image = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")

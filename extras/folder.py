"""Read a folder of images, train/<class>/* and test/<class>/*, into arrays.

    data = read_folder("my-images", cache_dir="data/cache")
    images, targets = data.train      # (N, 32, 32, 3) uint8 and (N,) int64
    image = read_image("my-cat.jpg")  # a single file, treated alike: (32, 32, 3) uint8

`data.notes` says what was adapted or left out; broken images and differing classes are refused.
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
from PIL import Image, ImageOps, features
from tqdm import tqdm

from extras.files import write_atomically

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
EXTENSIONS += (".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # EPS would start Ghostscript
if "avif" in features.modules and features.check("avif"):  # since Pillow 11.3
    EXTENSIONS += (".avif",)
    FORMATS += ("AVIF",)
TEST_FOLDERS = ("test", "val", "valid", "validation")
CACHE_FILES = 4  # that are kept; one of CIFAR-10's size takes 184 MB
SHOWN_NAMES = 5  # how many of the files in question a message names
CACHE_VERSION = 4  # increased whenever a file gives other pixels than before


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
    """Read all images of `path`/train/<class>/ and `path`/test/<class>/ (or val/) into memory.

    Args:
        size: side of the square images that come out, in pixels; see `read_image`.
        cache_dir: where the decoded images are kept for the next start, while name, size and time
            of every file are the same. None: decode them each time.

    Returns a FolderData. Raises FolderError where the folder, its classes or some of its images
    are not as they must be.
    """
    root, left_out = Path(path).expanduser().resolve(), []
    folders = [entry.name for entry in visible(root) if entry.is_dir()]
    for_test = next((name for name in TEST_FOLDERS if name in folders), None)
    if "train" not in folders or for_test is None:
        inside = shortlist(folders) or "no folder"
        raise FolderError(
            f"{nfc(root)} must hold train/<class>/ and test/<class>/, but has {inside}."
        )
    found = {split: find_images(root / split, left_out) for split in ("train", for_test)}
    classes = check_classes(root, found, left_out)
    # by file name, which mixes the classes where each numbers its own images
    train, test = (
        sorted((nfc(file.name), label, file) for label in classes for file in images[label])
        for images in found.values()
    )
    files = [file for _, _, file in train + test]
    targets = np.array([classes.index(label) for _, label, _ in train + test], dtype=np.int64)

    # another key as soon as a file differs
    stamps = [f"{file}\t{file.stat().st_size}\t{file.stat().st_mtime_ns}" for file in files]
    about = f"{root}, {size} pixels, rules {CACHE_VERSION}, Pillow {PIL.__version__}"
    key = "\n".join([about, *stamps])
    arrays = cached_arrays(cache_dir, key, lambda: decode_all(files, size))

    notes = [] if for_test == "test" else [f"the test images are those of {for_test}/."]
    notes += describe(arrays, [file.relative_to(root) for file in left_out], size)
    images, n = arrays["images"], len(train)
    return FolderData((images[:n], targets[:n]), (images[n:], targets[n:]), classes, notes)


def visible(folder):
    """The entries of a folder that are not hidden, sorted by name."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise FolderError(f"The folder {nfc(folder)} cannot be listed: {error.strerror}.") from None


def find_images(split, left_out):
    """The image files of a split, {class: [path, …]}. What else is found is added to `left_out`."""
    found = {}
    for folder in visible(split):
        if not folder.is_dir():
            left_out.append(folder)
            continue
        files, todo = found.setdefault(nfc(folder.name), []), [folder]
        while todo:
            for entry in visible(todo.pop()):
                # a link may lead to another class, or up, for ever
                if entry.is_dir() and not entry.is_symlink():
                    todo.append(entry)
                elif entry.is_file() and entry.name.lower().endswith(EXTENSIONS):
                    files.append(entry)
                else:
                    left_out.append(entry)
    return found


def check_classes(root, found, left_out):
    """The sorted names of the classes; both splits must have the same ones, and images of each."""
    (first, train), (second, test) = found.items()
    sides = ((first, set(train) - set(test)), (second, set(test) - set(train)))
    alone = [f"only {split}/ has {shortlist(sorted(names))}" for split, names in sides if names]
    if alone:
        raise FolderError(f"The classes of {nfc(root)} differ: {'; '.join(alone)}.")
    if len(train) < 2:
        known = shortlist(train) or "none"
        raise FolderError(f"{nfc(root)} has too few classes ({known}): give at least two.")
    empty = [
        f"{split}/{label}" for split in found for label in sorted(train) if not found[split][label]
    ]
    if empty:
        kinds = ", ".join(EXTENSIONS) + heic_hint(left_out)
        raise FolderError(f"{nfc(root)} has no image ({kinds}) in {shortlist(empty)}.")
    return tuple(sorted(train))


def heic_hint(files):
    heic = any(file.suffix.lower() in (".heic", ".heif") for file in files)
    return "; HEIC cannot be read, save it as JPEG" if heic else ""


def decode_all(files, size):
    """Decode all files, for `describe` and the cache.

    Returns "images" (N, size, size, 3) uint8, "adapted": how many images in which of the ways of
    `decode`, "deepest": the largest level of the images with more than 8 bits.
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
            f"{len(broken):,} of {len(files):,} images cannot be used: {shortlist(broken, '; ')}."
        )
    decoded, adapted, highest = zip(*results, strict=True)
    deepest = max(highest)
    images = np.stack([to_8_bits(image, deepest) for image in decoded])
    return {"images": images, "adapted": np.sum(adapted, axis=0), "deepest": np.array(deepest)}


def describe(arrays, left_out, size):
    """The notes: a sentence for each way in which something was adapted or left out."""
    level = int(arrays["deepest"])
    ways = (
        f"were not {size}x{size}: cut to the square in the middle and resized",
        "were not plain RGB (grey, palette, transparent, …): made RGB, transparent parts white",
        f"had more than 8 bits: the largest level, {level:,}, is taken for {bits_of(level)} bits",
    )
    n = len(arrays["images"])
    counts = zip(arrays["adapted"], ways, strict=True)
    notes = [f"{count:,} of {n:,} images {way}." for count, way in counts if count]
    if left_out:
        why = "no image by its extension, outside the class folders, or a link"
        why += heic_hint(left_out)
        notes.append(f"{len(left_out):,} files were left out ({why}): {shortlist(left_out)}.")
    return notes


def cached_arrays(cache_dir, key, build):
    """The dict of arrays stored for a text `key`, or what `build` returns, stored from then on."""
    if cache_dir is None:
        return build()
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    path = Path(cache_dir).expanduser() / f"arrays-{digest[:32]}.npz"
    # a damaged file can raise anything; then the arrays are made again
    with suppress(Exception), np.load(path, allow_pickle=False) as stored:
        return dict(stored)
    arrays = build()
    with suppress(OSError):  # no space, no permission
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(path, buffer.getbuffer())
        for old in sorted(path.parent.glob("arrays-*"), key=os.path.getmtime)[:-CACHE_FILES]:
            old.unlink()
    return arrays


def shortlist(names, separator=", "):
    """The first few of many names, and how many more there are."""
    names = [nfc(name) for name in names]
    more = [f"and {len(names) - SHOWN_NAMES:,} more"] if len(names) > SHOWN_NAMES else []
    return separator.join(names[:SHOWN_NAMES] + more)


def nfc(name):
    """A name to compare and print: composed (macOS decomposes é), without undecodable bytes."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


def read_image(path, size=32):
    """Read one image file as the network sees it: (size, size, 3) uint8, RGB.

    The first frame of an animation is taken, turned upright as EXIF says, made RGB (white where it
    is transparent), cut to the square in its middle, and resized. More than 8 bits are scaled by
    its largest level. A file that is no image raises a ValueError.
    """
    image, _, highest = decode(Path(path).expanduser(), size)
    return to_8_bits(image, highest)


def decode(path, size):
    """Decode one file: (pixels, (another size?, not RGB?, more than 8 bits?), its largest level).

    Pixels are (size, size, 3) uint8, or (size, size) float32 levels where it has more than 8 bits.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            another_size, not_rgb = image.size != (size, size), image.mode != "RGB"
            image.draft(None, (4 * size, 4 * size))  # a large JPEG is decoded at 1/2, 1/4 or 1/8
            image.load()
            with suppress(Exception):  # an image with broken EXIF data is not turned
                image = ImageOps.exif_transpose(image)
            image, highest = to_rgb(image)
            method = Image.Resampling.BOX if min(image.size) > size else Image.Resampling.BICUBIC
            pixels = np.array(ImageOps.fit(image, (size, size), method))
            return pixels, (another_size, not_rgb, pixels.dtype != np.uint8), highest
    except Exception as error:  # decoders raise anything when they meet damage
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{nfc(path)} cannot be read ({reason or type(error).__name__})") from None


def to_rgb(image):
    """An image of any mode as RGB, white where it is transparent, and 0.

    Grey with more than 8 bits, which `convert` would clip, becomes levels (F) and the largest one.
    """
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image, dtype=np.float32)
        if image.mode == "F" or levels.min() < 0 or levels.max() > 65_535:
            raise ValueError("it has 32-bit grey levels: save it with 8 or 16 bits")
        return Image.fromarray(levels), int(levels.max())
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), 0


def bits_of(level):
    """16-bit files often hold 10, 12 or 14 bits: the fewest that have this level, 8 or more."""
    return max(8, level.bit_length())


def to_8_bits(pixels, largest):
    """Levels as (size, size, 3) uint8; white is the highest one of `bits_of(largest)` bits."""
    if pixels.dtype == np.uint8:
        return pixels
    grey = np.rint(pixels * (255 / (2 ** bits_of(largest) - 1)))
    return np.dstack([grey.clip(0, 255).astype(np.uint8)] * 3)

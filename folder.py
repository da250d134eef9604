"""How does a folder of pictures become arrays?

The folder holds `train/<class>/*` and `test/<class>/*`: PNG, JPEG or another of `EXTENSIONS`, of any size.

    data = read_folder("my-pictures", cache_dir="~/.cache/s10")
    pictures, targets = data.train  # (N, 32, 32, 3) uint8 and (N,) int64

What is adapted (sizes, grey or transparent pictures, animations, files left out) is said in `data.notes`.
What cannot be right (a broken picture, classes that differ, …) is refused with a `FolderError`.
How a single picture is treated, and `to_square` and `read_picture`, are in `picture.py`.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from tqdm import tqdm

from cache import cached_arrays
from picture import RULES, decode, plain, read_picture, to_square

__all__ = ["FolderData", "FolderError", "read_folder", "read_picture", "to_square"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # what systems leave in folders, besides hidden files
SPLITS = ("train", "test")
NAMED = 5  # how many of the files in question a message names
CHUNK = 64  # files that a thread decodes before it reports


class FolderError(ValueError):
    """A folder of pictures that cannot be trained on; the message says why and what to do."""


@dataclass
class FolderData:
    """The pictures of a folder, in the order of their file names."""

    train: tuple[np.ndarray, np.ndarray]  # pictures (N, size, size, 3) uint8, targets (N,) int64
    test: tuple[np.ndarray, np.ndarray]
    classes: tuple[str, ...]  # sorted; a target is a position in it
    notes: list[str]  # what was adapted or left out, a sentence each


class _File(NamedTuple):
    """A picture's file. The order of the fields is that of sorting: by file name, then class, then sub-folder."""

    name: str
    label: str
    place: str  # its path inside the folder that is read
    path: str
    size: int  # bytes
    mtime_ns: int


def read_folder(path: str | os.PathLike, size: int = 32, cache_dir: str | os.PathLike | None = None) -> FolderData:
    """Read all pictures of `path`/train/<class>/ and `path`/test/<class>/ into memory.

    Args:
        path: the folder, or one with a single such folder inside, as archives unpack.
        size: side of the square pictures that come out, in pixels; see `picture.to_square`.
        cache_dir: where the decoded pictures are kept for the next start. They are used only while name, size and
            time of every file are the same. None: decode them each time.

    Raises:
        FolderError: the folder, its classes or some of its pictures are not as they must be.
    """
    root = _root(path)
    left_out: list[str] = []
    closed = _closed(root)
    found = {split: _find(root, split, closed, left_out) for split in SPLITS}
    classes = _classes(root, found, left_out)
    train, test = (sorted(file for files in found[split].values() for file in files) for split in SPLITS)
    files = train + test

    stamps = [f"{file.place}\t{file.size}\t{file.mtime_ns}" for file in files]
    key = "\n".join([f"folder {root}, {size} pixels, rules {RULES}, Pillow {PIL.__version__}", *stamps])
    arrays = cached_arrays(cache_dir, key, lambda: _decode_all(root, files, size))

    number = {label: target for target, label in enumerate(classes)}
    targets = np.array([number[file.label] for file in files], dtype=np.int64)
    pictures, n = arrays["pictures"], len(train)
    notes = _notes(arrays["adapted"], left_out, len(files), size)
    return FolderData((pictures[:n], targets[:n]), (pictures[n:], targets[n:]), classes, notes)


def _root(path):
    """The real path of the folder that holds train/ and test/."""
    root = os.path.realpath(os.path.expanduser(path))
    if os.path.isfile(root):
        raise FolderError(f"{plain(root)} is a file: give the folder that holds train/ and test/ (unpacked).")
    if not os.path.isdir(root):
        raise FolderError(f"There is no folder {plain(root)}: give one with train/<class>/ and test/<class>/.")
    inside = [entry.name for entry in _entries(root) if _is_folder(entry)]
    missing = [f"no {split}/" for split in SPLITS if split not in inside]
    if not missing:
        return root
    below = [os.path.join(root, name) for name in inside]
    below = [path for path in below if all(os.path.isdir(os.path.join(path, split)) for split in SPLITS)]
    if len(below) == 1:
        return os.path.realpath(below[0])
    raise FolderError(
        f"{plain(root)} has {' and '.join(missing)} (its folders: {_some(inside) or 'none'}): "
        "the pictures must lie in train/<class>/ and test/<class>/."
    )


def _find(root, split, closed, left_out):
    """The picture files of a split: {class: [_File, …]}. The places of other files are added to `left_out`."""
    found: dict[str, list[_File]] = {}
    for folder in _entries(os.path.join(root, split)):
        if not _is_folder(folder):
            left_out.append(_place(folder, root))
            continue
        label = plain(folder.name)
        files = found.setdefault(label, [])
        for entry in _walk(folder.path, set(closed)):
            if entry.name.lower().endswith(EXTENSIONS):
                files.append(_File(plain(entry.name), label, _place(entry, root), entry.path, *_stamp(entry)))
            else:
                left_out.append(_place(entry, root))
    return found


def _closed(root):
    """The real paths of the folders that no link inside a class may lead to: a link up to train/ must not bring all
    other classes into this one, one to test/ must not give the answers away, one to / not bring the whole disk."""
    splits = [os.path.join(root, split) for split in SPLITS]
    classes = [entry.path for split in splits for entry in _entries(split) if _is_folder(entry)]
    return {os.path.realpath(path) for path in (*Path(splits[0]).parents, *splits, *classes)}


def _walk(folder, seen):
    """Every file below a folder. Links are followed, but no folder is entered twice, nor one that is `seen`."""
    todo = [folder]
    while todo:
        for entry in _entries(todo.pop()):
            if not _is_folder(entry):
                yield entry
            elif (real := os.path.realpath(entry.path)) not in seen:
                seen.add(real)
                todo.append(entry.path)


def _entries(folder):
    """What lies in a folder, by name, without what is hidden or the system's."""
    try:
        with os.scandir(folder) as entries:
            shown = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in IGNORED]
    except OSError as error:
        raise FolderError(f"The folder {plain(folder)} cannot be listed: {error.strerror}.") from None
    return sorted(shown, key=lambda entry: entry.name)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _stamp(entry):
    try:
        status = entry.stat()
    except OSError:  # a link to nothing: it is refused when it is to be decoded
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _place(entry, root):
    """Where an entry lies inside the folder that is read; `os.path.relpath` would take 4 s for 60,000 files."""
    return entry.path[len(root) :].lstrip(os.sep)


def _classes(root, found, left_out):
    """The sorted names of the classes, if train and test have the same ones, at least two, and none is empty."""
    root = plain(root)
    train, test = (found[split] for split in SPLITS)
    for split in SPLITS:
        if not found[split]:
            raise FolderError(f"{root} has no class in {split}/: the pictures must lie in {split}/<class>/.")
    only = {"train": sorted(set(train) - set(test)), "test": sorted(set(test) - set(train))}
    differences = "; ".join(f"only in {split}/: {_some(labels)}" for split, labels in only.items() if labels)
    if differences:
        raise FolderError(f"{root} has other classes in train/ than in test/ ({differences}): make them alike.")
    if len(train) == 1:
        raise FolderError(f"{root} has one class only, {_some(list(train))}: at least two are to be told apart.")
    empty = [f"{split}/{label}" for split in SPLITS for label in sorted(train) if not found[split][label]]
    if empty:
        others = f" (other files were found, such as {_some(left_out[:1])})" if left_out else ""
        raise FolderError(f"{root} has no picture in {_some(empty)}{others}: fill or remove each empty class.")
    return tuple(sorted(train))


def _decode_all(root, files, size):
    """{"pictures": (N, size, size, 3) uint8, "adapted": how many in which of the ways of `picture.decode`}."""
    pictures = np.empty((len(files), size, size, 3), dtype=np.uint8)
    adapted = np.zeros((len(files), 3), dtype=bool)
    broken = {}

    def read(indices):
        for i in indices:
            try:
                pictures[i], adapted[i] = decode(files[i].path, size)
            except ValueError as error:
                broken[i] = f"{files[i].place} {error}"
        return len(indices)

    watched = sys.stdout.isatty() or "ipykernel" in sys.modules  # a log would keep every state of the bar
    shown = watched and len(files) >= 1000  # fewer are done before a bar could be read
    chunks = [range(start, min(start + CHUNK, len(files))) for start in range(0, len(files), CHUNK)]
    # Pillow decodes outside Python's lock: two cores halve the time for photographs, if not for 32x32 pictures.
    with (
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        tqdm(total=len(files), desc="reading pictures", leave=False, file=sys.stdout, disable=not shown) as bar,
    ):
        for done in pool.map(read, chunks):
            bar.update(done)
    if broken:
        named = _some([broken[i] for i in sorted(broken)], "; ")
        count = f"{len(broken):,} of {len(files):,} pictures"
        raise FolderError(f"{count} in {plain(root)} cannot be read: {named}. Replace or remove them.")
    return {"pictures": pictures, "adapted": adapted.sum(axis=0)}


def _notes(adapted, left_out, n, size):
    resized, converted, animated = (int(count) for count in adapted)
    notes = []
    if resized:
        how = "cut to the square in the middle and resized (smaller by averaging areas, larger by interpolation)"
        notes.append(f"{resized:,} of {n:,} pictures were not {size}x{size}: {how}.")
    if converted:
        how = "made RGB, with white where they were transparent and 16 bits scaled to 8"
        notes.append(f"{converted:,} of {n:,} pictures were not plain RGB (grey, palette, transparent, …): {how}.")
    if animated:
        notes.append(f"{animated:,} of {n:,} pictures had several frames or pages: the first was taken.")
    if left_out:
        why = "without a picture's extension or outside the class folders"
        notes.append(f"{len(left_out):,} files {why} were left out: {_some(left_out)}.")
    return notes


def _some(names, separator=", "):
    """The first few of a list of names, and how many more there are."""
    more = [f"and {len(names) - NAMED:,} more"] if len(names) > NAMED else []
    return separator.join([plain(name) for name in names[:NAMED]] + more)

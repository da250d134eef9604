"""How is work on the pictures not done twice?

`cached_arrays` keeps the result of slow work in a file and gives it back at the next start:

    arrays = cached_arrays("~/.cache/s10", key="everything that the result depends on", build=decode_all)

A cache may only ever save time. So a file that is damaged, foreign or missing is built anew, and a folder that
cannot be written means that nothing is kept; neither is an error. Files are written aside and renamed, so that a
cut in the middle leaves no half file under a good name.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

KEPT = 4  # files; one of CIFAR-10's size takes 184 MB
ABANDONED = 3600  # seconds after which a file that was never renamed belongs to a process that was killed
SEAL = "sha256 of the key"  # the name under which a file says whose arrays it holds


def cached_arrays(
    cache_dir: str | os.PathLike | None, key: str, build: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Give the arrays stored for a key, or build and store them.

    Args:
        cache_dir: the folder of the cache, made when it is missing; None: keep nothing, just build.
        key: everything that the arrays depend on, as text. Another key is another file.
        build: called without arguments when nothing good is stored; returns a dict of arrays of numbers or text.
            (Python objects would need pickle, which is never read: they would be built each time.)

    Returns:
        The dict of arrays, fresh and writable.

    Raises:
        Only what `build` raises; then nothing is stored.
    """
    if cache_dir is None:
        return build()
    seal = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    path = Path(os.path.expanduser(cache_dir), f"arrays-{seal[:16]}.npz")
    arrays = _load(path, seal)
    if arrays is None:
        arrays = build()
        _store(path, seal, arrays)
    return arrays


def _load(path, seal):
    """The arrays of a cache file; None when it is missing, damaged (zip's checksums tell) or another key's."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored[SEAL]) != seal:
                return None
            arrays = {name: stored[name] for name in stored.files if name != SEAL}
    except Exception:  # the file is not trusted: whatever is wrong with it, the cure is to build anew
        return None
    with suppress(OSError):
        os.utime(path)  # used now: the last to be removed
    return arrays


def _store(path, seal, arrays):
    """Write a cache file beside its place, flush it to the disk, rename it. No room or permission: no cache."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False) as file:
            temporary = file.name
            np.savez(file, **{SEAL: np.array(seal)}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _prune(path.parent)
    except OSError:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def _prune(folder):
    """Remove all but the cache files used last, and what killed processes left behind."""
    files = sorted(folder.glob("arrays-*.npz"), key=os.path.getmtime, reverse=True)
    old = [file for file in folder.glob("arrays-*.tmp") if os.path.getmtime(file) < time.time() - ABANDONED]
    for file in files[KEPT:] + old:
        with suppress(OSError):  # another process may have been faster, or (Windows) be reading it
            os.unlink(file)

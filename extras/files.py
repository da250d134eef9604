"""Write files that are never left half-written, find free names, lock folders."""

import contextlib
import errno
import itertools
import os
import tempfile
from pathlib import Path

from filelock import FileLock

# How drives say that they have no locks
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


def write_atomically(path, content, keep=None):
    """Write bytes so that `path` holds all of the old or all of the new, even after a kill.

    `keep` is a path that the old file is moved to. When there is no space or no permission
    (OSError), the old file is still there, under its name or that of `keep`.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it gets the good name
        if keep is not None and path.exists():
            if os.path.exists(keep):
                os.truncate(keep, 0)  # Google Drive puts displaced files in its trash, at full size
            path.replace(keep)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def free_name(path):
    """Return `path`, or the first of path-2, path-3, … that does not exist."""
    path = Path(path)
    names = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))
    return next(name for name in itertools.chain([path], names) if not os.path.lexists(name))


def lock(path, timeout=0):
    """Lock the file `path` against other processes, until `.release()` or the end of this process.

    Within one process it is one and the same lock, so that a notebook's cell can run again. Keep
    what is returned: garbage collection releases it. It is None where the drive has no locks, like
    many network drives. When a process is killed, its locks are released.

    Raises TimeoutError where another process still holds it after `timeout` seconds (negative: wait
    as long as it takes).
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not has_locks(path.parent):
        return None  # there filelock would wait for ever, or leave a marker file after a kill
    held = FileLock(path, is_singleton=True)
    held.acquire(timeout=timeout)
    return held


def has_locks(folder):
    """Can files in this folder be locked? OSError where none can be written."""
    try:
        import fcntl
    except ImportError:  # Windows, which always has locks
        return True
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return False
    return True

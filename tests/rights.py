"""Take rights away for real, even where the tests run as root, who may do everything."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def public_folder():
    """A new folder that every user can enter (pytest's tmp_path is open to its owner only)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def rights(path, mode):
    """Inside: `path` has these rights, and this process is an ordinary user, not its owner if it
    was root.
    """
    before = path.stat().st_mode
    path.chmod(mode)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(before)

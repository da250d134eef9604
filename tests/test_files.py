"""Files are never left half-written; locks keep other processes out, but nobody for ever."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from extras.files import free_name, lock, write_atomically

ROOT = Path(__file__).parents[1]


def test_the_old_file_is_kept_and_what_it_displaces_is_empty(tmp_path, monkeypatch):
    """Google Drive puts what a rename displaces in its trash. (Kills: test_kill.py.)"""
    path, keep = tmp_path / "a.pt", tmp_path / "a.previous.pt"
    displaced = []
    for content in (b"one", b"two"):
        write_atomically(path, content, keep=keep)
    rename = os.replace

    def replace(old, new):
        if Path(new).exists():
            displaced.append(Path(new).stat().st_size)
        rename(old, new)

    monkeypatch.setattr(os, "replace", replace)
    write_atomically(path, b"three", keep=keep)
    assert displaced == [0]
    assert path.read_bytes() == b"three"
    assert keep.read_bytes() == b"two"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.pt"
    write_atomically(path, b"old")
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new", keep=tmp_path / "keep")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_free_name(tmp_path):
    path = tmp_path / "a.damaged.pt"
    for expected in ("a.damaged.pt", "a.damaged-2.pt", "a.damaged-3.pt"):
        assert free_name(path).name == expected
        free_name(path).symlink_to("nothing")  # a name that leads nowhere is not free either


def test_a_lock_keeps_another_process_out_until_that_is_killed(tmp_path):
    path = tmp_path / "new" / "run" / ".lock"
    code = "import sys; from extras.files import lock; held = lock(sys.argv[1]); "
    code += "print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        for timeout in (0, 0.1):
            with pytest.raises(TimeoutError):
                lock(path, timeout)
        other.kill()
    held = lock(path, timeout=5)
    assert lock(path) is held  # within one process it is taken again


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_drive_without_locks_gets_none_and_no_marker_file(tmp_path, monkeypatch, code):
    no_locks = Mock(side_effect=OSError(getattr(errno, code), "no locks here"))
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", no_locks)
    assert lock(tmp_path / ".lock") is None
    assert not list(tmp_path.iterdir())  # so that a killed run locks nobody out

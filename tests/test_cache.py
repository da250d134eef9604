"""Is a cache never more than a saving of time: right, whole, small, and silent when it cannot be kept?"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rights import public_folder, rights

import cache
from cache import cached_arrays


class Builder:
    """Counts how often it had to build."""

    def __init__(self, value=0):
        self.calls = 0
        self.value = value

    def __call__(self):
        self.calls += 1
        return {"pictures": np.full((50, 8, 8, 3), self.value, np.uint8), "counts": np.array([1, 2, 3])}


def stored(folder):
    return sorted(Path(folder).glob("*.npz"))


def test_second_call_reads_what_the_first_built(tmp_path):
    build = Builder(7)
    first = cached_arrays(tmp_path, "key", build)
    second = cached_arrays(str(tmp_path), "key", build)
    assert build.calls == 1
    assert first.keys() == second.keys() == {"pictures", "counts"}
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])
    second["pictures"][0] = 1  # writable, and not the file itself
    assert cached_arrays(tmp_path, "key", build)["pictures"][0, 0, 0, 0] == 7


def test_another_key_is_another_file(tmp_path):
    one, two = Builder(1), Builder(2)
    for _ in range(2):
        assert cached_arrays(tmp_path, "kéy 1", one)["pictures"][0, 0, 0, 0] == 1
        assert cached_arrays(tmp_path, "kéy \udcff", two)["pictures"][0, 0, 0, 0] == 2
    assert one.calls == two.calls == 1
    assert len(stored(tmp_path)) == 2


def test_without_a_folder_it_builds():
    build = Builder()
    cached_arrays(None, "key", build)
    cached_arrays(None, "key", build)
    assert build.calls == 2


def test_a_missing_folder_is_made(tmp_path):
    build = Builder()
    for _ in range(2):
        cached_arrays(tmp_path / "not" / "yet", "key", build)
    assert build.calls == 1


def test_an_error_of_build_is_passed_on_and_nothing_stored(tmp_path):
    def build():
        raise ValueError("no pictures")

    with pytest.raises(ValueError, match="no pictures"):
        cached_arrays(tmp_path, "key", build)
    assert not list(tmp_path.iterdir())


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def save_npy(path):
    with open(path, "wb") as file:
        np.save(file, np.arange(5))


DAMAGES = {
    "one byte": flip_a_byte,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>quota exceeded</html>"),
    "an npy": save_npy,
    "a foreign npz": lambda path: np.savez(path, pictures=np.zeros(3)),
    "a pickle": lambda path: np.savez(path, **{cache.SEAL: np.array([{}], dtype=object)}),
    "another key's": lambda path: np.savez(path, **{cache.SEAL: np.array("0" * 64), "pictures": np.zeros(3)}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_built_anew(tmp_path, damage):
    build = Builder(9)
    cached_arrays(tmp_path, "key", build)
    (path,) = stored(tmp_path)
    DAMAGES[damage](path)
    for _ in range(2):  # the first mends the file, the second reads it
        assert (cached_arrays(tmp_path, "key", build)["pictures"] == 9).all()
    assert build.calls == 2
    assert stored(tmp_path) == [path]


def test_a_process_killed_while_writing_leaves_no_file_under_a_good_name(tmp_path):
    program = f"""
import os, numpy as np
from cache import cached_arrays

class Kill:  # numpy asks for its array when the first one has been written
    def __array__(self, dtype=None, copy=None):
        os._exit(9)  # like SIGKILL: nothing is cleaned up

cached_arrays({str(tmp_path)!r}, "key", lambda: {{"a": np.ones(1_000_000), "b": Kill()}})
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(cache.__file__).parent)
    assert killed.returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".tmp" and left.stat().st_size > 1_000_000

    build = Builder(3)
    for _ in range(2):
        assert (cached_arrays(tmp_path, "key", build)["pictures"] == 3).all()
    assert build.calls == 1
    assert left.exists()  # it could be another process still at work …
    long_ago = time.time() - 2 * cache.ABANDONED
    os.utime(left, (long_ago, long_ago))
    cached_arrays(tmp_path, "another key", build)
    assert not left.exists()  # … but not for hours


def test_only_the_files_used_last_are_kept(tmp_path):
    foreign = tmp_path / "mine.npz"
    foreign.write_text("not the cache's")
    builders = [Builder(key) for key in range(cache.KEPT + 1)]
    for key in range(cache.KEPT):
        before = stored(tmp_path)
        cached_arrays(tmp_path, str(key), builders[key])
        (new,) = set(stored(tmp_path)) - set(before)
        os.utime(new, (1000 + key, 1000 + key))  # set apart, whatever the file system's clock resolves
    cached_arrays(tmp_path, "0", builders[0])  # used again: now 1 is the one not used for longest
    cached_arrays(tmp_path, str(cache.KEPT), builders[cache.KEPT])
    assert len(stored(tmp_path)) == cache.KEPT + 1 and foreign.exists()
    for key in (0, 2, 3, cache.KEPT):
        cached_arrays(tmp_path, str(key), builders[key])
    assert [build.calls for build in builders] == [1] * (cache.KEPT + 1)
    cached_arrays(tmp_path, "1", builders[1])
    assert builders[1].calls == 2


def test_a_folder_that_cannot_be_one_means_no_cache(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    for place in (file, file / "below"):
        build = Builder(4)
        for _ in range(2):
            assert (cached_arrays(place, "key", build)["pictures"] == 4).all()
        assert build.calls == 2
    assert file.read_text() == "in the way"


def test_a_folder_without_write_permission_means_no_cache():
    build = Builder(4)
    with public_folder() as folder:
        (folder / "shut").mkdir()
        with rights(folder / "shut", 0o555):
            for place in (folder / "shut", folder / "shut" / "below"):
                assert (cached_arrays(place, "key", build)["pictures"] == 4).all()
                assert (cached_arrays(place, "key", build)["pictures"] == 4).all()
        assert not list((folder / "shut").iterdir())
    assert build.calls == 4


def test_no_room_means_no_cache_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for a full disk: writing fails in the same place, with an OSError."""
    program = f"""
import resource, sys, numpy as np
sys.unraisablehook = lambda error: print("unraisable:", error.exc_value)
from cache import cached_arrays

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for _ in range(2):
    arrays = cached_arrays({str(tmp_path)!r}, "key", lambda: print("built") or {{"a": np.arange(1_000_000)}})
    assert arrays["a"].sum() == 499999500000
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(cache.__file__).parent, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["built", "built"], "")
    assert not list(tmp_path.iterdir())


def test_reading_back_is_fast(tmp_path):
    """60,000 pictures (184 MB) must come back well within a second. Here 6,000, with room for a busy machine."""
    pictures = np.random.default_rng(0).integers(0, 256, (6000, 32, 32, 3), np.uint8)
    cached_arrays(tmp_path, "key", lambda: {"pictures": pictures})
    start = time.perf_counter()
    again = cached_arrays(tmp_path, "key", Builder())
    assert time.perf_counter() - start < 0.5
    np.testing.assert_array_equal(again["pictures"], pictures)

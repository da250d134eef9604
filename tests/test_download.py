"""The official files arrive whole, whatever hosts and disk do; all hosts are a server in here."""

import contextlib
import hashlib
import io
import pickle
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import Mock
from urllib.error import URLError
from urllib.request import OpenerDirector

import numpy as np
import pytest
from filelock import FileLock
from rights import public_folder, rights
from torchvision.datasets import CIFAR10

from extras import download
from extras.download import (
    ARCHIVE,
    FOLDER,
    DownloadError,
    fetch_cifar10,
    read_batches,
    read_cifar10,
)

PART = ARCHIVE + ".part"
OFFICIAL = dict(download.FILES), download.ARCHIVE_MD5


def md5(content):
    return hashlib.md5(content).hexdigest()


RNG = np.random.default_rng(0)  # noise does not shrink when it is packed
BATCHES = {
    name: {"data": RNG.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 2, 3]}
    for name in download.FILES
}
FILES = {name: pickle.dumps(batch) for name, batch in BATCHES.items()}
with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as tar:
    for name, content in (FILES | {"readme.html": b"is not unpacked"}).items():
        info = tarfile.TarInfo(f"{FOLDER}/{name}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
BYTES = buffer.getvalue()
HALF = len(BYTES) // 2
OTHER = BYTES[:-1] + bytes([BYTES[-1] ^ 1])  # of the right size, with a wrong md5


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Short limits, the small archive, and none of this machine's proxies."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("CIFAR10_URL", raising=False)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.6)
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.25)
    monkeypatch.setattr(download, "FILES", {name: md5(content) for name, content in FILES.items()})
    monkeypatch.setattr(download, "ARCHIVE_MD5", md5(BYTES))
    monkeypatch.setattr(download, "SIZE", len(BYTES))


class Host:
    """One address of our server, with an answer of its own; `asked` lists the Range headers."""

    all = []

    def __init__(self, answer):
        self.answer, self.asked = answer, []
        self.url = f"http://127.0.0.1:{SERVER.server_port}/{len(self.all)}/{ARCHIVE}?download=1"
        self.all.append(self)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        host = Host.all[int(self.path.split("/")[1])]
        host.asked.append(self.headers["Range"])
        with contextlib.suppress(ConnectionError):  # the client has left
            host.answer(self)

    def log_message(self, *args):
        pass


SERVER = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=SERVER.serve_forever, daemon=True).start()


@pytest.fixture
def use(monkeypatch):
    """use(answer, address, …) makes hosts that answer so, or addresses, the sources."""

    def set_sources(*answers):
        hosts = [Host(answer) if callable(answer) else answer for answer in answers]
        *mirrors, last = [getattr(host, "url", host) for host in hosts]
        monkeypatch.setattr(download, "MIRRORS", tuple(mirrors))
        monkeypatch.setattr(download, "URL", last)
        return hosts if len(hosts) > 1 else hosts[0]

    return set_sources


def begin(request, content=BYTES, ranges=True):
    """Send the headers, for all or for the part asked for; return what is to be sent."""
    asked = request.headers["Range"] if ranges else None
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
    request.send_response(206 if asked else 200)
    if asked:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(content) - start))
    request.end_headers()
    return content[start:]


def whole(content=BYTES, ranges=True, cut=None):
    """Sends all, or the part asked for; with `cut`, hangs up after so many bytes."""
    return lambda request: request.wfile.write(begin(request, content, ranges)[:cut])


def drip(bytes_per_second):
    def answer(request):
        rest = begin(request)
        for place in range(0, len(rest), bytes_per_second // 50):
            request.wfile.write(rest[place : place + bytes_per_second // 50])
            time.sleep(1 / 50)

    return answer


def silent_after(size):
    """Sends so many bytes of the body and no more, with the connection open."""

    def answer(request):
        request.wfile.write(begin(request)[:size])
        time.sleep(2)

    return answer


DEAD = "http://127.0.0.1:9/" + ARCHIVE  # port 9: nobody listens


def assert_right(root):
    """All files are there, exact, and nothing beside them."""
    assert {path.name: path.read_bytes() for path in (root / FOLDER).iterdir()} == FILES
    assert {path.name for path in root.iterdir()} - {f"{ARCHIVE}.lock"} == {FOLDER, ARCHIVE}
    assert (root / ARCHIVE).read_bytes() == BYTES


def test_files_are_fetched_and_read(tmp_path, use, capsys, monkeypatch):
    # its `filter` is missing in Debian 12's Python 3.11.2
    monkeypatch.delattr(tarfile.TarFile, "extractall")
    use(whole())
    root = tmp_path / "not" / "yet"
    assert fetch_cifar10(str(root)) == root / FOLDER
    assert_right(root)
    out, err = capsys.readouterr()
    assert "md5 is right" in out and "B/s" in out and err == ""  # the progress, on stdout
    for train, names in ((True, [f"data_batch_{n}" for n in range(1, 6)]), (False, ["test_batch"])):
        images, labels = read_batches(root / FOLDER, train)
        rows = np.concatenate([BATCHES[name]["data"] for name in names])
        assert images.dtype == np.uint8 and images.shape == (len(rows), 32, 32, 3)
        np.testing.assert_array_equal(images[:, 5, 7, 2], rows[:, 2048 + 5 * 32 + 7])
        assert labels.dtype == np.int64 and labels.tolist() == [0, 1, 2, 3] * len(names)


def test_the_md5s_are_those_of_torchvision():
    files = dict([*CIFAR10.train_list, *CIFAR10.test_list, ("batches.meta", CIFAR10.meta["md5"])])
    assert (files, CIFAR10.tgz_md5) == OFFICIAL and CIFAR10.url == download.URL


def test_right_files_need_no_network_and_damaged_ones_are_replaced_and_kept(tmp_path, use):
    use(DEAD)
    (tmp_path / ARCHIVE).write_bytes(BYTES)
    for _ in range(2):
        fetch_cifar10(tmp_path)
    folder = tmp_path / FOLDER
    (folder / "data_batch_3").write_bytes(b"mine")
    read_cifar10(tmp_path, download=True)
    (folder / "data_batch_3.bad").rename(tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == b"mine"
    (tmp_path / "kept").unlink()
    assert_right(tmp_path)
    use(whole())
    (folder / "test_batch").unlink()
    (tmp_path / ARCHIVE).write_bytes(b"cut off")
    read_cifar10(folder, train=False, download=True)  # the folder itself may be given, too
    assert_right(tmp_path)


@pytest.mark.parametrize(
    "form", ["file://{}", "{}", "~/my.tgz", "gopher://x/y", "http://[x", "/no/such/file"]
)
def test_the_own_source_is_an_address_a_path_or_nonsense(tmp_path, use, monkeypatch, form):
    good = use(whole())
    (tmp_path / "my.tgz").write_bytes(BYTES)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CIFAR10_URL", form.format(tmp_path / "my.tgz"))
    fetch_cifar10("~/root")
    assert_right(tmp_path / "root")
    assert len(good.asked) == (0 if form.endswith(("{}", "my.tgz")) else 1)


@pytest.mark.parametrize("sent", [1000, HALF + 1000])
def test_a_source_that_ignores_range_never_shortens_what_is_there(tmp_path, use, sent):
    use(whole(ranges=False, cut=sent))
    (tmp_path / PART).write_bytes(BYTES[:HALF])
    with pytest.raises(DownloadError, match="broke off|IncompleteRead"):
        fetch_cifar10(tmp_path)
    assert (tmp_path / PART).read_bytes() == BYTES[: max(HALF, sent)]
    host = use(whole(ranges=False))  # the next start goes on
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert host.asked == [f"bytes={max(HALF, sent)}-"]


@pytest.mark.parametrize("there", [b"x" * HALF, BYTES + b"x"])
def test_what_is_there_from_before_is_not_trusted(tmp_path, use, there):
    _, second = use(whole(), whole())
    (tmp_path / PART).write_bytes(there)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert second.asked == [None]  # from the beginning


def test_other_processes_wait_while_one_downloads_and_then_use_its_files(tmp_path, use):
    def answer(request):
        with pytest.raises(TimeoutError):
            FileLock(tmp_path / f"{ARCHIVE}.lock").acquire(timeout=0)  # as another process would
        whole()(request)

    use(answer)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    use(DEAD)
    (tmp_path / ARCHIVE).unlink()
    fetch_cifar10(tmp_path)  # as after waiting: another process has unpacked them meanwhile


def test_a_slow_source_is_left_while_another_is_untried(tmp_path, use, capsys):
    slow, good = use(drip(20_000), whole())
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    # what came slowly is not fetched again
    assert slow.asked == [None] and good.asked[0].startswith("bytes=")
    assert "left it: slow, " in capsys.readouterr().out
    slow, broken, _ = use(drip(60_000), whole(cut=0), DEAD)
    fetch_cifar10(tmp_path / "2")  # slow is better than nothing
    assert_right(tmp_path / "2")
    assert len(slow.asked) == 2 and len(broken.asked) == 1


BAD = {
    "wrong md5": (whole(OTHER), "wrong md5"),
    "web page": (
        whole(b"<html>Please sign in to the network</html>".ljust(len(BYTES)), ranges=False),
        "web page",
    ),
    "truncated": (whole(BYTES[:HALF]), "broke off"),
    "404": (lambda request: request.send_error(404), "HTTP Error 404"),
    "silent": (silent_after(0), "timed out"),
    "refused": (DEAD, "refused"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_source_costs_nothing_and_is_named_or_left_for_the_next(tmp_path, use, kind):
    answer, reason = BAD[kind]
    use(answer)
    with pytest.raises(DownloadError, match=reason):
        fetch_cifar10(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {PART, f"{ARCHIVE}.lock"}
    _, good = use(answer, whole())
    (tmp_path / PART).write_bytes(BYTES[:HALF])
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert good.asked == [None if kind == "wrong md5" else f"bytes={HALF}-"]


def test_all_are_listed_with_their_reasons_and_the_way_by_hand_but_no_secrets(
    tmp_path, use, monkeypatch
):
    wrong, _ = use(whole(OTHER), DEAD)
    monkeypatch.setenv("CIFAR10_URL", DEAD.replace("//", "//me:secret@") + "?token=secret")
    with pytest.raises(DownloadError) as error:
        fetch_cifar10(tmp_path)
    text = str(error.value)
    assert f"\n  {wrong.url.partition('?')[0]}: the file has a wrong md5" in text
    assert f"\n  {DEAD}: " in text and f"get {DEAD} " in text and str(tmp_path / ARCHIVE) in text
    assert "secret" not in text and "SSL_CERT_FILE" not in text


def test_without_certificates_the_error_names_the_cure(tmp_path, monkeypatch):
    """python.org's Python on a Mac has none until its user installs them."""
    reason = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"
    monkeypatch.setattr(OpenerDirector, "open", Mock(side_effect=URLError(reason)))
    with pytest.raises(DownloadError, match="(?s)Install Certificates.command.*SSL_CERT_FILE"):
        fetch_cifar10(tmp_path)


def test_a_full_disk_is_said(tmp_path, use):
    first, second = use(whole(), whole())
    (tmp_path / PART).symlink_to("/dev/full")  # writing there fails as on a full disk
    with pytest.raises(DownloadError, match="No space left.* 360 MB"):
        fetch_cifar10(tmp_path)
    assert len(first.asked) == 1 and second.asked == []  # another source would not help


def test_a_root_that_cannot_be_written_is_named():
    with (
        public_folder() as root,
        rights(root, 0o555),
        pytest.raises(DownloadError, match=f"{root}.* may write"),
    ):
        fetch_cifar10(root)


def test_nothing_is_unpickled_before_its_md5_is_right(tmp_path):
    bomb = b"cbuiltins\nopen\n(V%b\nVw\ntR." % bytes(tmp_path / "exploded")
    (tmp_path / "data_batch_1").write_bytes(bomb)
    with pytest.raises(DownloadError, match="data_batch_1 is missing or damaged"):
        read_batches(tmp_path, train=True)
    assert not (tmp_path / "exploded").exists()

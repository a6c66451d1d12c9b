"""Packages behind HTTP, over real sockets: what is read, what is believed, and what is left behind."""

from __future__ import annotations

import gc
import io
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import (
    Limits,
    Package,
    PackageError,
    PackageFormatError,
    PackageIntegrityError,
    PackageLimitError,
    PackageNotFoundError,
    SourceError,
    TrustError,
    load_neuropod,
)
from neuropod_core.sources import Transfer

pytestmark = pytest.mark.usefixtures("calc")

PATIENT = Limits(silence_seconds=20)
ONES = {"x": np.ones((1, 1), np.float32), "y": np.ones((1, 1), np.float32)}

Write = Callable[..., Path]


def pinned(url: str, content: bytes) -> str:
    return f"{url}#sha256={sha256(content).hexdigest()}"


def leftovers(cache: Path) -> list[str]:
    """List what is left of transfers and of unpacking, but for locks that nobody holds."""
    found = [*cache.glob("v1/downloads/*"), *cache.glob("v1/unpacking/*")]
    return [path.name for path in found if path.suffix != ".lock"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_package_is_fetched_once_and_runs(server: Any, large: bytes, cache: Path) -> None:
    server.files["m"] = large

    for _ in range(2):
        with load_neuropod(server.url("m")) as model:
            assert model.infer(ONES)["sum"].tolist() == [[2.0]]
            assert model.test() == {"sum": 0.0, "difference": 0.0}

    assert server.sent < len(large) + 2 * 110_000
    assert leftovers(cache) == []


def test_describing_reads_the_directory_and_the_declaration_alone(server: Any, large: bytes) -> None:
    server.files["m"] = large

    with Package.open(server.url("m")) as package:
        assert package.config.name == "add"
        assert package.manifest is not None
        assert package.variant_config() == {}
        assert not package.is_here

    assert len(large) > 2_000_000
    assert server.sent < 110_000
    assert len(server.asked) <= 4


def test_trust_is_refused_before_anything_is_fetched(server: Any, large: bytes) -> None:
    server.files["m"] = large

    with pytest.raises(TrustError):
        load_neuropod(server.url("m"), trust="data")
    assert server.sent < 110_000


def test_content_that_is_known_by_its_manifest_is_not_fetched_again(server: Any, large: bytes) -> None:
    server.files.update(a=large, b=large)
    load_neuropod(server.url("a")).close()
    server.sent = 0

    load_neuropod(server.url("b")).close()

    assert server.sent < 110_000


def test_pinned_content_needs_no_server_once_it_is_here(server: Any, small: bytes) -> None:
    server.files["m"] = small
    load_neuropod(server.url("m")).close()  # Unpinned: its hash is known all the same.
    server.asked.clear()

    with load_neuropod(pinned(server.url("m"), small)) as model:
        model.test()
    with load_neuropod(pinned("package+https://no.such.host.invalid/m", small)) as model:
        model.test()

    assert server.asked == []


def test_another_hash_than_the_pinned_one_is_refused(server: Any, small: bytes, cache: Path) -> None:
    server.files["m"] = small

    with pytest.raises(PackageIntegrityError) as caught:
        load_neuropod(f"{server.url('m')}#sha256={'0' * 64}")
    assert caught.value.expected == f"sha256 {'0' * 64}"
    assert caught.value.got == sha256(small).hexdigest()
    assert leftovers(cache) == []
    assert not list(cache.glob("v1/packages/*"))


def test_test_data_of_a_pinned_package_is_that_of_the_hash(server: Any, small: bytes) -> None:
    server.files["m"] = small

    with (
        Package.open(f"{server.url('m')}#sha256={'0' * 64}") as package,
        pytest.raises(PackageIntegrityError),
    ):
        package.test_data()


def test_a_transfer_goes_on_where_it_was_cut(server: Any, large: bytes) -> None:
    server.files["m"], server.cut_after = large, 500_000

    with load_neuropod(server.url("m")) as model:
        model.test()

    starts = [int(asked.removeprefix("bytes=").partition("-")[0]) for _, asked in server.asked if asked]
    assert {500_000, 1_000_000, 1_500_000, 2_000_000} <= set(starts)
    assert server.sent < len(large) + 200_000


def test_a_transfer_that_failed_goes_on_in_the_next_process(server: Any, large: bytes, cache: Path) -> None:
    server.files["m"] = large

    def cut_for_good(request: Any) -> bool:
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        request.server.cut_after = 900_000 if start == 0 else (0 if start == 900_000 else None)
        return False

    server.hook = cut_for_good
    with pytest.raises(SourceError, match="goes on from there"):
        load_neuropod(server.url("m"))
    assert [path.stat().st_size for path in cache.glob("v1/downloads/*/part")] == [900_000]
    server.hook, server.cut_after, server.sent = (lambda _: False), None, 0
    seen: list[Transfer] = []

    load_neuropod(server.url("m"), on_transfer=seen.append).close()

    assert server.sent < len(large) - 900_000 + 110_000
    assert seen[-1] == Transfer(server.url("m"), len(large), len(large), 900_000)
    assert leftovers(cache) == []


def test_what_is_left_of_another_state_is_not_gone_on_with(server: Any, large: bytes, small: bytes) -> None:
    server.files["m"] = large

    def cut(request: Any) -> bool:
        request.server.cut_after = 0 if request.headers["Range"] == f"bytes=900000-{len(large) - 1}" else 900_000
        return False

    server.hook = cut
    with pytest.raises(SourceError):
        load_neuropod(server.url("m"))
    server.files["m"], server.hook, server.cut_after = small, (lambda _: False), None

    with load_neuropod(server.url("m")) as model:
        assert model.test()


def test_a_server_that_cuts_every_connection_is_given_up(server: Any, small: bytes, cache: Path) -> None:
    server.files["m"], server.cut_after = small, 0

    with pytest.raises(SourceError, match=r"the connection ended after 0 of \d+ bytes - at package\+http://127"):
        load_neuropod(server.url("m"))
    assert leftovers(cache) == []


@pytest.mark.parametrize("sized", [True, False], ids=["announced", "unannounced"])
def test_a_server_without_ranges_gives_the_whole(sized: bool, server: Any, small: bytes, cache: Path) -> None:
    server.files["m"], server.ranges, server.sized = small, False, sized

    with load_neuropod(server.url("m")) as model:
        model.test()
    assert leftovers(cache) == []


def test_a_server_without_ranges_that_cuts_is_given_up(server: Any, large: bytes, cache: Path) -> None:
    server.files["m"], server.ranges, server.cut_after = large, False, 500_000

    with pytest.raises(SourceError, match="broke off after 500000 of"):
        load_neuropod(server.url("m"))
    assert leftovers(cache) in ([], leftovers(cache)[:1])


def test_an_endless_body_is_bounded(server: Any, cache: Path) -> None:
    def endless(request: Any) -> bool:
        request.server.sized = False
        request.give(200, b"")
        while True:
            request.pour(bytes(1 << 16))

    server.hook = endless

    with pytest.raises(PackageLimitError, match="unannounced"):
        load_neuropod(server.url("m"), limits=Limits(unannounced_bytes=1 << 20))
    assert leftovers(cache) == []


def test_a_body_longer_than_its_range_is_refused(server: Any, large: bytes) -> None:
    def generous(request: Any) -> bool:
        start, stop = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        request.server.sized = False
        request.give(206, large[start : stop + 1] + b"more", '"e"', f"bytes {start}-{stop}/{len(large)}")
        return True

    server.hook = generous

    with pytest.raises(SourceError, match=r"more than the \d+ bytes that it announced"):
        Package.open(server.url("m")).folder()


@pytest.mark.parametrize("difference", [-1, 1_000_000])
def test_a_length_that_is_a_lie_is_found_out(difference: int, server: Any, small: bytes, cache: Path) -> None:
    server.ranges = False

    def lying(request: Any) -> bool:
        request.give(200, small, '"e"', length=len(small) + difference)
        return True

    server.hook = lying

    with pytest.raises(PackageError):
        load_neuropod(server.url("m"), limits=Limits(silence_seconds=5))
    assert not list(cache.glob("v1/packages/*"))


def test_another_range_than_the_one_asked_for_is_refused(server: Any, large: bytes) -> None:
    def shifted(request: Any) -> bool:
        start, stop = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        shift = 1 if start else 0
        body = large[start - shift : stop + 1 - shift]
        request.give(206, body, '"e"', f"bytes {start - shift}-{stop - shift}/{len(large)}")
        return True

    server.hook = shifted

    with pytest.raises(PackageIntegrityError, match="another one by now"):
        Package.open(server.url("m"))


def test_a_file_that_is_replaced_between_two_reads_is_noticed(server: Any, large: bytes, write: Write) -> None:
    server.files["m"] = large

    with Package.open(server.url("m")) as package:
        server.files["m"] = large[:1_000_000] + b"other" + large[1_000_005:]
        with pytest.raises(PackageIntegrityError, match="another one by now"):
            package.folder()


def test_a_file_that_is_replaced_while_nothing_tells_is_noticed_too(
    server: Any, small: bytes, write: Write, tmp_path: Path
) -> None:
    other = write(tmp_path / "other", "identity", test_input_data=None).read_bytes()
    server.files["m"], server.validated = small, False

    with Package.open(server.url("m")) as package:
        server.files["m"] = other
        with pytest.raises(PackageIntegrityError):
            package.folder()


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/m", "gopher://x/", "http://[x"])
def test_a_redirection_out_of_http_is_refused(target: str, server: Any) -> None:
    server.hook = lambda request: request.redirect(target) or True

    with pytest.raises(SourceError) as caught:
        load_neuropod(server.url("m"))
    assert str(caught.value).count("\n") == 0


def test_redirections_are_followed_and_not_for_ever(server: Any, small: bytes) -> None:
    server.files["real"] = small
    server.hook = lambda request: bool(request.path == "/m" and (request.redirect("/real") or True))
    with load_neuropod(server.url("m")) as model:
        model.test()
    server.hook = lambda request: request.redirect(f"{request.path}x") or True

    with pytest.raises(SourceError):
        load_neuropod(server.url("again"))


def test_a_password_goes_to_its_server_and_into_no_message(server: Any, small: bytes) -> None:
    server.files["m"] = small
    seen = []

    def guarded(request: Any) -> bool:
        seen.append(request.headers.get("Authorization"))
        if request.path.startswith("/m"):
            return False
        request.send_error(403)
        return True

    server.hook = guarded
    url = server.url("m").replace("127.0.0.1", "somebody:s%40cret@127.0.0.1") + "?signature=s3cret"
    with load_neuropod(url) as model:
        model.test()
    with pytest.raises(SourceError) as caught:
        load_neuropod(url.replace("/m?", "/private?"))

    assert set(seen) == {"Basic c29tZWJvZHk6c0BjcmV0"}
    assert "cret" not in str(caught.value)
    assert "somebody" not in str(caught.value)


def test_a_password_does_not_go_to_another_server(server: Any, small: bytes) -> None:
    server.files["m"] = small
    seen = {}

    def elsewhere(request: Any) -> bool:
        seen[request.headers["Host"].partition(":")[0]] = request.headers.get("Authorization")
        if request.headers["Host"].startswith("localhost"):
            request.redirect(f"http://127.0.0.1:{request.server.server_port}/m")
            return True
        return False

    server.hook = elsewhere
    load_neuropod(server.url("m").replace("127.0.0.1", "user:password@localhost")).close()

    assert seen["localhost"] is not None
    assert seen["127.0.0.1"] is None


@pytest.mark.parametrize("code", [404, 410, 403, 401, 418])
def test_refusals_of_the_server_are_told(code: int, server: Any) -> None:
    server.hook = lambda request: request.send_error(code) or True

    with pytest.raises(PackageNotFoundError if code in (404, 410) else SourceError, match=str(code)):
        load_neuropod(server.url("m"))
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: Any, small: bytes) -> None:
    server.files["m"] = small
    server.hook = lambda request: bool(len(request.server.asked) < 3 and (request.send_error(503) or True))

    with load_neuropod(server.url("m")) as model:
        model.test()


def test_a_silent_server_is_given_up(server: Any, small: bytes) -> None:
    def silent(request: Any) -> bool:
        request.connection.recv(1)  # Until the client goes away.
        return True

    server.hook = silent

    with pytest.raises(SourceError, match=r"TimeoutError: (no answer within|timed out)"):
        load_neuropod(server.url("m"), limits=Limits(silence_seconds=0.05))


def test_a_server_that_drips_is_given_up(server: Any, large: bytes) -> None:
    server.files["m"] = large

    def dripping(request: Any) -> bool:
        if request.headers["Range"] == "bytes=0-0":
            return False
        request.give(206, b"", "", f"{request.headers['Range'].replace('=', ' ')}/{len(large)}", length=1 << 16)
        while not request.server.stopped.wait(0.02):
            request.pour(b"x")
        return True

    server.hook, server.stopped, server.validated = dripping, threading.Event(), False

    with pytest.raises(SourceError, match=r"bytes came in 0\.4 s"):
        Package.open(server.url("m"), limits=Limits(silence_seconds=0.4))
    server.stopped.set()


def test_a_server_that_drips_the_head_of_its_answer_is_given_up(server: Any) -> None:
    stopped = threading.Event()

    def dripping(request: Any) -> bool:
        try:
            request.connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while not stopped.wait(0.01):
                request.connection.sendall(b"x")
        except OSError:
            pass
        request.close_connection = True
        return True

    server.hook = dripping

    with pytest.raises(SourceError, match=r"no answer within 0\.4 s"):
        Package.open(server.url("m"), limits=Limits(silence_seconds=0.4))
    stopped.set()


@pytest.fixture
def tls(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the server speak TLS, by a certificate of its own; give the file with that."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate")
    made = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate"), "-days", "1"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", *made, *subject], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return str(tmp_path / "certificate")


def https(server: Any, name: str) -> str:
    return f"package+https://localhost:{server.server_port}/{name}"


def test_tls_is_spoken(server: Any, small: bytes, tls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["m"] = small
    monkeypatch.setenv("SSL_CERT_FILE", tls)

    with load_neuropod(https(server, "m")) as model:
        model.test()


def test_a_certificate_that_nobody_vouches_for_is_refused(server: Any, small: bytes, tls: str) -> None:
    server.files["m"] = small

    with pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"):
        load_neuropod(https(server, "m"))


def test_a_redirection_out_of_tls_is_refused(server: Any, tls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", tls)
    server.hook = lambda request: request.redirect("http://localhost:1/m") or True

    with pytest.raises(SourceError, match="from https://"):
        load_neuropod(https(server, "m"))


@pytest.mark.parametrize("content", [b"", b"x", b"PK\5\6" + bytes(18), bytes(200_000)], ids=len)
def test_what_is_no_package_is_no_package(content: bytes, server: Any, cache: Path) -> None:
    server.files["m"] = content

    with pytest.raises((PackageFormatError, SourceError)):
        load_neuropod(server.url("m"))
    assert leftovers(cache) == []


def test_a_damaged_archive_is_refused_and_not_kept(server: Any, large: bytes, cache: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(large)) as archive:
        middle = archive.getinfo("test_data.safetensors").header_offset + 100_000
    server.files["m"] = large[:middle] + b"damaged" + large[middle + 7 :]

    with pytest.raises(PackageError):
        Package.open(server.url("m")).folder()
    assert leftovers(cache) == []
    assert not list(cache.glob("v1/packages/*"))


def test_concurrent_openers_fetch_once(server: Any, large: bytes) -> None:
    server.files["m"] = large

    def tested(_: int) -> dict[str, float]:
        with load_neuropod(server.url("m")) as model:
            return model.test()

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(tested, range(6))) == [{"sum": 0.0, "difference": 0.0}] * 6
    assert server.sent < len(large) + 6 * 110_000


def test_a_killed_opener_leaves_a_beginning_that_is_used(server: Any, large: bytes, cache: Path) -> None:
    server.files["m"] = large
    held = []

    def stopping(request: Any) -> bool:
        start, stop = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        if start or stop != len(large) - 1:
            return False
        request.give(206, large[:1_000_000], "", f"bytes 0-{stop}/{len(large)}", length=len(large))
        held.append(request.connection.recv(1))  # Until the client is gone.
        return True

    server.hook, server.validated = stopping, False
    url = pinned(server.url("m"), large)
    code = "import sys; from neuropod_core import Package; Package.open(sys.argv[1]).folder()"
    process = subprocess.Popen([sys.executable, "-c", code, url], env={**os.environ})
    with server.changed:
        assert server.changed.wait_for(lambda: server.sent > 1_000_000, timeout=60)
    while sum(path.stat().st_size for path in cache.glob("v1/downloads/*/part")) < 500_000:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.hook, server.sent = (lambda _: False), 0

    with load_neuropod(url) as model:
        model.test()

    assert server.sent < len(large) - 400_000
    assert leftovers(cache) == []


def test_a_cache_that_cannot_be_written_is_done_without(
    server: Any, small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    server.files["m"] = small

    with load_neuropod(server.url("m")) as model:
        model.test()
    del model
    gc.collect()

    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_cache_folder_that_was_named_must_be_writable(server: Any, small: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server.files["m"] = small

    with pytest.raises(PackageError, match="cache"):
        load_neuropod(server.url("m"), cache_dir=tmp_path / "file")

"""The hashed lock: what is written, what is read, and what hides in one that somebody else wrote."""

from __future__ import annotations

import base64
import hashlib
import logging
import platform
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuropod_core import (
    Executor,
    NeuropodError,
    PackageFormatError,
    PackageLimitError,
    PackagingError,
    RequirementsError,
    load_neuropod,
)
from neuropod_python import create_python_neuropod
from neuropod_python.locking import hashed_lock, locks
from neuropod_python.pylock import parse_pylock
from neuropod_python.requirements import check_installed, locked

Load = Callable[..., Executor]

_ENTRY = {"entry.py": "def main(path):\n    return lambda x: {'y': x}\n"}
_HASH = "0" * 64
_WHEEL = f'{{ url = "https://x.example/n-1-py3-none-any.whl", hashes = {{ sha256 = "{_HASH}" }} }}'

needs_uv = pytest.mark.skipif(find_spec("uv") is None, reason="uv is not installed")


def pylock(*packages: str, head: str = "") -> str:
    """Write a lock whose packages are given by the lines of their tables."""
    tables = "".join(f"\n[[packages]]\n{package}\n" for package in packages)
    return f'lock-version = "1.0"\ncreated-by = "by hand"\n{head}\n{tables}'


def package(name: str, version: str, more: str = "") -> str:
    return f'name = "{name}"\nversion = "{version}"\nwheels = [{_WHEEL}]\n{more}'


_NUMPY = package("numpy", np.__version__)


# -- reading


@pytest.mark.parametrize("here", [("plain",), ("hashed",), ("plain", "hashed")], ids="-".join)
def test_a_lock_in_either_file_is_compared(load: Load, here: tuple[str, ...]) -> None:
    met = {"lock": f"numpy=={np.__version__}\n", "pylock": pylock(_NUMPY)}
    unmet = {"lock": "numpy==1.0\n", "pylock": pylock(package("NumPy", "1.0"))}
    names = {"plain": "lock", "hashed": "pylock"}

    executor = load(_ENTRY, **{names[kind]: met[names[kind]] for kind in here})
    with pytest.raises(RequirementsError) as raised:
        load(_ENTRY, **{names[kind]: unmet[names[kind]] for kind in here})

    assert executor.infer({"x": np.ones(1, np.float32)})["y"].tolist() == [1]
    assert [line.lower() for line in raised.value.differences] == [f"numpy 1.0 (installed {np.__version__})"]
    load(_ENTRY, ignore_requirements=True, **{names[kind]: unmet[names[kind]] for kind in here})


@pytest.mark.parametrize(
    ("plain", "hashed", "message"),
    [
        ("numpy==1.0\n", pylock(_NUMPY), f"numpy is locked to ==1.0 and to =={np.__version__}"),
        (f"numpy=={np.__version__}\n", pylock(package("numpy", "1.0")), "and to ==1.0"),
        ("", pylock(_NUMPY), "numpy is locked to no version and to =="),
        (f"numpy=={np.__version__}\nsix==1\n", pylock(_NUMPY), "six is locked to ==1 and to no version"),
    ],
)
def test_files_that_differ_are_refused(load: Load, plain: str, hashed: str, message: str) -> None:
    with pytest.raises(PackageFormatError, match=message):
        load(_ENTRY, lock=plain, pylock=hashed)


def test_files_that_spell_one_version_in_two_ways_agree(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("a_b==1.0\n")
    (tmp_path / "pylock.toml").write_text(pylock(package("A-b", "1.0.0")))

    lock = locked(tmp_path)

    assert lock is not None
    assert list(lock.pins) == ["a-b"]


def test_another_python_is_a_difference(tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text(pylock(_NUMPY, head='requires-python = ">=3.99"'))

    with pytest.raises(RequirementsError) as raised:
        check_installed(tmp_path)

    assert raised.value.differences == (f"python >=3.99 (this is {platform.python_version()})",)


def test_a_file_needs_no_address_since_its_hash_says_all() -> None:
    text = pylock(package("a", "1").replace("url", "link"))

    assert list(parse_pylock(text, at="0/pylock.toml").pins) == ["a"]


def test_markers_choose_what_is_compared() -> None:
    elsewhere = package("absent", "1", "marker = \"sys_platform == 'none'\"")
    other = package("numpy", "1.0", "marker = \"python_version < '3'\"")

    assert list(parse_pylock(pylock(_NUMPY, elsewhere, other)).pins) == ["numpy"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected lock-version 1.0, got None"),
        ('lock-version = "2.0"', "expected lock-version 1.0, got '2.0'"),
        ("lock-version = 1.0", "expected lock-version 1.0, got 1.0"),
        ("lock-version =", "is no TOML"),
        (pylock(head="requires-python = 3"), "requires-python is a range of versions, not 3"),
        (pylock(head='requires-python = "banana"'), "requires-python is a range of versions, not 'banana'"),
        (pylock(head="packages = 3"), "packages is a list of tables, not 3"),
        (pylock(head="packages = [3]"), "packages is a list of tables"),
        (pylock("name = 3"), "name is a text, not 3"),
        (pylock('name = ""'), "name is a text, not ''"),
        (pylock(f'name = "{"a" * 300}"'), "name is a text"),
        (pylock('name = "a"'), "'a' has no version"),
        (pylock('name = "a"\nversion = 1'), "version is a text, not 1"),
        (pylock('name = "a"\nvcs = { type = "git", url = "https://x" }'), "'a' comes from a repository"),
        (pylock(package("a @ file:///etc/passwd", "1")), "is no name of a distribution"),
        (pylock(package("--index-url", "1")), "is no name of a distribution"),
        (pylock(package("a", "1; import os")), "is no version"),
        (pylock(package("a", "*")), "is no version"),
        (pylock(package("a", "1"), package("A", "2")), "a is locked twice, to ==1 and ==2"),
        (pylock(package("a", "1", "marker = 3")), "marker is a text, not 3"),
        (pylock(package("a", "1", 'marker = "os.system"')), "is no marker"),
        (pylock(package("a", "1", f'marker = "{"(" * 3000}"')), "is no marker"),
        (pylock(package("a", "1", 'vcs = { type = "git", url = "https://x" }')), "'a' comes from a repository"),
        (pylock(package("a", "1", 'directory = { path = "." }')), "'a' comes from a folder"),
        (pylock(package("a", "1", 'archive = { path = "a.zip" }')), "'a' comes from an archive of no index"),
        (pylock(package("a", "1").replace("https://", "file:///")), "'a' comes from 'file:///x.example"),
        (pylock(package("a", "1").replace("url", "path")), "'a' comes from 'https://x.example"),
        (pylock(package("a", "1").replace('url = "', 'url = 3 # "')), "'a' comes from 3|is no TOML"),
        (pylock(package("a", "1").replace(_HASH, "../../etc")), "a file of 'a' has no hashes"),
        (pylock(package("a", "1").replace("hashes", "size")), "a file of 'a' has no hashes"),
        (pylock(package("a", "1", "sdist = 3")), "wheels and sdist are tables, not 3"),
        (pylock('name = "a"\nversion = "1"\nwheels = 3'), "wheels and sdist are tables, not 3"),
        ("a = " + "[" * 5000, "nested too deeply|is no TOML"),
        ("a = " + "9" * 5000, "is no TOML"),
        ('a = """\n"""', "a string of several lines"),
    ],
)
def test_locks_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(PackageFormatError, match=message) as raised:
        parse_pylock(text, at="0/pylock.toml")

    assert raised.value.at.startswith("0/pylock.toml")
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a" + ".a" * 100_000 + " = 1", "dots in a line of a lock"),
        ("[" + '"a".' * 100_000 + '"a"]', "dots in a line of a lock"),
        ('b = {c = "\\"", ' + "'a'." * 100_000 + "a = 1}", "dots in a line of a lock"),
        (pylock(*[package("a", "1")] * 5001), "packages of a lock"),
    ],
    ids=["bare", "quoted", "escaped", "packages"],
)
def test_locks_that_would_take_for_ever_are_refused_at_once(text: str, what: str) -> None:
    before = time.monotonic()
    with pytest.raises(PackageLimitError, match=what):
        parse_pylock(text)

    assert time.monotonic() - before < 20


def test_quotes_without_end_take_no_time() -> None:
    before = time.monotonic()
    with pytest.raises(PackageFormatError, match="is no TOML"):
        parse_pylock("a = " + '\\"' * 1_000_000)

    assert time.monotonic() - before < 20


def test_files_are_bounded_and_text(tmp_path: Path) -> None:
    for content, error in ((b"#" * (5 << 20), PackageLimitError), (b"\xff\xfe", PackageFormatError)):
        (tmp_path / "pylock.toml").write_bytes(content)
        with pytest.raises(error, match="hashed lock"):
            check_installed(tmp_path)


_WORDS = [
    "[[packages]]",
    "[",
    "]",
    "{",
    "}",
    "=",
    '"',
    "'",
    "\n",
    ".",
    "name",
    "version",
    "wheels",
    "hashes",
    "1",
    "\\",
]


@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from(_WORDS), max_size=40).map("".join),
        st.dictionaries(st.sampled_from(["name", "version", "marker", "sdist", "wheels", "vcs"]), st.text()).map(
            lambda entry: pylock("\n".join(f"{key} = '{value}'" for key, value in entry.items()))
        ),
    )
)
def test_any_text_is_a_lock_or_our_error(text: str) -> None:
    try:
        lock = parse_pylock(text)
    except NeuropodError:
        return
    assert all(len(list(pin.specifier)) == 1 for pin in lock.pins.values())


# -- writing, from an index of our own


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve an index that has two releases of one distribution, and nothing else."""
    root = tmp_path / "index"
    _release(root, "small-model-dependency", "1.5", needs=())
    _release(root, "small-model", "2.0", needs=("small-model-dependency>=1",))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{address}/simple/")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
        for variable in ("UV_INDEX", "UV_FIND_LINKS", "UV_OFFLINE"):
            monkeypatch.delenv(variable, raising=False)
        for variable in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(variable, "127.0.0.1")
        yield address
        server.shutdown()
        thread.join()


def _release(root: Path, name: str, version: str, needs: tuple[str, ...]) -> None:
    (root / "simple" / name).mkdir(parents=True)
    module = name.replace("-", "_")
    wheel = root / "simple" / name / f"{module}-{version}-py3-none-any.whl"
    about = "".join(f"Requires-Dist: {need}\n" for need in needs)
    files = {
        f"{module}.py": "",
        f"{module}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{about}",
        f"{module}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        lines = [f"{file},sha256={_record_hash(text)},{len(text)}\n" for file, text in files.items()]
        record = f"{module}-{version}.dist-info/RECORD"
        archive.writestr(record, "".join([*lines, f"{record},,\n"]))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    page = f'<!DOCTYPE html><html><body><a href="{wheel.name}#sha256={digest}">{wheel.name}</a></body></html>'
    (wheel.parent / "index.html").write_text(page)


def _record_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _sha256(index_root: Path, name: str) -> str:
    (wheel,) = (index_root / "simple" / name).glob("*.whl")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@needs_uv
def test_what_is_not_installed_is_resolved_and_hashed(index: str, tmp_path: Path) -> None:
    files = locks("small_model>=1\n", hashes=True)

    assert files["requirements.lock"] == "small-model==2.0\nsmall-model-dependency==1.5\n"
    lock = parse_pylock(files["pylock.toml"])
    assert list(lock.pins) == ["small-model", "small-model-dependency"]
    assert lock.requires_python.contains(platform.python_version())
    for name in lock.pins:
        assert _sha256(tmp_path / "index", name) in files["pylock.toml"]
    assert index in files["pylock.toml"]


@needs_uv
def test_both_files_are_packaged_and_agree(index: str, tmp_path: Path) -> None:
    (tmp_path / "entry.py").write_text(_ENTRY["entry.py"])
    path = tmp_path / "model.neuropod"

    create_python_neuropod(
        neuropod_path=path,
        model_name="model",
        entrypoint="main",
        entrypoint_package="entry",
        code_path_spec=[{"python_root": tmp_path, "dirs_to_package": ["entry.py"]}],
        input_spec={"x": "float32[N]"},
        output_spec={"y": "float32[N]"},
        requirements="small-model",
        package_as_zip=False,
        neuropod_load_args={"options": {"ignore_requirements": True}},
    )

    lock = locked(path / "0")
    assert lock is not None
    assert list(lock.pins) == ["small-model", "small-model-dependency"]
    assert (path / "0" / "requirements.lock").read_text() == "small-model==2.0\nsmall-model-dependency==1.5\n"
    with pytest.raises(RequirementsError, match="small-model 2.0 \\(not installed\\)"):
        load_neuropod(path, trust="code", cache_dir=tmp_path / "cache")


@needs_uv
def test_versions_that_no_index_has_are_locked_without_hashes(index: str, caplog: pytest.LogCaptureFixture) -> None:
    installed = metadata.version("pluggy")
    with caplog.at_level(logging.WARNING, "neuropod"):
        files = locks("pluggy")

    assert files == {"requirements.lock": f"pluggy=={installed}\n"}
    assert "requirements.lock is written without pylock.toml" in caplog.text
    with pytest.raises(PackagingError, match=r"pylock\.toml cannot be written; uv cannot resolve them: .*pluggy"):
        locks("pluggy", hashes=True)


@needs_uv
def test_files_of_this_machine_are_never_locked(index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", (tmp_path / "index" / "simple").as_uri())

    with pytest.raises(PackagingError, match="uv gave no lock that holds elsewhere: 'small-model' comes from"):
        hashed_lock("small-model==2.0\n")


def test_no_index_is_asked_where_no_hashes_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/")

    assert list(locks("numpy", hashes=False)) == ["requirements.lock"]


def test_hashes_need_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(__import__("sys").modules, "uv", None)

    assert list(locks("numpy")) == ["requirements.lock"]
    with pytest.raises(PackagingError, match=r"pylock\.toml cannot be written; .*neuropod-python\[lock\]"):
        locks("numpy", hashes=True)

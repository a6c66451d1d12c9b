from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from neuropod_core import (
    EnvironmentBuildError,
    InterpreterError,
    Package,
    PackageFormatError,
    PackageIntegrityError,
    TrustError,
    environments,
)
from neuropod_core.environments import (
    Environment,
    environment_for,
    export_wheels,
    kept_environments,
    prune_environments,
    wheels_beside,
)
from neuropod_core.environments._pythons import uv
from neuropod_core.environments._store import Place, store, wheel_folder

HERE = Path(__file__).parent
OTHERS = sorted(Path(os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser())).glob("versions/3.1[0-3].*"))
OTHER = next((path for path in OTHERS if f"3.{sys.version_info[1]}." not in path.name), None)

if sys.platform == "win32":
    pytest.skip("links and locks of POSIX", allow_module_level=True)


ONE = 'lock-version = "1.0"\n[[packages]]\nname = "one"\nversion = "1"\n'
CONFIG = {
    "name": "locked",
    "platform": "python",
    "input_spec": [{"name": "x", "dtype": "float32", "shape": ["N"]}],
    "output_spec": [{"name": "y", "dtype": "float32", "shape": ["N"]}],
}


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    tag: str = "py3-none-any",
    files: Mapping[str, str] | None = None,
    scripts: str = "",
) -> Path:
    """Write a wheel with a module of its own name that knows its version."""
    described = f"{name}-{version}.dist-info"
    content = {
        f"{name}.py": f"VERSION = {version!r}\n",
        **(files or {}),
        f"{described}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{described}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    if scripts:
        content[f"{described}/entry_points.txt"] = f"[console_scripts]\n{scripts}\n"
    content[f"{described}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{described}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in content.items():
            archive.writestr(zipfile.ZipInfo(inner), text)
    return path


def entry(*wheels: Path, url: str = "", marker: str = "", digest: str = "") -> str:
    """Write the entry of a lock for one distribution that has these wheels."""
    name, version, *_ = wheels[0].name.split("-")
    listed = ", ".join(
        f'{{ name = "{path.name}", url = "{url}{path.name}", hashes = {{ sha256 = "{digest or digest_of(path)}" }} }}'
        for path in wheels
    )
    wanted = f"marker = {json.dumps(marker)}\n" if marker else ""
    return f'[[packages]]\nname = "{name}"\nversion = "{version}"\n{wanted}wheels = [{listed}]\n'


def digest_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def lock(*entries: str, requires: str = ">=3.10") -> str:
    head = f'lock-version = "1.0"\ncreated-by = "tests"\nrequires-python = "{requires}"\n'
    return "\n".join([head, *entries])


def package(path: Path, locked: str | None, inside: Sequence[Path] = ()) -> Path:
    """Write a package as a folder, perhaps with a lock, and with wheels inside."""
    (path / "0" / "wheels").mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    if locked is not None:
        (path / "0" / "pylock.toml").write_text(locked)
    for one in inside:
        (path / "0" / "wheels" / one.name).write_bytes(one.read_bytes())
    return path


def built(path: Path, **arguments: Any) -> Environment:
    with Package.open(path) as opened:
        return environment_for(opened, **{"trust": "code", "offline": True, **arguments})


def runs(environment: Environment, program: str) -> str:
    ran = subprocess.run(
        [environment.python.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    )
    return ran.stdout.strip()


def left() -> list[str]:
    """List what lies among the environments that is no lock."""
    return sorted(path.name for path in store().glob("*") if path.suffix != ".lock") if store().exists() else []


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """Give the wheel of a distribution ``one`` that needs nothing."""
    return wheel(tmp_path / "made", "one")


@pytest.fixture
def locked(tmp_path: Path, one: Path) -> Path:
    """Give a package that locks ``one``, with its wheel inside."""
    return package(tmp_path / "locked.neuropod", lock(entry(one)), [one])


class Index:
    """A server of files that counts what it is asked for; it may answer wrongly, or wait before it does."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.status, self.content, self.missing, self.says_length = 200, b"", 0, True
        self.arrived, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self._folder = folder
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        self.arrived.set()
        self.go_on.wait(60)
        content = self.content or (self._folder / request.path[1:]).read_bytes()
        request.send_response(self.status)
        if self.says_length:
            request.send_header("Content-Length", str(len(content) + self.missing))
        request.end_headers()
        request.wfile.write(content)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    serving = Index(tmp_path / "made")
    thread = threading.Thread(target=serving.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield serving
    serving.go_on.set()
    serving.server.shutdown()
    thread.join()
    serving.server.server_close()


@pytest.fixture(params=["uv", "pip"])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Build by each installer."""
    if request.param == "pip":
        monkeypatch.setattr("neuropod_core.environments._build.uv", lambda: None)
    elif uv() is None:
        pytest.skip("uv is not installed")
    return str(request.param)


# ------------------------------------------------------------------------------------------------------ what is built


def test_environment_is_built_once_and_found_again(installer: str, locked: Path) -> None:
    told: list[str] = []
    first = built(locked, progress=told.append)
    second = built(locked, progress=pytest.fail)

    assert (first.built, second.built) == (True, False)
    assert any(installer in line for line in told)
    assert runs(second, "import one, sys; print(one.VERSION, sys.prefix != sys.base_prefix)") == "1.0 True"
    assert second.python.version == ".".join(map(str, sys.version_info[:3]))
    assert second.python.distributions["one"] == "1.0"
    assert first.folder == second.folder == Path(runs(first, "import sys; print(sys.prefix)"))


def test_environment_sees_nothing_of_its_parent(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("PIP_TARGET", str(HERE))
    monkeypatch.setenv("UV_SYSTEM_PYTHON", "1")
    environment = built(locked)

    program = (
        "import importlib.util as u; print([n for n in ('numpy', 'pytest', 'wheelwright', 'one') if u.find_spec(n)])"
    )
    assert runs(environment, program) == "['one']"


@pytest.mark.parametrize("place", ["inside", "beside", "named"])
def test_wheels_are_found_where_they_may_lie(place: str, tmp_path: Path, one: Path) -> None:
    path = package(tmp_path / "m.neuropod", lock(entry(one)), [one] if place == "inside" else [])
    if place == "beside":
        shutil.copytree(one.parent, wheels_beside(path))
    environment = built(path, wheels=[one.parent] if place == "named" else [])

    assert runs(environment, "import one; print(one.VERSION)") == "1.0"


def test_environment_is_built_from_an_archive(tmp_path: Path, locked: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", locked))

    assert runs(built(archive), "import one; print(one.VERSION)") == "1.0"


def test_scripts_of_distributions_run(installer: str, tmp_path: Path) -> None:
    made = wheel(tmp_path, "tool", files={"tool.py": "def main(): print('runs')\n"}, scripts="tool = tool:main")
    environment = built(package(tmp_path / "m.neuropod", lock(entry(made)), [made]))
    ran = subprocess.run([environment.folder / "bin" / "tool"], check=True, capture_output=True, text=True)

    assert ran.stdout == "runs\n"


def test_nothing_that_is_installed_runs_while_it_is_built(installer: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    code = f"import os; os.close(os.open({str(proof)!r}, os.O_CREAT))\n"
    made = wheel(tmp_path, "one", files={"one.pth": code, "sitecustomize.py": code})
    environment = built(package(tmp_path / "m.neuropod", lock(entry(made)), [made]))
    silent = not proof.exists()
    runs(environment, "import one")

    assert (silent, proof.exists()) == (True, True)
    assert list(environment.folder.glob("lib/python*/site-packages/__pycache__/one.*.pyc"))


def test_lock_without_packages_gives_an_empty_environment(tmp_path: Path) -> None:
    environment = built(package(tmp_path / "m.neuropod", lock()))

    assert set(environment.python.distributions) <= {"pip", "setuptools"}


def test_marker_that_does_not_hold_is_left_out(tmp_path: Path, one: Path) -> None:
    elsewhere = '[[packages]]\nname = "two"\nversion = "1"\nmarker = "sys_platform == \'plan9\'"\n[packages.sdist]\n'
    path = package(tmp_path / "m.neuropod", lock(entry(one, marker="python_version >= '3'"), elsewhere), [one])

    assert set(built(path).python.distributions) >= {"one"}


def test_best_wheel_is_taken(tmp_path: Path) -> None:
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}-none-any"
    plain, better, none = (wheel(tmp_path, "one", tag=t) for t in ("py3-none-any", tag, "cp27-none-any"))
    path = package(tmp_path / "m.neuropod", lock(entry(none, plain, better)), [plain, better, none])
    environment = built(path)

    record = json.loads((environment.folder.parent / "record.json").read_text())
    assert record["wheels"] == [better.name]


@pytest.mark.skipif(OTHER is None, reason="one Python alone is here")
def test_first_python_that_has_all_wheels_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OTHER is not None
    minor = "".join(OTHER.name.split(".")[:2])
    made = wheel(tmp_path, "one", tag=f"cp{minor}-none-any")
    environment = built(package(tmp_path / "m.neuropod", lock(entry(made)), [made]))

    assert environment.python.version.startswith(f"3.{minor[1:]}.")
    assert runs(environment, "import one; print(one.VERSION)") == "1.0"


@pytest.mark.skipif(OTHER is None, reason="one Python alone is here")
def test_python_that_is_named_is_taken(locked: Path) -> None:
    assert OTHER is not None
    environment = built(locked, python=OTHER)

    assert environment.python.version == OTHER.name
    assert built(locked).python.version != OTHER.name


# ------------------------------------------------------------------------------------------------------ what is refused


def refused(path: Path, **arguments: Any) -> EnvironmentBuildError:
    with pytest.raises(EnvironmentBuildError) as caught:
        built(path, **arguments)
    assert left() == []
    return caught.value


def test_less_trust_than_code_is_refused(locked: Path) -> None:
    with pytest.raises(TrustError, match="distributions of its lock are installed"):
        built(locked, trust="graph")

    assert left() == []


def test_package_without_a_lock_is_refused(tmp_path: Path) -> None:
    error = refused(package(tmp_path / "m.neuropod", None))

    assert error.reason == "lock"
    assert "neuropod-python[lock]" in error.remedy


def test_wheel_that_is_not_here_is_named_where_nothing_may_be_fetched(tmp_path: Path, one: Path) -> None:
    two = wheel(tmp_path, "two")
    error = refused(package(tmp_path / "m.neuropod", lock(entry(one), entry(two))))

    assert error.reason == "offline"
    assert one.name in error.what
    assert "1 more" in error.what
    assert "neuropod env export" in error.remedy


def test_wheel_that_was_changed_is_refused(tmp_path: Path, one: Path, locked: Path) -> None:
    wheel(locked / "0" / "wheels", "one", files={"evil.py": ""})
    error = refused(locked)

    assert error.reason == "hash"
    assert str(locked / "0" / "wheels" / one.name) in error.what


def test_distribution_that_is_locked_twice_is_refused(tmp_path: Path, one: Path) -> None:
    newer = wheel(tmp_path, "one", "2.0")
    with pytest.raises(PackageFormatError, match="one is locked twice"):
        built(package(tmp_path / "m.neuropod", lock(entry(one), entry(newer)), [one, newer]))


def test_distribution_without_wheels_is_refused(tmp_path: Path) -> None:
    source = '[[packages]]\nname = "two"\nversion = "1"\n[packages.sdist]\nurl = "https://x/two-1.tar.gz"\n'
    error = refused(package(tmp_path / "m.neuropod", lock(source)))

    assert error.reason == "sdist"
    assert "two 1 has no wheel in the lock but an sdist" in error.what


def test_wheels_for_other_pythons_are_refused(tmp_path: Path) -> None:
    made = wheel(tmp_path, "one", tag="cp27-none-any")
    path = package(tmp_path / "m.neuropod", lock(entry(made)), [made])
    error = refused(path, python=sys.executable)

    assert error.reason == "wheel"
    assert made.name in error.what
    with pytest.raises(InterpreterError, match="no wheel of one 1.0 fits"):
        built(path)


def test_range_that_no_python_is_in_is_refused(tmp_path: Path, one: Path) -> None:
    path = package(tmp_path / "m.neuropod", lock(entry(one), requires=">=3.99"), [one])
    with pytest.raises(InterpreterError) as caught:
        built(path)
    with pytest.raises(InterpreterError, match=r">=3\.99"):
        built(path, python=sys.executable)

    assert caught.value.asked == ">=3.99"
    assert any(sys.executable in line and "not in the range" in line for line in caught.value.there)


def test_lock_without_hashes_is_refused(tmp_path: Path, one: Path) -> None:
    error = refused(package(tmp_path / "m.neuropod", lock(entry(one, digest="abc")), [one]))

    assert error.reason == "hash"


@pytest.mark.parametrize(
    "text",
    [
        "no toml",
        'lock-version = "2.0"',
        'lock-version = "1.0"\npackages = 3',
        'lock-version = "1.0"\nrequires-python = "three"',
        'lock-version = "1.0"\nrequires-python = 3',
        'lock-version = "1.0"\nrequires-python = "===0/python"',
        'lock-version = "1.0"\n[[packages]]\nname = "one"',
        'lock-version = "1.0"\n[[packages]]\nname = "one"\nversion = "x"',
        'lock-version = "1.0"\n[[packages]]\nname = "one"\nversion = "1"\nmarker = "x"\nwheels = []',
        ONE + "wheels = [3]",
        ONE + 'wheels = [{ name = "../one-1-py3-none-any.whl" }]',
        ONE + 'wheels = [{ url = "https://x/one-1.tar.gz" }]',
        ONE + 'wheels = [{ url = "https://x/two-1-py3-none-any.whl" }]',
        ONE + 'wheels = [{ url = "https://x/one-2-py3-none-any.whl" }]',
        'lock-version = "1.0"\nx = ' + "[" * 5000,
    ],
)
def test_text_that_is_no_lock_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(PackageFormatError, match=r"pylock\.toml"):
        built(package(tmp_path / "m.neuropod", text))

    assert left() == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ('vcs = { type = "git", url = "https://x/y", commit-id = "abc" }', "a repository (vcs)"),
        ('directory = { path = "six" }', "a folder (directory)"),
        ('archive = { url = "https://x/six.zip", hashes = { sha256 = "abc" } }', "an archive of sources (archive)"),
    ],
)
def test_source_without_a_version_is_told(source: str, told: str, tmp_path: Path) -> None:
    error = refused(package(tmp_path / "m.neuropod", lock(f'[[packages]]\nname = "six"\n{source}\n')))

    assert (error.reason, f"six has no wheel in the lock but {told}" in error.what) == ("sdist", True)
    assert "build a wheel of it, put that into 0/wheels" in error.remedy


@pytest.mark.parametrize(
    "place", ["url = 'file:///dev/zero'", "url = 'FILE:x'", "path = '/tmp/x.whl'", "path = '../x.whl'", "path = 'c:/x'"]
)
def test_file_of_a_machine_is_refused(place: str, tmp_path: Path, one: Path) -> None:
    text = lock(entry(one)).replace('url = "one-1.0-py3-none-any.whl"', place)
    error = refused(package(tmp_path / "m.neuropod", text, [one]), offline=False)

    assert error.reason == "lock"
    assert "a file of some machine" in error.what
    assert "0/wheels of the package" in error.remedy


def test_wheel_inside_may_be_named_by_its_path(tmp_path: Path, one: Path) -> None:
    text = lock(entry(one)).replace('url = "one', 'path = "wheels/one')

    assert built(package(tmp_path / "m.neuropod", text, [one])).built


def with_other_lock(path: Path, text: str) -> Path:
    (path / "0" / "requirements.lock").write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "told"),
    [("one==2.0\n", "one is locked to 2.0 and to 1.0"), ("one==1.0\ntwo==3\n", "two is locked to 3 and to no version")],
)
def test_locks_that_disagree_are_refused(text: str, told: str, locked: Path) -> None:
    built(locked).close()
    before = left()
    with pytest.raises(PackageFormatError, match=f"requirements.lock and pylock.toml differ: {told}"):
        built(with_other_lock(locked, text))

    assert left() == before


@pytest.mark.parametrize(
    "text",
    ["# by hand\n\none==1.0.0  # yes\n", "One == 1 \\\n    --hash=sha256:abc\ntwo==2 ; sys_platform == 'plan9'\n"],
)
def test_locks_that_agree_are_built(text: str, locked: Path) -> None:
    assert built(with_other_lock(locked, text)).built


def test_lock_that_the_manifest_does_not_name_is_refused(tmp_path: Path, locked: Path) -> None:
    (locked / "manifest.json").write_text(json.dumps({"config.json": "0" * 64}))

    with pytest.raises((PackageIntegrityError, PackageFormatError)):
        built(locked)


def test_lock_for_other_environments_is_refused(tmp_path: Path, one: Path) -> None:
    elsewhere = lock(entry(one)).replace(
        "requires-python", "environments = [\"sys_platform == 'plan9'\"]\nrequires-python"
    )
    error = refused(package(tmp_path / "m.neuropod", elsewhere, [one]), python=sys.executable)
    here = elsewhere.replace("plan9", sys.platform)

    assert "made for other environments" in error.what
    assert built(package(tmp_path / "here.neuropod", here, [one])).built


def test_environment_that_cannot_be_held_can_be_used(locked: Path) -> None:
    first = built(locked)
    first.close()
    holding = first.folder.parent.with_suffix(".lock")
    holding.unlink()
    holding.mkdir()  # As good as a cache that is part of an image: it cannot be opened for writing.
    second = built(locked)

    assert not second.built
    assert runs(second, "import one; print(one.VERSION)") == "1.0"
    assert prune_environments(everything=True)[0] == []
    second.close()


def test_wheel_that_cannot_be_installed_leaves_nothing(installer: str, tmp_path: Path) -> None:
    broken = tmp_path / "one-1.0-py3-none-any.whl"
    broken.write_bytes(b"no zip")
    error = refused(package(tmp_path / "m.neuropod", lock(entry(broken)), [broken]))

    assert error.reason == "install"
    assert installer in error.what


def test_cache_that_cannot_be_written_is_told(locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(EnvironmentBuildError, match="cannot be written") as caught:
        built(locked)

    assert caught.value.reason == "install"


# ------------------------------------------------------------------------------------ an interpreter that is not theirs

STEAL = "#!/bin/sh\ntouch {proof}\nexit 1\n"
MINOR = f"python3.{sys.version_info[1]}"
INTRUDERS = [
    "one-1.0.data/scripts/python",
    "one-1.0.data/scripts/Python3",
    "one-1.0.data/data/bin/python",
    f"one-1.0.data/data/bin/{MINOR}",
    "one-1.0.data/scripts/python._pth",
    f"one-1.0.data/data/bin/{MINOR}._pth",
    "one-1.0.data/data/pyvenv.cfg",
    "one-1.0.data/data/PyVenv.cfg",
    "one-1.0.data/data/bin/pyvenv.cfg",
    "one-1.0.data/data/bin/pybuilddir.txt",
    f"one-1.0.data/data/lib/{MINOR}/encodings/__init__.py",
    f"one-1.0.data/data/lib/{MINOR}/os.py",
    f"one-1.0.data/data/lib64/{MINOR}/os.py",
    f"one-1.0.data/data/lib/python3{sys.version_info[1]}.zip",
    f"one-1.0.data/data/lib/lib{MINOR}.so.1.0",
    "one-1.0.data/data/lib64",
]


@pytest.fixture
def nothing_inside_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where the interpreter of an environment is asked for what it is."""

    def look(path: Path) -> object:
        if store() in Path(path).parents:
            pytest.fail(f"{path} was run")
        return environments.python_of(path)

    monkeypatch.setattr("neuropod_core.environments._build.python_of", look)


def stealing(tmp_path: Path, inner: str) -> tuple[Path, Path]:
    """Give a package whose wheel brings a program under this name, and the file that it would write when it runs."""
    proof = tmp_path / "proof"
    made = wheel(tmp_path / "made", "one", files={inner: STEAL.format(proof=proof)})
    return package(tmp_path / "m.neuropod", lock(entry(made)), [made]), proof


def assert_names_the_wheel(error: EnvironmentBuildError, named: str) -> None:
    if error.reason == "install":  # Newer releases of uv refuse names of interpreters themselves.
        assert "must not use the reserved name" in error.what
    else:
        assert (error.reason, named in error.what) == ("contents", True)


@pytest.mark.usefixtures("nothing_inside_runs")
@pytest.mark.parametrize("inner", INTRUDERS)
def test_wheel_that_would_be_the_interpreter_is_refused_before_it_is_installed(inner: str, tmp_path: Path) -> None:
    path, proof = stealing(tmp_path, inner)
    error = refused(path)

    assert error.reason == "contents"
    assert ("one-1.0-py3-none-any.whl" in error.what, inner in error.what) == (True, True)
    assert "ask where the package comes from" in error.remedy
    assert not proof.exists()


@pytest.mark.usefixtures("nothing_inside_runs")
@pytest.mark.parametrize("inner", [inner for inner in INTRUDERS if "lib64" not in inner])
def test_interpreter_is_held_against_what_it_was_before_it_runs(
    inner: str, installer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuropod_core.environments._build.check_wheels", lambda *_: None)  # As if one got past it.
    path, proof = stealing(tmp_path, inner)
    error = refused(path)

    assert_names_the_wheel(error, "the wheel of one-1.0")
    assert not proof.exists()


@pytest.mark.usefixtures("nothing_inside_runs")
@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("name", ["python", "PYTHON3", MINOR, "python._pth"])
def test_entry_point_that_would_be_the_interpreter_is_refused(
    name: str, installer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, checked: bool
) -> None:
    if not checked:
        monkeypatch.setattr("neuropod_core.environments._build.check_wheels", lambda *_: None)
    made = wheel(tmp_path, "one", scripts=f"{name} = one:main")
    error = refused(package(tmp_path / "m.neuropod", lock(entry(made)), [made]))

    assert_names_the_wheel(error, f"bin/{name}")


def test_path_out_of_the_environment_is_refused(tmp_path: Path) -> None:
    made = wheel(tmp_path, "one", files={"../../../../evil.py": ""})
    error = refused(package(tmp_path / "m.neuropod", lock(entry(made)), [made]))

    assert error.reason == "contents"
    assert "outside of the environment" in error.what


def test_lock_may_bring_pip_and_data_and_programs(installer: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    code = f"import os; os.close(os.open({str(proof)!r}, os.O_CREAT))\n"
    files = {
        "pip/__init__.py": code,
        "pip/__main__.py": code,
        "keyring/__init__.py": code,
        "pip-99.0.data/scripts/python-argcomplete": "#!python\n",
        "pip-99.0.data/data/share/one/readme": "",
        "pip-99.0.data/data/lib/libone.so": "",
        "pip-99.0.data/headers/one.h": "",
    }
    made = wheel(tmp_path, "pip", "99.0", files=files, scripts="pip = pip:main")
    environment = built(package(tmp_path / "m.neuropod", lock(entry(made)), [made]))

    assert environment.python.distributions["pip"] == "99.0"
    assert (environment.folder / "lib" / "libone.so").exists()
    assert (environment.folder / "bin" / "python-argcomplete").exists()
    assert not proof.exists()


def test_pip_of_the_environment_installs_from_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuropod_core.environments._build.uv", lambda: None)
    monkeypatch.setattr("neuropod_core.environments._build._pip_of", lambda _: None)
    proof = tmp_path / "proof"
    code = f"import os; os.close(os.open({str(proof)!r}, os.O_CREAT))\n"
    files = {f"pip/{place}.py": code for place in ("__init__", "__main__", "_internal/__init__", "_internal/cli/main")}
    made = wheel(tmp_path, "one", files=files)
    environment = built(package(tmp_path / "m.neuropod", lock(entry(made)), [made]))

    assert runs(environment, "import one; print(one.VERSION)") == "1.0"
    assert not proof.exists()
    assert not (environment.folder.parent / "pip").exists()


# -------------------------------------------------------------------------------------------------------- the network


def test_wheels_are_fetched_once(tmp_path: Path, one: Path, index: Index) -> None:
    path = package(tmp_path / "m.neuropod", lock(entry(one, url=index.url)))
    told: list[str] = []
    built(path, offline=False, progress=told.append).close()
    prune_environments(days=-1)
    wheel_folder("").mkdir(exist_ok=True)

    assert index.asked == [f"/{one.name}"]
    assert f"fetching {one.name}" in told


def test_fetched_wheels_serve_where_nothing_may_be_fetched(tmp_path: Path, one: Path, index: Index) -> None:
    path = package(tmp_path / "m.neuropod", lock(entry(one, url=index.url)))
    first = built(path, offline=False)
    first.close()
    shutil.rmtree(first.folder.parent)
    second = built(path)

    assert second.built
    assert index.asked == [f"/{one.name}"]


@pytest.mark.parametrize(
    ("answer", "reason"), [((404, b"none"), "network"), ((200, b"other"), "hash"), ((500, b"x"), "network")]
)
def test_wrong_answer_is_told_and_leaves_nothing(
    answer: tuple[int, bytes], reason: str, tmp_path: Path, one: Path, index: Index
) -> None:
    index.status, index.content = answer
    error = refused(package(tmp_path / "m.neuropod", lock(entry(one, url=index.url))), offline=False)

    assert error.reason == reason
    assert one.name in error.what
    assert list(wheel_folder("").rglob("*.whl")) == []


def test_answer_that_ends_early_is_told(tmp_path: Path, one: Path, index: Index) -> None:
    index.missing = 1000
    error = refused(package(tmp_path / "m.neuropod", lock(entry(one, url=index.url))), offline=False)

    assert error.reason == "network"
    assert "the connection ended after" in error.what


def test_more_than_the_lock_says_is_not_fetched(tmp_path: Path, one: Path, index: Index) -> None:
    text = lock(entry(one, url=index.url)).replace("hashes =", "size = 100, hashes =")
    error = refused(package(tmp_path / "m.neuropod", text), offline=False)

    assert error.reason == "network"
    assert "more than the 100 bytes that the lock says" in error.what


def test_more_than_any_wheel_has_is_not_fetched(tmp_path: Path, one: Path, index: Index) -> None:
    index.missing = 10**14
    error = refused(package(tmp_path / "m.neuropod", lock(entry(one, url=index.url))), offline=False)

    assert error.reason == "network"
    assert "bytes that are taken where the lock says no size" in error.what


def test_progress_says_no_size_that_nobody_told(
    tmp_path: Path, one: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuropod_core.environments._wheels._TOLD_BYTES", 1)
    index.says_length = False
    told: list[str] = []
    built(package(tmp_path / "m.neuropod", lock(entry(one, url=index.url))), offline=False, progress=told.append)

    assert f"{one.name}: 0 MB" in told


def test_server_that_is_not_there_is_told(tmp_path: Path, one: Path) -> None:
    error = refused(package(tmp_path / "m.neuropod", lock(entry(one, url="http://127.0.0.1:9/"))), offline=False)

    assert error.reason == "network"
    assert "127.0.0.1" in error.what


def test_strange_scheme_is_not_followed(tmp_path: Path, one: Path) -> None:
    error = refused(package(tmp_path / "m.neuropod", lock(entry(one, url="ftp://127.0.0.1/"))), offline=False)

    assert error.reason == "network"


def test_pip_is_asked_where_a_server_wants_a_password(
    tmp_path: Path, one: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.status, index.content = 401, b"who are you"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(one.parent))
    path = package(tmp_path / "m.neuropod", lock(entry(one, url=index.url)))
    python = next(
        (place for place in (Path(sys.executable), Path(sys.base_prefix)) if environments.python_of(place).has("pip")),
        None,
    )
    if python is None:
        pytest.skip("pip is not installed")

    assert runs(built(path, offline=False, python=python), "import one; print(one.VERSION)") == "1.0"


def test_other_hash_of_the_index_is_told(tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(one.parent))
    python = next((place for place in (Path(sys.executable), Path(sys.base_prefix)) if has_pip(place)), None)
    if python is None:
        pytest.skip("pip is not installed")
    text = lock(entry(one, digest="0" * 64)).replace(f'url = "{one.name}", ', "")
    error = refused(package(tmp_path / "m.neuropod", text), offline=False, python=python)

    assert error.reason == "hash"
    assert f"the lock says sha256 {'0' * 64}, the index of pip has {digest_of(one)}" in error.what
    assert "lock it again" in error.remedy


def has_pip(place: Path) -> bool:
    return environments.python_of(place).has("pip")


def test_pip_where_somebody_works_is_not_run(tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "pip").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (tmp_path / "pip" / name).write_text(f"open({str(proof)!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    text = lock(entry(one)).replace(f'url = "{one.name}", ', "")
    error = refused(package(tmp_path / "m.neuropod", text), offline=False)

    assert error.reason == "network"
    assert not proof.exists()


@pytest.mark.network
def test_real_distribution_is_built_from_the_index(tmp_path: Path) -> None:
    program = uv()
    assert program is not None
    asked, written = tmp_path / "asked.in", tmp_path / "pylock.toml"
    asked.write_text("numpy>=1.26\nsix\n")
    command = [
        program,
        "pip",
        "compile",
        str(asked),
        "-o",
        str(written),
        "--python",
        sys.executable,
        "--no-emit-find-links",
        "-q",
    ]
    subprocess.run(command, check=True, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"})
    environment = built(package(tmp_path / "m.neuropod", written.read_text()), offline=False)

    assert runs(environment, "import numpy, six; print(numpy.ones(3).sum())") == "3.0"


# ---------------------------------------------------------------------------------- others, killed ones, and pruning

BUILDER = (
    "import sys; from neuropod_core import Package; from neuropod_core.environments import environment_for\n"
    "with Package.open(sys.argv[1]) as package:\n"
    "    environment = environment_for(package, trust='code', progress=lambda line: print(line, flush=True))\n"
    "print('built' if environment.built else 'found', environment.folder, flush=True)\n"
)


def builder(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", BUILDER, path], stdout=subprocess.PIPE, text=True)


def test_who_comes_while_another_builds_waits(tmp_path: Path, one: Path, index: Index) -> None:
    path = package(tmp_path / "m.neuropod", lock(entry(one, url=index.url)))
    index.go_on.clear()
    with builder(path) as first:
        assert index.arrived.wait(60)
        with builder(path) as second:
            assert second.stdout is not None
            waiting = second.stdout.readline()
            index.go_on.set()
            told = [first.communicate(timeout=120)[0], second.communicate(timeout=120)[0]]

    assert waiting.startswith("waiting for another")
    assert [text.splitlines()[-1].split()[0] for text in told] == ["built", "found"]
    assert index.asked == [f"/{one.name}"]


def test_killed_builder_leaves_nothing_to_the_next(tmp_path: Path, one: Path, index: Index) -> None:
    path = package(tmp_path / "m.neuropod", lock(entry(one, url=index.url)))
    index.go_on.clear()
    with builder(path) as killed:
        assert index.arrived.wait(60)
        killed.send_signal(signal.SIGKILL)
    index.go_on.set()
    other = package(tmp_path / "other.neuropod", lock(requires=">=3"))
    built(other)  # Any that builds clears up.

    assert len(left()) == 1
    assert list(wheel_folder("").rglob("*")) == []
    assert built(path, offline=False).built


def test_place_is_held_until_programs_that_inherited_it_end() -> None:
    place = Place("held")
    with place.alone(pytest.fail) as held:
        left_over = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(held,))
    assert left_over.stdin is not None
    with place.alone(left_over.stdin.close):
        ended = left_over.wait(60)

    assert ended == 0
    assert left_over.stdin.closed


def test_half_an_environment_is_built_anew(locked: Path) -> None:
    first = built(locked)
    first.close()
    (first.folder.parent / "record.json").unlink()
    (first.folder / "bin" / "python").unlink()
    second = built(locked)

    assert second.built
    assert second.folder == first.folder
    assert runs(second, "import one; print(one.VERSION)") == "1.0"


def test_environment_whose_python_is_gone_is_built_anew(locked: Path) -> None:
    first = built(locked)
    first.close()
    record = first.folder.parent / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "base": "/gone/bin/python"}))

    assert [kept.whole for kept in kept_environments()] == [False]
    assert built(locked).built


def test_environment_in_use_is_not_pruned(locked: Path) -> None:
    environment = built(locked)
    (kept,) = kept_environments()

    assert (kept.name, kept.in_use, kept.whole, kept.bytes > 0) == ("locked", True, True, True)
    assert prune_environments(everything=True)[0] == []
    assert environment.python.executable.exists()
    environment.close()
    assert prune_environments()[0] == []
    assert [gone.key for gone in prune_environments(everything=True)[0]] == [kept.key]
    assert kept_environments() == []
    assert list(store().glob("*")) == []


def test_exported_wheels_serve_another_machine(
    tmp_path: Path, one: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = package(tmp_path / "m.neuropod", lock(entry(one, url=index.url)))
    with Package.open(path) as opened:
        exported = export_wheels(opened)
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "another"))

    assert exported == [wheels_beside(path) / one.name]
    assert [file.name for file in wheels_beside(path).iterdir()] == [one.name]
    assert runs(built(path), "import one; print(one.VERSION)") == "1.0"


def test_export_needs_no_trust_and_leaves_no_environment(tmp_path: Path, locked: Path) -> None:
    with Package.open(locked) as opened:
        exported = export_wheels(opened, tmp_path / "out")

    assert [path.name for path in exported] == ["one-1.0-py3-none-any.whl"]
    assert (left(), list(store().glob("*"))) == ([], [])


def test_interrupt_leaves_nothing(locked: Path) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(locked, progress=interrupt)

    assert left() == []


def test_public_names_are_sorted() -> None:
    offered: Callable[[str], object] = environments.__dict__.__getitem__

    assert environments.__all__ == sorted(environments.__all__)
    assert all(map(offered, environments.__all__))

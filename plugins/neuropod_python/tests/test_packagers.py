"""What is copied into a package, and what is refused."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import PackagingError, load_neuropod
from neuropod_python import create_python_neuropod, create_pytorch_neuropod

Write = Callable[..., set[str]]

_ENTRY = "def main(path):\n    return lambda x: {'y': x}\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for name, text in {
        "mymodel/__init__.py": "",
        "mymodel/entry.py": _ENTRY,
        "mymodel/words.txt": "a b",
        "mymodel/deep/__init__.py": "",
        "mymodel/__pycache__/entry.cpython-311.pyc": "",
        "mymodel/old.pyc": "",
        "mymodel/.git/HEAD": "",
        "other/secret.py": "",
        "single.py": _ENTRY,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def write(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Give the function that packages, and lists the files of the variant."""
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))

    def package(*dirs: str, **changes: Any) -> set[str]:
        path = tmp_path / "model.neuropod"
        arguments: dict[str, Any] = {
            "neuropod_path": path,
            "model_name": "model",
            "entrypoint": "main",
            "entrypoint_package": "mymodel.entry",
            "code_path_spec": [{"python_root": source, "dirs_to_package": list(dirs or ["mymodel"])}],
            "input_spec": {"x": "float32[N]"},
            "output_spec": {"y": "float32[N]"},
            **changes,
        }
        create_python_neuropod(**{name: value for name, value in arguments.items() if value != "left out"})
        with zipfile.ZipFile(path) as archive:
            return {name[2:] for name in archive.namelist() if name.startswith("0/")}

    return package


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mymodel", "single")]:
        del sys.modules[name]


_MYMODEL = {
    "code/mymodel/__init__.py",
    "code/mymodel/entry.py",
    "code/mymodel/words.txt",
    "code/mymodel/deep/__init__.py",
}


def test_the_named_folders_are_packaged(write: Write) -> None:
    assert write() == {"config.json", *_MYMODEL}


@pytest.mark.parametrize("everything", ["", ".", "./"])
def test_the_whole_root_is_packaged(write: Write, everything: str) -> None:
    assert write(everything) == {"config.json", *_MYMODEL, "code/other/secret.py", "code/single.py"}


def test_a_single_module_is_packaged(write: Write) -> None:
    assert write("single.py", entrypoint_package="single") == {"config.json", "code/single.py"}


def test_a_nested_folder_keeps_its_place(write: Write) -> None:
    files = write("mymodel/deep", "single.py", entrypoint_package="single")

    assert files == {"config.json", "code/mymodel/deep/__init__.py", "code/single.py"}


def test_data_get_their_packaged_names(write: Write, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.bin").write_bytes(b"a")
    data = [
        {"path": tmp_path / "weights", "packaged_name": "all"},
        {"path": str(tmp_path / "weights" / "a.bin"), "packaged_name": "first/one.bin"},
    ]

    assert write(data_paths=data) - _MYMODEL == {"config.json", "data/all/a.bin", "data/first/one.bin"}


def test_the_declaration_is_the_original_one_and_what_was_stated(write: Write, tmp_path: Path) -> None:
    write(requirements="numpy", hashes=False, thread_safe=True, writes_inputs=False)

    with zipfile.ZipFile(tmp_path / "model.neuropod") as archive:
        assert json.loads(archive.read("0/config.json")) == {
            "entrypoint": "main",
            "entrypoint_package": "mymodel.entry",
            "thread_safe": True,
            "writes_inputs": False,
        }
        assert archive.read("0/requirements.lock").decode() == f"numpy=={np.__version__}\n"


@pytest.mark.parametrize("name", ["../source", "/etc", "mymodel/../../x", "a\\b", "a\0b", 3])
def test_folders_outside_of_the_root_are_refused(write: Write, name: Any) -> None:
    with pytest.raises(PackagingError, match=r"no relative path inside its folder - at code_path_spec\[0\]"):
        write(name)


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "a/../../b", "", "."])
def test_data_outside_of_the_package_are_refused(write: Write, source: Path, name: str) -> None:
    with pytest.raises(PackagingError, match=r"at data_paths\[0\]"):
        write(data_paths=[{"path": source / "single.py", "packaged_name": name}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"code_path_spec": [{"python_root": "/absent", "dirs_to_package": ["x"]}]},
            "no such file or folder - at /absent/x",
        ),
        ({"code_path_spec": [{"python_root": "/"}]}, "has no 'dirs_to_package' - at code_path_spec"),
        ({"code_path_spec": [{"python_root": "/", "dirs_to_package": "etc"}]}, "a list of folders, not 'etc'"),
        ({"code_path_spec": ["source"]}, "has no 'python_root'"),
        ({"code_path_spec": []}, "needs entrypoint_package and code_path_spec"),
        ({"entrypoint_package": None}, "needs entrypoint_package and code_path_spec"),
        ({"entrypoint_package": "mymodel.absent"}, "has no module 'mymodel.absent'"),
        ({"entrypoint": "absent"}, "has no entry point 'absent'"),
        ({"data_paths": [{"path": "/absent", "packaged_name": "x"}]}, "no such file or folder"),
        ({"requirements": "-e ."}, "is no requirement"),
        ({"no_such_argument": 1}, "unknown arguments"),
    ],
)
def test_wrong_arguments_are_explained_and_nothing_is_left(
    write: Write, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PackagingError, match=message):
        write(**changes)

    assert {path.name for path in tmp_path.iterdir()} <= {"source", "cache"}


def test_two_files_of_one_name_are_refused(write: Write, source: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "mymodel"
    other.mkdir(parents=True)
    (other / "entry.py").write_text("")
    spec = [{"python_root": root, "dirs_to_package": ["mymodel"]} for root in (source, other.parent)]

    with pytest.raises(PackagingError, match=r"'mymodel/entry\.py' is there already"):
        write(code_path_spec=spec)


def test_links_are_followed_and_cycles_refused(write: Write, source: Path, tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("")
    (source / "mymodel" / "shared.py").symlink_to(tmp_path / "shared.py")
    assert "code/mymodel/shared.py" in write()

    (source / "mymodel" / "deep" / "back").symlink_to(source / "mymodel")
    with pytest.raises(PackagingError, match="a link leads back to a folder around it"):
        write(neuropod_path=tmp_path / "cyclic.neuropod")


def test_broken_links_are_refused(write: Write, source: Path) -> None:
    (source / "mymodel" / "gone.py").symlink_to(source / "nowhere")

    with pytest.raises(PackagingError, match="is no regular file"):
        write()


def test_a_function_brings_its_package(write: Write, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(source)
    import mymodel.entry  # type: ignore[import-not-found]

    files = write(entrypoint=mymodel.entry.main, entrypoint_package="left out", code_path_spec="left out")

    assert files == {"config.json", *_MYMODEL}


def test_a_function_brings_its_module(write: Write, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(source)
    import single  # type: ignore[import-not-found]

    files = write(entrypoint=single.main, entrypoint_package="left out", code_path_spec="left out")

    assert files == {"config.json", "code/single.py"}


@pytest.mark.parametrize(
    "function", [lambda _: None, len, json.JSONEncoder().encode], ids=["lambda", "builtin", "method"]
)
def test_functions_that_no_module_offers_are_refused(write: Write, function: Callable[..., Any]) -> None:
    with pytest.raises(PackagingError, match="is no function that a module of its own offers by name"):
        write(entrypoint=function, entrypoint_package="left out", code_path_spec="left out")


def test_requirements_that_are_not_installed_fail_the_proof(write: Write) -> None:
    with pytest.raises(PackagingError, match="numpy"):
        write(requirements="numpy<1")


def test_the_pytorch_packager_is_the_same() -> None:
    assert create_pytorch_neuropod is create_python_neuropod


def test_packaging_twice_gives_the_same_archive(write: Write, tmp_path: Path) -> None:
    write()
    first = (tmp_path / "model.neuropod").read_bytes()
    (tmp_path / "model.neuropod").unlink()
    write()

    assert (tmp_path / "model.neuropod").read_bytes() == first


def test_the_loaded_package_writes_no_byte_code(write: Write, tmp_path: Path) -> None:
    write(package_as_zip=True)
    with load_neuropod(tmp_path / "model.neuropod", trust="code") as model:
        model.infer({"x": np.ones(2, np.float32)})

    assert not list(tmp_path.rglob("cache/**/__pycache__"))

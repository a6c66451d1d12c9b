"""Folders with links, pipes, sockets and trees that no package has."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from .archives import CONFIG, FILES

Builder = Callable[[Path, Path], Path]


def write(root: Path, files: dict[str, bytes] = FILES) -> Path:
    """Write files into a new folder."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def _link(place: str, target: str) -> Builder:
    def build(root: Path, canary: Path) -> Path:
        write(root)
        (root / place).unlink(missing_ok=True)
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).symlink_to(target.replace("CANARY", str(canary)))
        return root

    return build


def _pipe(place: str) -> Builder:
    def build(root: Path, _: Path) -> Path:
        write(root)
        (root / place).unlink(missing_ok=True)
        os.mkfifo(root / place)
        return root

    return build


def _socket(place: str) -> Builder:
    def build(root: Path, _: Path) -> Path:
        write(root)
        (root / place).unlink(missing_ok=True)
        here = Path.cwd()
        os.chdir((root / place).parent)  # The name of a socket is short.
        with socket.socket(socket.AF_UNIX) as made:
            made.bind((root / place).name)
        os.chdir(here)
        return root

    return build


def _manifest(files: dict[str, object], version: object = 1) -> Builder:
    def build(root: Path, _: Path) -> Path:
        listed: dict[str, object] = {name: sha256(data).hexdigest() for name, data in FILES.items()}
        listed |= files
        text = json.dumps({"files": {k: v for k, v in listed.items() if v != "left out"}, "manifest_version": version})
        write(root, {**FILES, "manifest.json": text.encode()})
        return root

    return build


def _named(name: bytes) -> Builder:
    def build(root: Path, _: Path) -> Path:
        write(root)
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(b"evil")  # noqa: PTH118 - a name of bytes
        return root

    return build


def _deep(root: Path, _: Path) -> Path:
    write(root)
    here = Path.cwd()
    os.chdir(root)
    for _depth in range(300):  # Deeper than a path may be long.
        Path("d" * 25).mkdir()
        os.chdir("d" * 25)
    os.chdir(here)
    return root


def _wide(root: Path, _: Path) -> Path:
    write(root)
    for index in range(2500):
        (root / str(index)).touch()
    return root


def _many_folders(root: Path, _: Path) -> Path:
    write(root)
    for index in range(2500):
        (root / f"folder{index}").mkdir()
    return root


def _large(root: Path, _: Path) -> Path:
    write(root)
    with (root / "0" / "large").open("wb") as file:
        file.truncate(1 << 33)  # A hole, not a disk.
    return root


def _large_config(root: Path, _: Path) -> Path:
    write(root)
    os.truncate(root / "config.json", 1 << 30)
    return root


def _file_is_pipe(root: Path, _: Path) -> Path:
    os.mkfifo(root)
    return root


def _file_is_socket(root: Path, _: Path) -> Path:
    here = Path.cwd()
    os.chdir(root.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(root.name)
    os.chdir(here)
    return root


def _folder_is_link(root: Path, canary: Path) -> Path:
    root.symlink_to(canary)
    return root


def _loop(root: Path, _: Path) -> Path:
    root.symlink_to(root)
    return root


def _nothing(root: Path, _: Path) -> Path:
    return root


def _empty(root: Path, _: Path) -> Path:
    root.mkdir()
    return root


def _config_is_folder(root: Path, _: Path) -> Path:
    return write(root, {"config.json/x": CONFIG})


def _forbidden(root: Path, _: Path) -> Path:
    write(root)
    (root / "config.json").chmod(0)
    return root


def _fixed(path: str) -> Builder:
    return lambda _root, _canary: Path(path)


TARGETS = (
    *("CANARY/secret.txt", "CANARY", "/etc/passwd", "..", ".", "config.json"),
    *("/dev/zero", "/dev/null", "/proc/self/mem", "/nowhere", "odd"),
)
PATHS = ("config.json", "nowhere", "/etc/passwd", "../evil", "0", "manifest.json", "", "\0", "CONFIG.json")
VERSIONS: tuple[object, ...] = (0, 2, True, 1.0, "1", None, [], 10**30)
HASHES: tuple[object, ...] = (None, 1, "", "left out", "A" * 64, "0" * 63, "0" * 65, [], {}, "0" * 64 + "\n")
PLACES = (
    "config.json",
    "manifest.json",
    "test_data.pkl",
    "test_data.safetensors",
    "0/config.json",
    "0/data/model.pt",
    "0/odd",
    "odd",
)
BUILDERS: list[Builder] = [
    *(_link(place, target) for place in PLACES for target in TARGETS),
    *(_pipe(place) for place in PLACES),
    *(_socket(place) for place in PLACES),
    *(_manifest({path: "0" * 64}) for path in PATHS),
    *(_manifest({"config.json": wrong}) for wrong in HASHES),
    *(_manifest({}, version) for version in VERSIONS),
    *(_named(name) for name in (b"\xff", b"a\nb", b"a\\b", b"C:x", b"\xe2\x80\xae", b"a" * 255, b" ", b"...", b"-rf")),
    _deep,
    _wide,
    _many_folders,
    _large,
    _large_config,
    _file_is_pipe,
    _file_is_socket,
    _folder_is_link,
    _loop,
    _nothing,
    _empty,
    _config_is_folder,
    _forbidden,
    *(_fixed(f"/dev/{name}") for name in ("zero", "null", "urandom", "full")),
    *(_fixed(path) for path in ("/proc/self/mem", "/proc/kmsg", "/", "/proc")),
]

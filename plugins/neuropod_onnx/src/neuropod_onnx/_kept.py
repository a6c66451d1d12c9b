"""Optimized graphs, kept from one load to the next: option ``optimized_models``.

::

    <folder>/<key>-<bytes>.onnx       a graph as ONNX Runtime optimized it
    <folder>/writing/<random>.onnx    work under way; what a killed writer leaves is removed after an hour

The key is a hash of all that the result depends on: the model, the libraries of operators, ONNX Runtime's build, the
options and the processor. A file appears under its name by one rename, whole; one of another size, or that ONNX Runtime
refuses, is made anew. Nothing in a package can name a file here, and what lies here is the user's own, as in the cache
of packages.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from neuropod_core.backend import LoadOptions
from neuropod_core.errors import OptionError, shown
from neuropod_onnx.contents import Contents

__all__ = ["KeptModel", "kept_model"]

_OPTION = "optimized_models"
_FORMAT = "1"
_ABANDONED_SECONDS = 3600
_PIECE = 1 << 20
_WRITABLE_BY_OTHERS = 0o022


class KeptModel:
    """Where the optimized graph of one model lies, or will.

    Parameters
    ----------
    folder
        The folder of all of them.
    key
        What tells it from the others.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

    @property
    def path(self) -> Path | None:
        """The file, if it is there and whole."""
        with suppress(OSError):
            for path in self._folder.glob(f"{self._key}-*.onnx"):
                if path.name == f"{self._key}-{path.stat().st_size}.onnx":
                    return path
        return None

    def forget(self) -> None:
        """Remove the file, which turned out to be no good."""
        for path in self._folder.glob(f"{self._key}-*.onnx"):
            with suppress(OSError):
                path.unlink()

    @contextmanager
    def writing(self) -> Iterator[Path | None]:
        """Give a path to write to, and publish what was written there; None where nothing can be written."""
        partial = self._workplace()
        try:
            yield partial
            if partial is not None:
                self._publish(partial)
        finally:
            if partial is not None:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)

    def _workplace(self) -> Path | None:
        place = self._folder / "writing"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            place.mkdir(exist_ok=True, mode=0o700)
            _remove_abandoned(place)
        except OSError:
            return None
        return place / f"{os.urandom(8).hex()}.onnx" if os.access(place, os.W_OK) else None

    def _publish(self, partial: Path) -> None:
        with suppress(OSError):  # Not keeping it costs time, nothing else.
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self._folder / f"{self._key}-{partial.stat().st_size}.onnx")


def kept_model(
    options: LoadOptions, path: Path, contents: Contents, custom_ops: tuple[Path, ...], dimensions: Mapping[str, int]
) -> KeptModel | None:
    """Say where the optimized graph of the model at `path` is kept; None if it is not.

    It is not where the option is off, or the model keeps tensors in files: those would be copied.

    Raises
    ------
    OptionError
        If the option is neither true or false, nor the path of a folder, or others can write to that folder.
    """
    given = options.values.get(_OPTION, False)
    if not isinstance(given, (bool, str, Path)) or given == "":
        raise OptionError(f"option {_OPTION!r} is true, false or a folder, not {shown(given)}")
    if given is False or contents.external:
        return None
    folder = _default_folder() if given is True else Path(given).absolute()
    _check_private(folder)
    return KeptModel(folder, _key(options, path, custom_ops, dimensions))


def _check_private(folder: Path) -> None:
    """Refuse a folder in which somebody else could put a graph of his."""
    try:
        status = folder.stat()
    except OSError:
        return
    if os.name == "posix" and (status.st_uid not in (os.geteuid(), 0) or status.st_mode & _WRITABLE_BY_OTHERS):
        what = f"others can write to {shown(str(folder))}, and a graph that lies there is run"
        raise OptionError(what, at=_OPTION, remedy="choose a folder of your own, with mode 700")


def _default_folder() -> Path:
    if named := os.environ.get("NEUROPOD_CACHE_DIR"):
        return Path(named).absolute() / "onnx"
    from platformdirs import user_cache_path

    return user_cache_path("neuropod", appauthor=False) / "onnx"


def _key(options: LoadOptions, path: Path, custom_ops: tuple[Path, ...], dimensions: Mapping[str, int]) -> str:
    import onnxruntime

    settings = {name: value for name, value in options.values.items() if name != _OPTION}
    facts = [
        _FORMAT,
        onnxruntime.__version__,
        getattr(onnxruntime, "get_build_info", str)(),
        json.dumps([settings, dict(dimensions)], default=repr),
        _processor(),
        *(_digest(file) for file in (path, *custom_ops)),
    ]
    return sha256("\0".join(facts).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _processor() -> str:
    """Tell processors apart: some graphs are laid out for the instructions of one."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        told = {line for line in lines if line.partition(":")[0].strip() in ("flags", "Features", "model name")}
        return " ".join([platform.machine(), *sorted(told)])
    return " ".join(platform.uname())


def _remove_abandoned(place: Path) -> None:
    for path in place.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()

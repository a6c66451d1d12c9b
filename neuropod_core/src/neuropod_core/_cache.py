"""Where archives are unpacked once: read-only, addressed by content, whole whatever dies in between.

::

    <root>/v1/downloads/...                              what comes from elsewhere, see `_remote._downloads`
    <root>/v1/index/<sha256 of a source's path>.json     its stamp, and the key of its content
    <root>/v1/lock                                       held while an entry comes, or replaces a damaged one
    <root>/v1/packages/<key>/content/...                 the files, read-only
    <root>/v1/packages/<key>/record.json                 their sizes and times, to notice when one was changed or lost
    <root>/v1/pins/<sha256 of an archive>.json           the key of its content
    <root>/v1/unpacking/<random>, <random>.lock          work under way; the lock dies with its process
    <root>/v1/uses/<key>                                 locked by each process that has the content open; its time of
                                                         change is that of the last opening

A folder appears under ``packages`` by one rename, complete. Two openers unpack side by side and the second throws its
work away. What a killed one leaves behind is removed by the next that unpacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "NEUROPOD_CACHE_DIR"

_USE_SECONDS = 60  # Within this, a second opening is not noted.
_UNSETTLED_NS = 50_000_000  # A file written to within this time may change again without a new time stamp;
_UNSETTLED_SECONDS_NS = 2_500_000_000  # on a file system that counts in seconds, or in pairs of them, within this.


def default_root() -> Path:
    """Give the folder of the cache: ``NEUROPOD_CACHE_DIR``, or the user's cache folder.

    A user of a container may have no home: then it is a folder that cannot be, and nothing is kept.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    from platformdirs import user_cache_path

    nowhere = Path(os.devnull, "neuropod")
    try:
        folder = user_cache_path("neuropod", appauthor=False)
    except RuntimeError:
        return nowhere
    return folder if folder.is_absolute() else nowhere  # Older versions give "~/.cache".


class Cache:
    """The unpacked packages below one folder.

    Attributes
    ----------
    folder
        Where this version of the cache lies.
    packages
        Where the content of each key is.
    """

    def __init__(self, root: Path) -> None:
        base = self.folder = root.absolute() / "v1"
        self._index, self.packages, self._unpacking = base / "index", base / "packages", base / "unpacking"
        self._downloads, self._pins, self._uses = base / "downloads", base / "pins", base / "uses"

    def key_of(self, source: str, stamp: str) -> str | None:
        """Give the key of a source's verified content, if the source still is as it was then."""
        entry = read_json(self._index_path(source))
        return entry["key"] if entry.get("stamp") == stamp and isinstance(entry.get("key"), str) else None

    def remember(self, source: str, stamp: str, key: str, newest_ns: int) -> None:
        """Write down that a source with this stamp was verified, unless it was written to a moment ago."""
        if time.time_ns() - newest_ns < (_UNSETTLED_NS if newest_ns % 10**9 else _UNSETTLED_SECONDS_NS):
            return
        self._write(self._index_path(source), {"source": str(source), "stamp": stamp, "key": key})

    def pin(self, digest: str, key: str) -> None:
        """Write down that an archive with this sha256 has the content of `key`."""
        self._write(self._pins / f"{digest}.json", {"key": key})

    def pinned(self, digest: str) -> str | None:
        """Give the key of the content of an archive with this sha256, if that is known."""
        key = read_json(self._pins / f"{digest}.json").get("key")
        return key if isinstance(key, str) else None

    def hold(self, key: str, owner: object) -> None:
        """Keep the content of `key`, there or to come, from being pruned as long as `owner` is referenced."""
        with contextlib.suppress(OSError):  # Who cannot write here uses what an administrator keeps.
            self._make(self._uses)
            descriptor = _shared(self._uses / key)
            weakref.finalize(owner, os.close, descriptor)

    @contextmanager
    def download(self, source: str) -> Iterator[Path]:
        """Give the folder for what comes from `source`, to one opener at a time."""
        self._make(self._downloads)
        name = sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        with _alone(self._downloads / f"{name}.lock") as held:
            # Without locks, nobody knows who else writes there.
            yield self._downloads / (name if held else f"{name}-{os.urandom(8).hex()}")

    def _write(self, path: Path, value: dict[str, str]) -> None:
        with contextlib.suppress(OSError):  # Not remembering costs time, nothing else.
            self._make(path.parent)
            partial = path.with_name(f".{os.urandom(8).hex()}")
            partial.write_text(json.dumps(value), "utf-8")
            partial.replace(path)

    def content(self, key: str) -> Path | None:
        """Give the folder with the content of `key`, if it is there and whole."""
        entry = self.packages / key
        files = read_json(entry / "record.json").get("files")
        content = entry / "content"
        return content if isinstance(files, dict) and files and _is_whole(content, files) else None

    def add(self, key: str, fill: Callable[[Path], None]) -> Path:
        """Let `fill` write the files into a folder, and publish it as the content of `key`."""
        with self._workplace() as work:
            content = work / "entry" / "content"
            content.mkdir(parents=True)
            fill(content)
            _seal(work / "entry")
            return self._published(key, work) / "content"

    def _make(self, folder: Path) -> None:
        # Only its owner reads and writes the cache: models may be secret, and what lies here is believed.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True)

    def _published(self, key: str, work: Path) -> Path:
        target = self.packages / key
        self._make(self.packages)
        # What another opener published meanwhile is in use by now: it must not be taken away, not even for a moment.
        with _alone(self.folder / "lock"):
            if self.content(key) is None:
                with contextlib.suppress(FileNotFoundError):
                    target.rename(work / "damaged")
                self._move(key, work / "entry", target)
        return target

    def _move(self, key: str, entry: Path, target: Path) -> None:
        try:
            entry.rename(target)
        except OSError:
            if self.content(key) is None:  # Else, where there are no locks, another was faster.
                raise

    @contextmanager
    def _workplace(self) -> Iterator[Path]:
        self._make(self._unpacking)
        self._remove_orphans()
        with _locked(self._unpacking) as name:
            work = self._unpacking / name
            try:
                work.mkdir()
                yield work
            finally:
                _remove(work)

    def leftovers(self) -> list[Path]:
        """List the folders that no live process and no load uses: work of dead ones, and packages that are not whole.

        Whoever unpacks next removes the first, whoever loads such a package replaces the second.
        """
        packages = self.packages.iterdir() if self.packages.is_dir() else ()
        return [
            *(lock.with_suffix("") for lock in self._orphans() if lock.with_suffix("").exists()),
            *(package for package in packages if package.is_dir() and self.content(package.name) is None),
        ]

    def _remove_orphans(self) -> None:
        for lock in self._orphans():
            _remove(lock.with_suffix(""))
            with contextlib.suppress(OSError):
                lock.unlink()

    def _orphans(self) -> Iterator[Path]:
        """Give the locks that no live process holds, holding each as long as it is looked at."""
        for lock in self._unpacking.glob("*.lock"):
            with contextlib.suppress(OSError):
                descriptor = os.open(lock, os.O_RDWR)
                try:
                    if lock_file(descriptor):
                        yield lock
                finally:
                    os.close(descriptor)

    def _index_path(self, source: str) -> Path:
        return self._index / f"{sha256(os.fsencode(source)).hexdigest()}.json"


def private_folder(owner: object) -> Path:
    """Make a folder that nobody else sees, for where there is no cache; it is removed when `owner` is dropped."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="neuropod-"))
    weakref.finalize(owner, _remove_in, os.getpid(), folder)
    return folder


def remove_tree(folder: Path) -> None:
    """Remove a folder, read-only files and folders included; what cannot be removed stays."""
    _remove(folder)


def read_json(path: Path) -> dict[str, Any]:
    """Read one object; empty where there is none, or nothing that can be read as one."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# -- details ----------------------------------------------------------------------------------------------------------


def _seal(entry: Path) -> None:
    """Make the files read-only and write down what they look like, and what they hold where no manifest says it."""
    content = entry / "content"
    files, hashes = {}, {}
    vouched = (content / "manifest.json").exists()
    for path in sorted(content.rglob("*")):
        if not path.is_dir():
            path.chmod(0o444)
            name = path.relative_to(content).as_posix()
            files[name] = _look(path)
            if not vouched:
                hashes[name] = digest_of(path)
    record = {"files": files, **({} if vouched else {"sha256": hashes})}
    (entry / "record.json").write_text(json.dumps(record), "utf-8")


def digest_of(path: Path) -> str:
    """Give the SHA-256 of a file, read piece by piece."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _look(path: Path) -> list[int]:
    status = path.stat(follow_symlinks=False)
    return [status.st_size, status.st_mtime_ns]


def _is_whole(content: Path, files: dict[str, Any]) -> bool:
    try:
        return all(_look(content / name) == look for name, look in files.items())
    except (OSError, ValueError):  # The second for a null in a name.
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[str]:
    """Hold the lock of a new name in `folder` as long as the block runs, or the process lives."""
    while True:
        lock = folder / f"{os.urandom(8).hex()}.lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        # Else somebody took it for an orphan before it was locked.
        if lock_file(descriptor) is not False and os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)
    try:
        yield lock.stem
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(descriptor)


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Let one at a time into the block, where there are locks; give whether there are."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        held = False
        try:
            held = bool(lock_file(descriptor, wait=True))
            if held and not os.fstat(descriptor).st_nlink:  # It was tidied away meanwhile: another one is locked now.
                continue
            yield held
        finally:
            if held:  # Closing alone would leave it to a child that was forked meanwhile.
                _unlock(descriptor)
            os.close(descriptor)
        return


def _shared(lock: Path) -> int:
    """Give a descriptor that holds the lock of a file together with others; note the time in the file."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        # Whoever prunes holds it for moments, and takes the file away with the content.
        if lock_file(descriptor, wait=True, shared=True) is None or os.fstat(descriptor).st_nlink:
            if time.time() - os.fstat(descriptor).st_mtime > _USE_SECONDS:
                os.utime(lock)
            return descriptor
        os.close(descriptor)


def lock_file(descriptor: int, *, wait: bool = False, shared: bool = False) -> bool | None:
    """Lock a file: True if that was done, False if another holds it, None on systems and file systems without locks.

    Without locks nothing is taken for an orphan.
    """
    try:
        import fcntl
    except ImportError:  # Windows.
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _unlock(descriptor: int) -> None:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _remove_in(process: int, folder: Path) -> None:
    if os.getpid() == process:  # A forked child drops a copy of the owner, while the parent's is in use.
        _remove(folder)


def everything_in(folder: Path) -> Iterator[Path]:
    """Give what lies below a folder, whatever vanishes meanwhile: `Path.rglob` minds before Python 3.13."""
    left = [folder]
    while left:
        for entry in _entries(left.pop()):
            yield Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                left.append(Path(entry.path))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _remove(folder: Path) -> None:
    """Remove a folder level by level: what lies deeper than a path is long, or Python calls itself, goes as well."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
    numbers, entries = count(), _entries(folder)
    while entries and sum([_lifted(Path(entry.path), folder, numbers) for entry in entries]):
        entries = _entries(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _lifted(path: Path, top: Path, numbers: Iterator[int]) -> bool:
    """Remove one thing at the top; folders in it are put at the top instead. Tell whether it is gone."""
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return True
        path.chmod(0o700)
        for entry in _entries(path):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)  # noqa: PTH101 - it may be a name that no path is
                os.rename(entry.path, top / f".neuropod-lifted-{next(numbers)}-{os.getpid()}")  # noqa: PTH104 - likewise
            else:
                os.unlink(entry.path)  # noqa: PTH108 - likewise
        path.rmdir()
        return True
    return False

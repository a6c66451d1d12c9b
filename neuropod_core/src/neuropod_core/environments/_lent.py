"""What this installation lends to an environment that has no neuropod: a folder of links to a closed list of packages.

The whole of ``site-packages`` would lend NumPy and frameworks too, built for another Python. The folder holds the core,
one plugin and the small pure-Python libraries that they need, each beside its metadata, so that entry points are found.
It goes to the end of the other interpreter's path: what is installed there wins.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from neuropod_core._cache import default_root, private_folder
from neuropod_core.environments._pythons import Python
from neuropod_core.errors import InterpreterError

__all__ = ["Lent", "lent_to", "linked"]

CORE = "neuropod-core"
_COMPARED = ("numpy", CORE, "packaging", "platformdirs", "pluggy", "semantic-version", "tomli")
_SMALL = ("packaging", "platformdirs", "pluggy", "semantic-version", "tomli", "typing-extensions")


@dataclass
class Lent:
    """What is lent; keep it as long as the other interpreter runs.

    Attributes
    ----------
    paths
        To append to ``sys.path`` there, in this order; empty where nothing is missing.
    distributions
        Whose packages they hold.
    targets
        Where their links lead: what a sandbox must let the other interpreter read.
    """

    paths: tuple[Path, ...] = ()
    distributions: tuple[str, ...] = ()
    targets: tuple[Path, ...] = ()


def lent_to(python: Python, plugin: str = "", *, core_in_any_case: bool = False, of_lock: bool = False) -> Lent:
    """Lend an interpreter what it lacks of the core, of a plugin, and of the small libraries that they need.

    Parameters
    ----------
    python
        Who borrows.
    plugin
        The distribution of the plugin that it is to load; empty for the core alone.
    core_in_any_case
        Whether this installation's core is lent beside one that is there.
    of_lock
        Whether the environment is one that a package's lock describes: errors then say what the lock lacks.

    Raises
    ------
    InterpreterError
        If it has no NumPy, or a version of something that what is lent does not admit.
    """
    wanted = [CORE, *([canonicalize_name(plugin)] if plugin else [])]
    lent = [name for name in wanted if not python.has(name)]
    if lent:
        _check_admits(python, lent, of_lock=of_lock)
        lent += [name for name in _SMALL if not python.has(name) and _is_installed(name)]
    if core_in_any_case and CORE not in lent:
        lent.append(CORE)
    return linked(*lent, **_toml_for(python, lent)) if lent else Lent()


def linked(*distributions: str, **more: Path) -> Lent:
    """Make a folder of links to the packages and metadata of distributions that are installed here, and to `more`."""
    links = {link.name: link for name in distributions for link in _places(metadata.distribution(name))} | more
    lent = Lent(distributions=distributions, targets=tuple(links.values()))
    named = "\0".join(f"{name}\0{target}" for name, target in sorted(links.items()))
    folder = default_root().absolute() / "v1" / "lent" / sha256(named.encode()).hexdigest()[:32]
    if not _is_whole(folder, links):
        try:
            _make(folder, links)
        except OSError:  # No cache that can be written.
            folder = private_folder(lent)
            _link(folder, links)
    lent.paths = (folder,)
    return lent


# -- details ----------------------------------------------------------------------------------------------------------


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _toml_for(python: Python, lent: list[str]) -> dict[str, Path]:
    """Lend a Python without ``tomllib`` this one's, by the name that the same code has for it there."""
    is_old = tuple(map(int, python.version.split(".")[:2])) < (3, 11)
    spec = find_spec("tomllib") if is_old and "tomli" not in lent and not python.has("tomli") else None
    if spec is None or spec.origin is None:
        return {}
    return {"tomli": Path(spec.origin).parent}


def _check_admits(python: Python, lent: list[str], *, of_lock: bool) -> None:
    """Compare the libraries that are there with what is asked for; frameworks are the plugin's affair when it loads."""
    for requirement in _asked(lent, python):
        name = canonicalize_name(requirement.name)
        if name not in _COMPARED:
            continue
        there = python.distributions.get(name)
        if name == "numpy" and there is None:
            raise _unfit(python, "an environment with NumPy", "numpy is not installed", requirement, of_lock=of_lock)
        if there is not None and not requirement.specifier.contains(there, prereleases=True):
            asked = f"{requirement}, which {lent[0]} asks for"
            raise _unfit(python, asked, f"{name} {there}", requirement, of_lock=of_lock)


def _asked(lent: list[str], python: Python) -> Iterator[Requirement]:
    minor = ".".join(python.version.split(".")[:2])
    there = {"extra": "", "python_version": minor, "python_full_version": python.version}
    for name in lent:
        for line in metadata.requires(name) or ():
            try:
                requirement = Requirement(line)
            except InvalidRequirement:  # Old metadata that pip installed all the same.
                continue
            if requirement.marker is None or requirement.marker.evaluate(there):
                yield requirement


def _unfit(python: Python, asked: str, there: str, requirement: Requirement, *, of_lock: bool) -> InterpreterError:
    remedy = f"run: {python.executable} -m pip install {str(requirement)!r}"
    if of_lock:  # The environment is what the lock says, and nothing is installed beside that.
        wanted = f"{requirement.name}{requirement.specifier}"
        remedy = f"add {wanted} to the lock: package the model again with it among its requirements"
    return InterpreterError(asked, (f"{there} in {python}",), remedy=remedy)


def _places(distribution: metadata.Distribution) -> Iterator[Path]:
    """Give the folders and files that are a distribution: its metadata, its packages, its modules."""
    described = getattr(distribution, "_path", None)  # Importlib has no public name for it.
    if described is not None:
        yield Path(str(described)).absolute()
    for name in sorted(_modules(distribution)):
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            yield Path(next(iter(spec.submodule_search_locations))).absolute()
        elif spec is not None and spec.origin is not None:
            yield Path(spec.origin).absolute()


def _modules(distribution: metadata.Distribution) -> set[str]:
    """Name the top-level modules of a distribution; of an editable one, which lists no files, those it points to."""
    tops = {file.parts[0] for file in distribution.files or () if file.suffix == ".py"}
    names = {top.removesuffix(".py") for top in tops if top not in ("..", "__pycache__", "bin")}
    found = {name for name in names if name.isidentifier() and not name.startswith(("_", "__editable__"))}
    if found:
        return found
    entries = {entry.module.partition(".")[0] for entry in distribution.entry_points}
    return entries | {canonicalize_name(distribution.metadata["Name"]).replace("-", "_")}


def _is_whole(folder: Path, links: dict[str, Path]) -> bool:
    try:
        return all((folder / name).readlink() == target for name, target in links.items())
    except OSError:
        return False


def _make(folder: Path, links: dict[str, Path]) -> None:
    from neuropod_core._cache import remove_tree

    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    work, damaged = (folder.with_name(f".{os.urandom(8).hex()}") for _ in range(2))
    try:
        work.mkdir()
        _link(work, links)
        if folder.exists():
            folder.rename(damaged)
        work.rename(folder)
    except OSError:
        if not _is_whole(folder, links):  # Else another was faster.
            raise
    finally:
        remove_tree(work)
        remove_tree(damaged)


def _link(folder: Path, links: dict[str, Path]) -> None:
    for name, target in links.items():
        (folder / name).symlink_to(target)

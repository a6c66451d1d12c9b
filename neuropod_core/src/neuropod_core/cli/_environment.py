"""What may be wrong around the plugins: rival and duplicated distributions, the cache, variables."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path

from neuropod_core._cache import CACHE_VARIABLE, Cache, default_root
from neuropod_core.cli._claims import Claim
from neuropod_core.cli._findings import Finding
from neuropod_core.errors import OptionError
from neuropod_core.hookspecs import BACKENDS_GROUP, OBSERVERS_GROUP, TESTS_GROUP
from neuropod_core.plugins import BLOCKED_VARIABLE, installed, normalized
from neuropod_core.trust import CEILING_VARIABLE, Trust

__all__ = ["of_cache", "of_duplicates", "of_groups", "of_rivals", "of_variables"]

_CORE = "neuropod-core"
_GROUPS = (BACKENDS_GROUP, OBSERVERS_GROUP, TESTS_GROUP)
_KNOWN = (BLOCKED_VARIABLE, CACHE_VARIABLE, CEILING_VARIABLE)
_PREFIX = "NEUROPOD_"

_Found = Mapping[str, Sequence[metadata.Distribution]]


def of_rivals(claims: Sequence[Claim]) -> Iterator[Finding]:
    """Find builds of one framework that write over each other's files, such as one for the CPU and one for GPUs."""
    found = _distributions()
    seen = set()
    for claim in claims:
        names = [normalized(name) for name in claim.facts.get("framework", ())]
        rivals = tuple(sorted(_overwriting([found[name][0] for name in names if name in found])))
        if len(rivals) > 1 and rivals not in seen:
            seen.add(rivals)
            yield _rivals(rivals, claim)


def of_duplicates(claims: Sequence[Claim]) -> Iterator[Finding]:
    """Find what is installed twice on the path: the core, plugins and their frameworks."""
    frameworks = {normalized(name) for claim in claims for name in claim.facts.get("framework", ())}
    ours = {_CORE, *(normalized(plugin.distribution) for plugin in installed())}
    for name, copies in sorted(_distributions().items()):
        if name in frameworks | ours and len(copies) > 1:
            places = ", ".join(f"{_version(copy)} in {_folder(copy)}" for copy in copies)
            what = f"it is installed {len(copies)} times, the first is used: {places}"
            yield Finding(
                "duplicate", name, what, f"run: pip uninstall {name}, until none is left, and install it again"
            )


def of_groups() -> Iterator[Finding]:
    """Find entry points that were meant for us and lie in a group that nothing reads."""
    for name, copies in sorted(_distributions().items()):
        for group in sorted({entry.group for entry in _entries(copies[0])}.difference(_GROUPS)):
            if group.startswith("neuropod") and (meant := get_close_matches(group, _GROUPS, 1, 0.8)):
                what = f"it has entry points in the group {group!r}, which nothing reads"
                yield Finding("group", f"{name} {_version(copies[0])}", what, f"did you mean {meant[0]}?")


def _entries(distribution: metadata.Distribution) -> Sequence[metadata.EntryPoint]:
    try:
        return tuple(distribution.entry_points)
    except Exception:  # noqa: BLE001 - told as damaged
        return ()


def of_cache() -> Iterator[Finding]:
    """Tell whether packages can be unpacked once for all, by nobody else, and what is left that nobody needs."""
    cache = Cache(default_root())
    if problem := _unwritable(cache.folder):
        what = f"nothing can be written there ({problem}), so every load of an archive unpacks it again"
        remedy = f"make it writable, or set {CACHE_VARIABLE} to a folder that is"
        yield Finding("cache", str(cache.folder), what, remedy)
        return
    if cache.folder.exists() and cache.folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = "others can write there, and what lies there is believed"
        yield Finding("cache", str(cache.folder), what, f"run: chmod go-w {cache.folder}")
    if left := cache.leftovers():
        what = f"{len(left)} unpacked packages are not whole: {left[0]}{', ...' if left[1:] else ''}"
        yield Finding("cache", str(cache.folder), what, "nothing: they are removed or replaced when needed", note=True)


def of_variables() -> Iterator[Finding]:
    """Tell which environment variables have a value that cannot be meant, or a name that nothing reads."""
    yield from _of_trust(os.environ.get(CEILING_VARIABLE, ""))
    yield from _of_blocked(os.environ.get(BLOCKED_VARIABLE, ""))
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in _KNOWN and (meant := get_close_matches(name, _KNOWN, 1, 0.8)):
            yield Finding("variable", name, "nothing reads it", f"did you mean {meant[0]}?")


def _of_trust(value: str) -> Iterator[Finding]:
    try:
        Trust.parse(value or Trust.CODE)
    except OptionError as error:
        what = f"{error.what}, and no model can be loaded"
        yield Finding("variable", CEILING_VARIABLE, what, error.remedy)


def _of_blocked(value: str) -> Iterator[Finding]:
    there = {normalized(plugin.distribution) for plugin in installed()}
    for name in filter(None, map(normalized, value.split(","))):
        if name not in there:
            meant = get_close_matches(name, there, 1)
            remedy = f"did you mean {meant[0]}?" if meant else "take it out; neuropod plugins list tells the names"
            yield Finding("variable", BLOCKED_VARIABLE, f"it names {name!r}, which has no plugin here", remedy)


# -- distributions ----------------------------------------------------------------------------------------------------


def _distributions() -> _Found:
    """Give what is installed by name, in the order of the path; one folder that is on it twice counts once."""
    found: dict[str, list[metadata.Distribution]] = {}
    seen = set()
    for distribution in metadata.distributions():
        place = _place(distribution)
        if place not in seen:
            found.setdefault(normalized(_name(distribution)), []).append(distribution)
        seen.add(place)
    return found


def _name(distribution: metadata.Distribution) -> str:
    with suppress(Exception):  # Damaged metadata raises one thing or another.
        return str(distribution.metadata["Name"] or "")
    return ""


def _version(distribution: metadata.Distribution) -> str:
    with suppress(Exception):
        return str(distribution.metadata["Version"] or "")
    return "an unknown version"


def _place(distribution: metadata.Distribution) -> str:
    return os.path.realpath(str(getattr(distribution, "_path", id(distribution))))


def _folder(distribution: metadata.Distribution) -> str:
    return str(Path(_place(distribution)).parent)


def _overwriting(builds: Sequence[metadata.Distribution]) -> set[str]:
    """Name the builds that own a file which another one owns as well."""
    if len(builds) < 2:  # noqa: PLR2004 - a rival needs another
        return set()
    owned = {_name(build): _modules(build) for build in builds}
    return {
        name for name, files in owned.items() if any(files & others for other, others in owned.items() if other != name)
    }


def _modules(distribution: metadata.Distribution) -> set[str]:
    with suppress(Exception):
        return {str(file) for file in distribution.files or () if file.suffix == ".py"}
    return set()


def _rivals(rivals: Sequence[str], claim: Claim) -> Finding:
    what = f"they hold the same files, and whichever was installed last runs under platform {claim.plugin.platform!r}"
    uninstall, install = f"pip uninstall {' '.join(rivals)}", claim.facts.get("install") or f"pip install {rivals[0]}"
    return Finding("rivals", " and ".join(rivals), what, f"run: {uninstall}, then: {install}")


# -- the cache --------------------------------------------------------------------------------------------------------


def _unwritable(root: Path) -> str:
    """Say why nothing can be written below `root`; empty if it can. Makes no folder that is not there."""
    there = next((folder for folder in (root, *root.parents) if folder.exists()), root)
    if not there.is_dir():
        return f"{there} is no folder"
    probe = there / f".neuropod-{os.urandom(8).hex()}"
    try:
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        return str(error.strerror or error)
    return ""

"""What the child process does in which one plugin is examined; see `_examination`.

It writes one JSON object into a file of its own, so that nothing that the plugin prints can spoil it. A plugin that
does not come back is ended by a thread that the interpreter cannot hold up, which writes down where it was.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neuropod_core import plugins
from neuropod_core.backend import Backend, Descriptor
from neuropod_core.cli._errors import document_of
from neuropod_core.errors import NeuropodError, PluginError

__all__ = ["main"]

_OBSERVER = "observer"


def main() -> None:
    """Examine the plugin that the first argument describes, and end the process, whatever the plugin left running."""
    order = json.loads(sys.argv[1])
    folder, plugin = Path(order["folder"]), plugins.Plugin(**order["plugin"])
    with (folder / "hung").open("w") as hung:
        faulthandler.dump_traceback_later(order["limit"], exit=True, file=hung)
        answer = _examined(plugin, plugin.imported if order["kind"] == _OBSERVER else plugin.backend)
        faulthandler.cancel_dump_traceback_later()
    (folder / "answer").write_text(json.dumps(answer, default=str), "utf-8")
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # The plugin may have closed or replaced it.
            stream.flush()
    os._exit(0)


def _examined(plugin: plugins.Plugin, ask: Callable[[], object]) -> dict[str, Any]:
    before, modules = _state(), set(sys.modules)
    began = time.perf_counter()
    try:
        backend, error = ask(), None
    except BaseException as raised:  # noqa: BLE001 - Ctrl-C included: nobody but the plugin raises it here
        backend, error = None, _worded(plugin, raised)
    seconds = time.perf_counter() - began
    after = _state()
    facts: dict[str, Any] = {"contract": _contract(plugin) if error is None else None}
    if isinstance(backend, Backend):
        facts |= _described(plugin, backend, modules)
    return {
        "error": error,
        "seconds": seconds,
        "changed": sorted(name for name in {*before, *after} if before.get(name) != after.get(name)),
        **facts,
    }


def _state() -> dict[str, object]:
    """Give what belongs to the whole process and should outlive the import of a plugin unchanged."""
    handlers = {name.name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    variables = {f"the environment variable {name}": value for name, value in os.environ.items()}
    return {
        **variables,
        **{f"the handler of {name}": handler for name, handler in handlers.items()},
        "sys.path": list(sys.path),
        "sys.stdout": sys.stdout,
        "sys.excepthook": sys.excepthook,
        "the current folder": os.getcwd(),  # noqa: PTH109 - a text, compared and no more
        "the handlers of the root logger": list(logging.root.handlers),
        "the running threads": threading.enumerate(),
    }


def _described(plugin: plugins.Plugin, backend: Backend, modules: set[str]) -> dict[str, Any]:
    try:
        facts = _facts_of(backend.descriptor)
        facts["framework_version"] = backend.framework_version()
        facts["framework_distribution"] = _found(facts["framework"])
        json.dumps(facts)
    except BaseException as error:  # noqa: BLE001 - a descriptor may hold anything
        reason = f"describing it raised {type(error).__name__}: {error}"
        return {"error": document_of(PluginError(str(plugin), reason, "tell its author"))}
    eager = _eager(backend.descriptor, set(sys.modules) - modules)
    return facts | {"unfit": _unfit(backend), "eager": eager, "lost": _lost(facts["packagers"])}


def _facts_of(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "framework": [str(name) for name in descriptor.framework],
        "framework_versions": str(descriptor.framework_versions),
        "install": str(descriptor.install),
        "trust": descriptor.trust.value,
        "dtypes": sorted(dtype.value for dtype in descriptor.dtypes),
        "devices": [str(device) for device in descriptor.devices],
        "options": _texts(descriptor.options),
        "packagers": _texts(descriptor.packagers),
        "packs": _texts(descriptor.packs),
        "stateful": bool(descriptor.stateful),
    }


def _texts(named: Mapping[str, str]) -> dict[str, str]:
    return {str(name): str(text) for name, text in named.items()}


def _found(distributions: list[str]) -> str | None:
    """Name the one of several builds that is installed, the first if there are more."""
    from importlib import metadata

    for distribution in distributions:
        with suppress(metadata.PackageNotFoundError):
            metadata.version(distribution)
            return distribution
    return None


def _unfit(backend: Backend) -> dict[str, Any] | None:
    try:
        plugins.check_framework(backend)
    except NeuropodError as error:
        return document_of(error)
    except Exception as error:  # noqa: BLE001 - a range that is none, a version that is none
        return document_of(NeuropodError(f"comparing versions raised {type(error).__name__}: {error}"))
    return None


def _lost(packagers: Mapping[str, str]) -> list[str]:
    """Name the packagers whose module is not there. It is not imported: that may import the framework."""
    lost = []
    for name, target in packagers.items():
        module, _, function = target.partition(":")
        try:
            found = function and find_spec(module)
        except Exception:  # noqa: BLE001 - a package above it may raise anything
            found = None
        if not found:
            lost.append(f"{name} ({target})")
    return lost


def _eager(descriptor: Descriptor, imported: set[str]) -> list[str]:
    """Name the modules of the framework that came with the descriptor; asking for their owners is slow."""
    roots = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names)
    if not roots or not descriptor.framework:
        return []
    from importlib import metadata

    owners = metadata.packages_distributions()
    wanted = set(map(plugins.normalized, descriptor.framework))
    return sorted(root for root in roots if wanted & set(map(plugins.normalized, owners.get(root, ()))))


def _contract(plugin: plugins.Plugin) -> str | None:
    with suppress(Exception):
        stated = getattr(plugin.imported(), "neuropod_contract", None)
        return ".".join(map(str, stated)) if isinstance(stated, tuple) else None
    return None


def _worded(plugin: plugins.Plugin, error: BaseException) -> dict[str, Any]:
    if not isinstance(error, NeuropodError):
        reason = f"importing it raised {type(error).__name__}: {error}".removesuffix(": ")
        error = PluginError(str(plugin), reason, "tell its author")
    return document_of(error)

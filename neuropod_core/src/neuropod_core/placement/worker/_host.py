"""The worker: what runs in the other process, from its first breath to its last."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from neuropod_core import plugins
from neuropod_core.backend import Backend, Executor, LoadOptions, trust_of
from neuropod_core.errors import NeuropodError, PluginError, shown, worded
from neuropod_core.placement._in_process import InProcess, gives_native
from neuropod_core.placement.worker import _frames
from neuropod_core.placement.worker._recipe import descriptor_facts
from neuropod_core.placement.worker._served import Desk, End, Served
from neuropod_core.placement.worker._shared_memory_end import TAKES_TURNS, SharedMemoryEnd
from neuropod_core.placement.worker._socket_desk import SocketEnd
from neuropod_core.placement.worker._travel import facts_of
from neuropod_core.problem import Problem
from neuropod_core.trust import Trust, check_trust
from neuropod_core.variants import Variant

_ENDS = {"shared_memory": SharedMemoryEnd, "socket": SocketEnd}
"""Ends by the name of their transport."""


def main(link: socket.socket) -> None:
    """Load the model that the parent names, and serve it until the parent is gone."""
    _frames.send(link, {"hello": _frames.PROTOCOL, "python": sys.version.split()[0]})
    order = _next(link)
    if "describe" in order:
        _describe(link, order)
    try:
        executor, problem = _loaded(order)
    except NeuropodError as error:
        _frames.send(link, {"error": facts_of(error)})
        _end(0)
    _frames.send(link, {"ready": _told_of(executor)})
    message, descriptors = _next_with_descriptors(link)
    Service(Served(executor, problem, str(order["platform"]))).run(link, message["serve"], descriptors)


class Service:
    """Serves a loaded model: one thread for each desk, one that listens to the parent."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def run(self, link: socket.socket, order: Mapping[str, Any], descriptors: list[int]) -> None:
        """Serve until the parent is gone."""
        end = _ENDS[order["transport"]](order, descriptors, self._served)
        gc.freeze()  # What is loaded stays: collections need not look at it again.
        threading.Thread(target=self._listen, args=(link, end), name="neuropod-parent", daemon=True).start()
        for desk in end.desks[1:]:
            threading.Thread(target=_serve, args=(desk,), name="neuropod-slot", daemon=True).start()
        _serve(end.desks[0])

    def _listen(self, link: socket.socket, end: End) -> None:
        try:
            while (got := _frames.receive(link)) is not None:
                end.hear(*got)
        except (OSError, NeuropodError) as error:
            sys.stderr.write(f"the parent cannot be understood: {error}\n")
        with suppress(Exception):  # The process ends, whatever the executor says to that.
            self._served.executor.close()
        _end(0)


def _serve(desk: Desk) -> None:
    try:
        desk.serve()
    except SystemExit as stop:
        _end(stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1)
    except BaseException:  # noqa: BLE001 - whatever it is, a slot that nobody serves must end the worker
        import traceback

        traceback.print_exc()
        _end(1)


def _loaded(order: Mapping[str, Any]) -> tuple[Executor, Problem]:
    backend = _backend(order)
    fields = order["variant"]
    folder = Path(fields["folder"])
    problem = Problem.from_dict(fields["problem"])
    variant = Variant(
        platform=order["platform"],
        folder=folder,
        problem=problem,
        name=fields["name"],
        config=MappingProxyType(fields["config"]),
        custom_ops=tuple(map(Path, fields["custom_ops"])),
        input_devices=MappingProxyType(fields["input_devices"]),
    )
    options = LoadOptions(order["device"], MappingProxyType(order["values"]))
    if order.get("trust"):  # The parent has no plugin that could look into the artefact.
        needed = trust_of(backend, variant, str(folder.parent))
        check_trust(needed, Trust.parse(order["trust"]), f"this one holds {needed}", str(folder.parent))
    if order.get("threads"):
        _apply(order["threads"], backend)
    return InProcess().start(backend, variant, options), problem


def _apply(thread_settings: Mapping[str, Any], backend: Backend) -> None:
    try:
        backend.apply_thread_settings(thread_settings)
    except NeuropodError:
        raise
    except Exception as error:
        what = f"its apply_thread_settings raised {worded(error)} for {shown(dict(thread_settings))}"
        raise PluginError(type(backend).__module__, what, "tell its author, or pass Worker(threads=...)") from error


def _describe(link: socket.socket, order: Mapping[str, Any]) -> None:
    """Tell the parent, which has no such plugin, or another one, what the backend here says of itself."""
    try:
        backend = _backend(order)
        facts = {"described": descriptor_facts(backend.descriptor), "framework_version": backend.framework_version()}
    except NeuropodError as error:
        facts = {"error": facts_of(error)}
    _frames.send(link, facts)
    _end(0)


def _backend(order: Mapping[str, Any]) -> Backend:
    """Give the backend that the parent chose: the same plugin by its name, or, elsewhere, the one installed here."""
    if not order.get("target"):
        return plugins.backend_for(order["platform"], order.get("distribution"))
    return plugins.Plugin(order["platform"], order["distribution"], order["version"], order["target"]).backend()


def _told_of(executor: Executor) -> dict[str, Any]:
    described = {str(key): _plain(value) for key, value in executor.description.items()}
    serial = bool(getattr(executor, "serial", False))  # Plugins may be older than the attribute.
    return {
        "stateful": bool(executor.stateful),
        "description": described,
        "serial": serial,
        "takes_turns": serial and TAKES_TURNS,
        "keeps_order": True,
        "gives_native": gives_native(executor),
    }


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else str(value)


def _next(link: socket.socket) -> dict[str, Any]:
    return _next_with_descriptors(link)[0]


def _next_with_descriptors(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    got = _frames.receive(link)
    if got is None:
        _end(0)
    return got


def _end(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)

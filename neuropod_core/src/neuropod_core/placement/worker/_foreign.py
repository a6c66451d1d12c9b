"""Backends of other environments: asked there what they can do, and run there."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from neuropod_core import plugins
from neuropod_core.backend import Backend, Descriptor, Executor, LoadOptions
from neuropod_core.environments import environment_for, lent_to, python_of
from neuropod_core.errors import NeuropodError, PluginError, WorkerStartError
from neuropod_core.package import Package
from neuropod_core.placement.worker import _frames
from neuropod_core.placement.worker._bells import Doorbell
from neuropod_core.placement.worker._process import Process
from neuropod_core.placement.worker._recipe import Home, descriptor_from
from neuropod_core.placement.worker._travel import error_from
from neuropod_core.trust import Trust
from neuropod_core.variants import Variant

FROM_PACKAGE = "package"
_START_TIMEOUT_S = 60.0
_SHOWN_LINES = 3


class ForeignBackend(Backend):
    """A backend that is installed in another environment, by what it said of itself there.

    Attributes
    ----------
    home
        Where it lives.
    distribution
        Which plugin was asked for; None for the only one.
    """

    def __init__(self, home: Home, distribution: str | None, described: dict[str, Any]) -> None:
        self.home, self.distribution = home, distribution
        self.descriptor = _installed_there(descriptor_from(described["described"]), str(home.python))
        version = described.get("framework_version")
        self._version = version if isinstance(version, str) else None

    def framework_version(self) -> str | None:
        """Give the version that is installed there."""
        return self._version

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Load nothing: what lives elsewhere runs in a worker."""
        del variant, options
        raise PluginError("a foreign backend", "it runs in workers only", "pass the placement that found it")


def home_for(environment: str | Path, package: Package, distribution: str | None, trust: Trust, *, caged: bool) -> Home:
    """Find, or build, the environment that a worker is to live in.

    Raises
    ------
    InterpreterError, EnvironmentBuildError
        If there is none.
    TrustError
        If it comes from the package, and `trust` is less than ``code``.
    """
    if environment == FROM_PACKAGE:
        built = environment_for(package, trust=trust)
        python, keep = built.python, built
    else:
        python, keep = python_of(environment), None
    plugin = distribution or _plugin_here(package.config.platform)
    of_lock = environment == FROM_PACKAGE
    lent = lent_to(python, plugin, core_in_any_case=caged, of_lock=of_lock)  # It closes the cage before all else there.
    return Home(
        python=str(python.executable),
        lent=tuple(map(str, lent.paths)),
        caged=caged,
        readable=(*map(str, lent.targets), str(python.prefix), str(python.base_prefix)),
        installed=tuple(sorted(python.distributions.items())),
        keep=(keep, lent),
    )


def foreign_backend(home: Home, platform: str, distribution: str | None) -> ForeignBackend:
    """Ask an environment for the backend of `platform`.

    Raises
    ------
    BackendError
        What it raises there, or that it cannot be asked.
    """
    return ForeignBackend(home, distribution, _described(home, platform, distribution))


@lru_cache(maxsize=64)
def _described(home: Home, platform: str, distribution: str | None) -> dict[str, Any]:
    process, broke = Process(f"neuropod of {home.python}", home, {}, {}, Doorbell()), None
    try:
        answer = _asked(process, platform, distribution)
    except OSError as error:
        answer, broke = None, error
    finally:
        process.end(1.0)
    if answer is None:
        raise _silent(home, process.last_lines, broke) from broke
    if "error" in answer:
        raise _mended_there(error_from(answer["error"]), str(home.python))
    return answer


def _asked(process: Process, platform: str, distribution: str | None) -> dict[str, Any] | None:
    """Ask what a backend is; None where the process ends, or says nothing for too long."""
    until = time.monotonic() + _START_TIMEOUT_S
    hello = process.expect("hello", until)
    if hello is not None and "hello" in hello:
        _frames.check_version(hello["hello"])
    _frames.send(process.link, {"describe": True, "platform": platform, "distribution": distribution})
    return process.expect("described", until)


def _silent(home: Home, lines: tuple[str, ...], broke: OSError | None) -> WorkerStartError:
    """Word that an environment gave no answer, by what its Python wrote last."""
    wrote = " | ".join(lines[-_SHOWN_LINES:]) or (f"nothing ({broke})" if broke is not None else "nothing")
    what = f"{home.python} cannot be asked for its plugins; it wrote: {wrote}"
    remedy = (
        "mend what it names: a module there that is broken, or that hides one of Python's own;"
        " or install neuropod-core and the plugin there, in a version that has workers"
    )
    return WorkerStartError(what, remedy=remedy)


def _installed_there(descriptor: Descriptor, python: str) -> Descriptor:
    """Have the command that installs the framework name the environment where it is missing."""
    only_one = len(descriptor.framework) == 1
    install = descriptor.install or (f"pip install {descriptor.framework[0]}" if only_one else "")
    return replace(descriptor, install=install.replace("pip install", f"{python} -m pip install", 1))


def _mended_there(error: NeuropodError, python: str) -> NeuropodError:
    """Have the remedy of an error from there name that environment."""
    here, there = "run: pip install", f"run: {python} -m pip install"
    told = type(error)(*(each.replace(here, there) if isinstance(each, str) else each for each in error.args))
    told.__cause__ = error.__cause__
    return told


def _plugin_here(platform: str) -> str:
    """Name the plugin that this environment could lend."""
    return next((plugin.distribution for plugin in plugins.installed() if plugin.platform == platform), "")

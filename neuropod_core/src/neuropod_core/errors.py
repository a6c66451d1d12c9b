"""Every exception that neuropod raises, as one tree.

::

    NeuropodError
    ├── SpecError (ValueError)                 a problem or tensor spec that cannot be
    ├── PackageError (ValueError)              a package that cannot be read or written
    │   ├── PackageNotFoundError (FileNotFoundError)
    │   ├── PackageFormatError                 its layout or its JSON is wrong
    │   ├── PackageIntegrityError              its bytes are not those that its manifest names
    │   ├── PackageLimitError                  it asks for more than the reader grants
    │   ├── SourceError                        it lies behind a URL that cannot be read
    │   └── PackagingError                     it could not be written
    ├── TrustError                             it needs more trust than the caller gives
    ├── BackendError (RuntimeError)            nothing here can run it
    │   ├── BackendNotFoundError
    │   ├── BackendConflictError
    │   ├── PluginError                        a plugin is installed and broken
    │   │   └── PluginContractError            it was written for another contract
    │   ├── PluginBlockedError
    │   ├── FrameworkNotFoundError
    │   ├── FrameworkVersionError
    │   ├── RequirementsError                  the packages that a model needs are not those installed
    │   ├── InterpreterError                   no Python here that the model can run on
    │   ├── EnvironmentBuildError              the environment that a lock describes could not be built
    │   ├── SandboxError                       the kernel does not offer what a sandbox promises
    │   ├── DeviceError                        the device asked for is not there
    │   ├── OptionError (ValueError)           a load option that the backend does not know
    │   ├── WorkerStartError                   no worker became ready
    │   └── ModelLoadError                     the framework refused the artefact
    │       └── CustomOpError                  the libraries of custom operators cannot be loaded here
    └── InferenceError (RuntimeError)          one call failed
        ├── TensorMismatchError (ValueError)   a tensor contradicts its spec
        ├── ResultMismatchError (ValueError)   the packaged test data gave other results
        ├── OutOfDeviceMemoryError (MemoryError)
        ├── DeadlineError (TimeoutError)       its caller gave it no more time
        ├── SharedMemoryError (MemoryError)    no room between this process and its workers
        ├── WorkerDiedError                    the process that ran the model ended
        ├── WorkerProtocolError                it said what no worker says
        ├── ForkedModelError                   the worker is the parent's, this process is its child
        └── ModelClosedError

Facts are attributes, words are ``str(error)``. Every class is built from plain positional arguments that it keeps in
``args``: so it pickles, and it can travel as its name and its facts.
"""

from __future__ import annotations

__all__ = [
    "BackendConflictError",
    "BackendError",
    "BackendNotFoundError",
    "CustomOpError",
    "DeadlineError",
    "DeviceError",
    "EnvironmentBuildError",
    "ForkedModelError",
    "FrameworkNotFoundError",
    "FrameworkVersionError",
    "InferenceError",
    "InterpreterError",
    "ModelClosedError",
    "ModelLoadError",
    "NeuropodError",
    "OptionError",
    "OutOfDeviceMemoryError",
    "PackageError",
    "PackageFormatError",
    "PackageIntegrityError",
    "PackageLimitError",
    "PackageNotFoundError",
    "PackagingError",
    "PluginBlockedError",
    "PluginContractError",
    "PluginError",
    "RequirementsError",
    "ResultMismatchError",
    "SandboxError",
    "SharedMemoryError",
    "SourceError",
    "SpecError",
    "TensorMismatchError",
    "TrustError",
    "WorkerDiedError",
    "WorkerProtocolError",
    "WorkerStartError",
]

_SHOWN_CHARACTERS = 80


def shown(value: object) -> str:
    """Give `value` as ``repr`` does, cut to 80 characters: a message never carries a whole tensor or file."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - foreign code, or an int of more digits than Python writes.
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def visible(text: str) -> str:
    r"""Spell out what a terminal would obey or hide, as ``\x1b`` and ``\u202e``."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def worded(error: BaseException) -> str:
    """Give the type and the message of a foreign error, which may be unable to say anything."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - foreign code
        message = "its message cannot be read"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def sentence(what: str, at: str = "", remedy: str = "") -> str:
    """Join the parts of a message into one line: what is wrong, where, and what to do."""
    whole = what + (f" - at {at}" if at else "") + (f"; {remedy}" if remedy else "")
    return " ".join(line.strip() for line in whole.splitlines())


class NeuropodError(Exception):
    """Base of every error that neuropod raises on purpose.

    Parameters
    ----------
    what
        What is wrong, with both sides where there are two.
    at
        Where: a tensor (``inputs.image``), a file inside a package, a plugin.
    remedy
        What to do about it, in the imperative.
    """

    def __init__(self, what: str, at: str = "", remedy: str = "") -> None:
        super().__init__(what, at, remedy)
        self.what, self.at, self.remedy = what, at, remedy

    def __str__(self) -> str:
        return sentence(self.what, self.at, self.remedy)

    @property
    def facts(self) -> dict[str, object]:
        """The attributes of the error by name, for logs and for JSON."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class SpecError(NeuropodError, ValueError):
    """A problem, a tensor spec or a shape that cannot be what it says."""


class PackageError(NeuropodError, ValueError):
    """A package that cannot be read or written."""


class PackageNotFoundError(PackageError, FileNotFoundError):
    """There is no package at the place that was named."""


class PackageFormatError(PackageError):
    """The layout of a package, or a file that describes it, is not what the format asks for."""


class PackageLimitError(PackageError):
    """A package asks for more memory, files or depth than its reader grants.

    `limit` and `got` are in the unit that `quantity` names.
    """

    def __init__(self, quantity: str, limit: int, got: int, at: str = "", remedy: str = "") -> None:
        Exception.__init__(self, quantity, limit, got, at, remedy)
        self.quantity, self.limit, self.got, self.at, self.remedy = quantity, limit, got, at, remedy

    def __str__(self) -> str:
        return sentence(f"at most {self.limit} {self.quantity} are read, this has {self.got}", self.at, self.remedy)


class PackageIntegrityError(PackageError):
    """The content of a package is not what its manifest (or its archive) says."""

    def __init__(self, at: str, expected: str, got: str, remedy: str = "") -> None:
        Exception.__init__(self, at, expected, got, remedy)
        self.at, self.expected, self.got, self.remedy = at, expected, got, remedy

    def __str__(self) -> str:
        return sentence(f"expected {self.expected}, got {self.got}", self.at, self.remedy)


class SourceError(PackageError):
    """What lies behind a URL cannot be reached, or not be read to its end; or nothing here reads such URLs."""


class PackagingError(PackageError):
    """A package could not be written; nothing was left behind."""


class TrustError(NeuropodError):
    """A package needs more trust than the caller (or ``NEUROPOD_TRUST``) gives.

    `needed` and `given` are names of trust classes: ``data``, ``graph``, ``code``.
    """

    def __init__(self, needed: str, given: str, why: str, at: str = "", remedy: str = "") -> None:
        Exception.__init__(self, needed, given, why, at, remedy)
        self.needed, self.given, self.why, self.at, self.remedy = needed, given, why, at, remedy

    def __str__(self) -> str:
        return sentence(f"needs trust {self.needed!r} ({self.why}), got {self.given!r}", self.at, self.remedy)


class BackendError(NeuropodError, RuntimeError):
    """Nothing that is installed here can run the model."""


class BackendNotFoundError(BackendError):
    """No installed plugin serves a platform, or not the one of `distribution`, where one was named.

    `installed` lists what there is instead: the platforms that are served, or the distributions that serve this one.
    """

    def __init__(
        self, platform: str, installed: tuple[str, ...] = (), remedy: str = "", distribution: str = ""
    ) -> None:
        Exception.__init__(self, platform, installed, remedy, distribution)
        self.platform, self.installed, self.remedy = platform, tuple(installed), remedy
        self.distribution = distribution

    def __str__(self) -> str:
        there = ", ".join(self.installed) or "none"
        by = f" by {self.distribution!r}" if self.distribution else ""
        return sentence(f"no backend{by} for platform {self.platform!r} (installed: {there})", remedy=self.remedy)


class BackendConflictError(BackendError):
    """Two installed distributions claim one platform."""

    def __init__(self, platform: str, rivals: tuple[str, ...]) -> None:
        Exception.__init__(self, platform, rivals)
        self.platform, self.rivals = platform, tuple(rivals)

    def __str__(self) -> str:
        return sentence(
            f"{len(self.rivals)} plugins claim platform {self.platform!r} ({', '.join(self.rivals)})",
            remedy=f"choose one by backend={self.rivals[0]!r}, or uninstall or block the others",
        )


class PluginError(BackendError):
    """A plugin is installed and cannot be used."""

    def __init__(self, plugin: str, reason: str, remedy: str = "") -> None:
        Exception.__init__(self, plugin, reason, remedy)
        self.plugin, self.reason, self.remedy = plugin, reason, remedy

    def __str__(self) -> str:
        return sentence(f"plugin {self.plugin} is broken: {self.reason}", remedy=self.remedy)


class PluginContractError(PluginError):
    """A plugin was written for a contract that this core does not serve."""

    def __str__(self) -> str:
        return sentence(f"plugin {self.plugin} does not fit this core: {self.reason}", remedy=self.remedy)


class PluginBlockedError(BackendError):
    """The only plugin for a platform is blocked."""

    def __init__(self, plugin: str, by: str) -> None:
        Exception.__init__(self, plugin, by)
        self.plugin, self.by = plugin, by

    def __str__(self) -> str:
        return sentence(f"plugin {self.plugin} is blocked by {self.by}", remedy="remove it from the blocked names")


class FrameworkNotFoundError(BackendError):
    """A plugin is installed, the framework that it drives is not."""


class FrameworkVersionError(BackendError):
    """The installed version of a framework is outside of the range that a package (or plugin) asks for."""

    def __init__(self, framework: str, expected: str, got: str, asked_by: str, remedy: str = "") -> None:
        Exception.__init__(self, framework, expected, got, asked_by, remedy)
        self.framework, self.expected, self.got, self.asked_by = framework, expected, got, asked_by
        self.remedy = remedy

    def __str__(self) -> str:
        what = f"{self.asked_by} asks for {self.framework} {self.expected}, installed is {self.got}"
        return sentence(what, remedy=self.remedy)


class RequirementsError(BackendError):
    """The packages that a model was locked with are not those installed.

    `differences` has one line for each package: its name, the locked and the installed version.
    """

    def __init__(self, differences: tuple[str, ...], at: str = "", remedy: str = "") -> None:
        Exception.__init__(self, differences, at, remedy)
        self.differences, self.at, self.remedy = tuple(differences), at, remedy

    def __str__(self) -> str:
        return sentence(f"installed packages differ from the lock: {', '.join(self.differences)}", self.at, self.remedy)


class InterpreterError(BackendError):
    """There is no Python interpreter that fits, or the one that was named does not work or lacks something.

    `asked` is a range of versions or a path; `there` has one line for each interpreter that was looked at, and why it
    will not do.
    """

    def __init__(self, asked: str, there: tuple[str, ...] = (), at: str = "", remedy: str = "") -> None:
        Exception.__init__(self, asked, there, at, remedy)
        self.asked, self.there, self.at, self.remedy = asked, tuple(there), at, remedy

    def __str__(self) -> str:
        there = ", ".join(self.there) or "none"
        return sentence(f"no Python that fits {self.asked} (found: {there})", self.at, self.remedy)


class EnvironmentBuildError(BackendError):
    """The environment that a package's lock describes could not be built; nothing was left behind.

    `reason` is one of ``lock`` (there is none, or it names a file of some machine), ``sdist`` (a requirement has no
    wheel at all), ``wheel`` (none fits the interpreter), ``hash`` (a wheel is not the one that was locked), ``offline``
    (a wheel is not here, and the network was not to be used), ``network`` (it could not be fetched), ``contents`` (a
    wheel would replace the environment's interpreter, or decide how it starts) and ``install`` (the installer failed,
    or the disk is full).
    """

    def __init__(self, reason: str, what: str, at: str = "", remedy: str = "") -> None:
        Exception.__init__(self, reason, what, at, remedy)
        self.reason, self.what, self.at, self.remedy = reason, what, at, remedy

    def __str__(self) -> str:
        return sentence(self.what, self.at, self.remedy)


class SandboxError(BackendError):
    """The kernel, or the state of this process, does not allow what a sandbox promises.

    `missing` has one line for each part.
    """

    def __init__(self, missing: tuple[str, ...], at: str = "", remedy: str = "") -> None:
        Exception.__init__(self, missing, at, remedy)
        self.missing, self.at, self.remedy = tuple(missing), at, remedy

    def __str__(self) -> str:
        return sentence(f"the sandbox lacks {'; '.join(self.missing)}", self.at, self.remedy)


class DeviceError(BackendError):
    """The device asked for is not there, and no other was asked for."""


class OptionError(BackendError, ValueError):
    """A load option that the backend does not know, or a value that it cannot take."""


class ModelLoadError(BackendError):
    """The framework refused the artefact; its own error is the ``__cause__``."""


class CustomOpError(ModelLoadError):
    """A library of custom operators is for another machine, clashes with one that is loaded, or cannot be loaded."""


class InferenceError(NeuropodError, RuntimeError):
    """One call failed; the model can be called again."""


class TensorMismatchError(InferenceError, ValueError):
    """A tensor contradicts its spec."""

    def __init__(self, path: str, expected: str, got: str, remedy: str = "") -> None:
        Exception.__init__(self, path, expected, got, remedy)
        self.path, self.expected, self.got, self.remedy = path, expected, got, remedy

    def __str__(self) -> str:
        return sentence(f"expected {self.expected}, got {self.got}", self.path, self.remedy)


class ResultMismatchError(InferenceError, ValueError):
    """The model runs, and its results are not those packaged with it."""

    def __init__(self, path: str, expected: str, got: str, largest_difference: float | None = None) -> None:
        Exception.__init__(self, path, expected, got, largest_difference)
        self.path, self.expected, self.got, self.largest_difference = path, expected, got, largest_difference

    def __str__(self) -> str:
        off = "" if self.largest_difference is None else f" (off by up to {self.largest_difference:.3g})"
        return sentence(f"the test data expects {self.expected}, got {self.got}{off}", self.path)


class OutOfDeviceMemoryError(InferenceError, MemoryError):
    """The device has no memory left for this call."""


class ModelClosedError(InferenceError):
    """The model was closed, it cannot be called any more."""


class DeadlineError(InferenceError, TimeoutError):
    """A call did not end in the time that its caller gave it; what runs, runs on, and its result is dropped."""

    def __init__(self, timeout_s: float, doing: str, remedy: str = "") -> None:
        Exception.__init__(self, timeout_s, doing, remedy)
        self.timeout_s, self.doing, self.remedy = timeout_s, doing, remedy

    def __str__(self) -> str:
        return sentence(f"the call did not end within {self.timeout_s:g} s ({self.doing})", remedy=self.remedy)


class SharedMemoryError(InferenceError, MemoryError):
    """The shared memory between this process and its workers has no room for a tensor."""


class ForkedModelError(InferenceError):
    """The model was loaded before this process was forked; its worker belongs to the parent."""


class WorkerProtocolError(InferenceError):
    """A worker sent what no worker sends; it is not believed, and ended."""


class WorkerDiedError(InferenceError):
    """The process that ran a model ended while it was needed.

    `how` says how it ended: ``signal 9 (SIGKILL)``, ``exit code 3``; after a colon, why this process ended it
    (``signal 9 (SIGKILL): it hung up``); ``unknown, since ...`` where the system told somebody else, or nobody.
    `last_lines` is what it wrote last to its standard error, with control characters spelled out.
    """

    def __init__(self, worker: str, how: str, last_lines: tuple[str, ...] = (), remedy: str = "") -> None:
        Exception.__init__(self, worker, how, last_lines, remedy)
        self.worker, self.how, self.last_lines, self.remedy = worker, how, tuple(last_lines), remedy

    def __str__(self) -> str:
        wrote = f"; it wrote: {' | '.join(self.last_lines)}" if self.last_lines else ""
        ending = f"ended; how is {self.how}" if self.how.startswith("unknown") else f"ended by {self.how}"
        return sentence(f"the worker of {self.worker!r} {ending}{wrote}", remedy=self.remedy)


class WorkerStartError(BackendError):
    """A worker could not be started, or did not become ready in time."""

"""The placement that users choose: how many workers, where, with which limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neuropod_core.backend import Backend, Executor, LoadOptions
from neuropod_core.errors import OptionError, PackageIntegrityError, SandboxError, SharedMemoryError
from neuropod_core.package import Package
from neuropod_core.placement._base import Placement
from neuropod_core.placement.worker._executor import WorkerExecutor
from neuropod_core.placement.worker._open_files import is_at_limit, limit_error
from neuropod_core.placement.worker._recipe import Home, Recipe, model_facts, order_for
from neuropod_core.placement.worker._settings import check_settings
from neuropod_core.placement.worker._supervisor import Limits
from neuropod_core.placement.worker._transports import check_name, new_transport
from neuropod_core.trust import Trust
from neuropod_core.variants import Variant

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


@dataclass(frozen=True, kw_only=True)
class Worker(Placement):
    """Runs a model in other processes: same results, same errors, nearly the same speed.

    Parameters
    ----------
    replicas
        How many processes, each with the model; a call goes to the least busy. Stateful models have one.
    slots
        How many calls lie before a worker at a time; None for as many as suit the model: 4, or 8 where it runs one at a
        time and the others wait before it (2 over sockets, and where memory does not show stores in order). Each takes
        some 0.3 MB.
    shared_memory_bytes
        The most memory for tensors on their way, and for results that callers hold, of all replicas together, beside
        the slots. None is reserved before it is needed, and what was is kept for later calls. Where tensors travel over
        sockets, the most that the inputs of a call, and its results, may take.
    transport
        How tensors travel: ``shared_memory``, as fast as the machine allows, on Linux only; or ``socket``, on every
        Unix, copied twice each way; None for the best that there is.
    start_timeout_s
        How long a worker may take until it is ready.
    restarts
        How often in a row a worker that dies is replaced; 0 for never.
    restart_after_calls, restart_above_bytes
        A worker that answered so many calls, or uses so much memory, is replaced when its calls are through, or after
        five minutes. Stateful models refuse both.
    kills_late
        Whether a call past its deadline ends the worker that runs it, and so the other calls that run there.
    cpus
        For each replica in turn, the CPUs that it may use; None for the parent's. Where there are fewer entries than
        replicas, they are taken again from the first; more are refused.
    threads
        Threads of each worker's numerical libraries, through the variables that they read; None for the parent's.
    gpus
        For each replica in turn, what ``CUDA_VISIBLE_DEVICES`` says; fewer are taken again, more refused, as of `cpus`.
    nice
        How much is added to the niceness.
    memory_limit_bytes
        The most data memory of a worker; an allocation past it fails.
    environment
        Where the worker's Python and its packages come from: None for this environment; the path of an interpreter or
        of a virtual environment; or ``"package"``: built from the lock of the package, once.
    variables
        Environment variables beside the parent's.
    """

    replicas: int = 1
    slots: int | None = None
    shared_memory_bytes: int = 1 << 30
    transport: str | None = None
    start_timeout_s: float = 300.0
    restarts: int = 5
    restart_after_calls: int | None = None
    restart_above_bytes: int | None = None
    kills_late: bool = False
    cpus: Sequence[Sequence[int]] | None = None
    threads: int | None = None
    gpus: Sequence[str | int] | None = None
    nice: int = 0
    memory_limit_bytes: int | None = None
    environment: str | Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    _caged: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
        check_name(self.transport)

    def sandboxed(self) -> Placement:
        """Give the same placement with its workers in a sandbox.

        Raises
        ------
        SandboxError
            If the kernel does not offer all that a sandbox promises.
        """
        from neuropod_core import sandbox

        report = sandbox.available()
        if report.missing:
            raise SandboxError(report.missing, remedy=sandbox.REMEDY)
        return replace(self, _caged=True)

    def backend(self, package: Package, distribution: str | None, trust: Trust) -> Backend:
        """Find the backend in the environment where the workers will live."""
        if self.environment is None:
            return super().backend(package, distribution, trust)
        from neuropod_core.placement.worker._foreign import foreign_backend, home_for

        home = home_for(self.environment, package, distribution, trust, caged=self._caged)
        return foreign_backend(home, package.config.platform, distribution)

    def start(self, backend: Backend, variant: Variant, options: LoadOptions) -> Executor:
        """Start the workers, and wait until every one has loaded the model."""
        home, order = self._home_and_order(backend, variant, options)
        unchanged = partial(_check_unchanged, variant.folder, _files_of(variant.folder))
        recipes = [self._recipe(number, variant, home, order, unchanged) for number in range(self.replicas)]
        limits = Limits(
            self.start_timeout_s, self.restarts, self.restart_after_calls, self.restart_above_bytes, self.slots
        )
        try:
            transport = new_transport(self.transport, self.shared_memory_bytes)
            return WorkerExecutor(recipes, limits, transport, kills_late=self.kills_late)
        except (OSError, SharedMemoryError) as error:
            if not is_at_limit(error):
                raise
            raise limit_error(f"while a worker for {variant.platform!r} was started") from error

    def _home_and_order(self, backend: Backend, variant: Variant, options: LoadOptions) -> tuple[Home, dict[str, Any]]:
        package_folder = str(variant.folder.parent)
        if self.environment is None:
            order = order_for(backend, variant, options, inherits_threads=self.threads is None)
            roots = tuple(_roots("neuropod_core", order["target"])) if self._caged else ()
            return Home(caged=self._caged, readable=(package_folder,), roots=roots), order
        from neuropod_core.placement.worker._foreign import ForeignBackend

        if not isinstance(backend, ForeignBackend):
            raise OptionError(
                "the backend was not found by this placement", at="placement", remedy="load by load_neuropod"
            )
        order = {"distribution": backend.distribution, "trust": str(options.trust), **model_facts(variant, options)}
        return replace(backend.home, readable=(*backend.home.readable, package_folder)), order

    def _recipe(
        self, number: int, variant: Variant, home: Home, order: Mapping[str, Any], check: Callable[[], None]
    ) -> Recipe:
        settings = {
            "cpus": list(self.cpus[number % len(self.cpus)]) if self.cpus else None,
            "nice": self.nice,
            "memory_limit_bytes": self.memory_limit_bytes,
        }
        name = variant.name or variant.platform
        tensors = len(variant.problem.inputs) + len(variant.problem.outputs)
        return Recipe(
            name=name if self.replicas == 1 else f"{name}-{number}",
            platform=variant.platform,
            tensors=tensors,
            order=order,
            home=home,
            variables=self._variables(number),
            settings=settings,
            check=check,
        )

    def _variables(self, number: int) -> dict[str, str]:
        variables = dict.fromkeys(_THREAD_VARIABLES, str(self.threads)) if self.threads else {}
        if self.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = str(self.gpus[number % len(self.gpus)])
        return {**variables, **self.variables}


def _roots(*modules: str) -> Iterator[str]:
    """Give the folders from which modules are imported."""
    for module in modules:
        spec = find_spec(module.partition(":")[0].partition(".")[0])
        places = [*(spec.submodule_search_locations or ())] if spec is not None else []
        if spec is not None and spec.origin and not places:
            places = [spec.origin]
        yield from (str(Path(place).parent) for place in places)


_Look = tuple[int, int, int]


def _files_of(folder: Path) -> dict[Path, _Look | None]:
    """Tell what lies in a variant, but for compiled Python."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path: _look_of(path) for path in files}


def _look_of(path: Path) -> _Look | None:
    """Tell inode, size and time of change of a file; None if it is gone."""
    try:
        fact = path.stat()
    except OSError:
        return None
    return fact.st_ino, fact.st_size, fact.st_mtime_ns


def _check_unchanged(folder: Path, before: Mapping[Path, _Look | None]) -> None:
    """See that a worker which is started later opens what was verified at the first load; more may lie there."""
    changed = sorted(str(path.relative_to(folder)) for path, look in before.items() if _look_of(path) != look)
    if not changed:
        return
    are_gone = not any((folder / name).exists() for name in changed)
    got = f"{'none of its' if are_gone else 'other'} files ({', '.join(changed[:3])})"
    remedy = "the files are gone: put them back and load it again" if are_gone else "load it again"
    raise PackageIntegrityError(str(folder), "the package that was loaded", got, remedy)

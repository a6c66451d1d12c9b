"""What all parts of the conformance suite share: what its author declares, and the fixtures."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from neuropod_core import plugins
from neuropod_core.backend import Backend, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.loading import load_neuropod
from neuropod_core.model import Neuropod
from neuropod_core.problem import Problem
from neuropod_core.testing._arrays import numbers
from neuropod_core.testing._models import (
    PROBLEMS,
    NotExpressibleError,
    Sample,
    StandardModel,
    WriteModel,
    identity_problem,
)
from neuropod_core.trust import Trust

Packaged = Callable[[StandardModel], Path]
Opened = Callable[[StandardModel], Neuropod]
OpenedAdd = Callable[[Problem], Neuropod]
OpenedIdentity = Callable[[DType, tuple[int, ...]], Neuropod]


@dataclass(frozen=True)
class Subject:
    """A packaged model with one good call: what checks that hold for any model are tried on."""

    path: Path
    inputs: Tensors
    failing: Tensors | None


class Suite:
    """Declarations and fixtures; see `BackendTests`."""

    platform: ClassVar[str] = ""
    distribution: ClassVar[str] = ""
    known_gaps: ClassVar[Mapping[str, str]] = {}
    not_expressible: ClassVar[Mapping[StandardModel, str]] = {}
    time_limit_s: ClassVar[float] = 120.0
    load_arguments: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.partition(".")[0] == "neuropod_core":
            return
        checks = {name for base in cls.__mro__ if _is_ours(base) for name in vars(base) if name.startswith("test_")}
        for name in cls.known_gaps:
            if name.partition("[")[0] not in checks:
                raise TypeError(f"{cls.__name__}.known_gaps names {name!r}, which is no check of the suite")
        for name in sorted(checks & set(vars(cls))):
            raise TypeError(f"{cls.__name__} overrides {name!r}; declare a known gap instead")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run checks that hold for any model on a standard one, and on the author's own where there is one."""
        if "subject" in metafunc.fixturenames:
            own = next(kind for kind in type(self).__mro__ if "sample" in vars(kind)) is not Suite
            standard = [] if own and StandardModel.ADD in self.not_expressible else ["standard"]
            metafunc.parametrize("subject", [*standard, *(["sample"] if own else [])], indirect=True)

    # -- what the author gives

    @pytest.fixture
    def write_model(self) -> WriteModel:
        """Give the function that writes a standard model; every subclass that can express one has its own."""

        def write(model: StandardModel, problem: Problem, path: Path) -> None:
            del problem, path
            raise NotImplementedError(f"no fixture write_model was given, and {model} is not in not_expressible")

        return write

    @pytest.fixture
    def sample(self) -> Sample:
        """Give a model of the author's own; only frameworks that cannot express the standard ones need it."""
        raise NotImplementedError("no sample was given")

    # -- what the checks use

    @pytest.fixture(autouse=True)
    def _in_time(self) -> Iterator[None]:
        """End a check that waits for ever, unless somebody else keeps time by this signal."""
        if getattr(signal, "SIGALRM", None) is None or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
            yield
            return
        signal.signal(signal.SIGALRM, self._late)
        signal.setitimer(signal.ITIMER_REAL, self.time_limit_s, self.time_limit_s)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _late(self, *_: object) -> None:
        pytest.fail(f"the backend took more than {self.time_limit_s} s")

    @pytest.fixture(autouse=True)
    def _known_gap(self, request: pytest.FixtureRequest) -> None:
        for name in (request.node.name, getattr(request.node, "originalname", "")):
            if name in self.known_gaps:
                request.applymarker(pytest.mark.xfail(reason=self.known_gaps[name], strict=True))

    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.delenv("NEUROPOD_TRUST", raising=False)

    @pytest.fixture
    def backend(self) -> Backend:
        """Give the backend under test."""
        return plugins.backend_for(self.platform, self.distribution or None)

    @pytest.fixture
    def package(self, write_model: WriteModel, tmp_path: Path) -> Packaged:
        """Give the function that packages a standard model."""

        def write(model: StandardModel) -> Path:
            path = tmp_path / f"{model.value}.neuropod"
            if not path.exists():
                self._write(write_model, model, PROBLEMS[model], path)
            return path

        return write

    @pytest.fixture
    def models(self) -> Iterator[list[Neuropod]]:
        """Give the list of models to be closed after the test."""
        opened: list[Neuropod] = []
        yield opened
        for model in opened:
            model.close()

    @pytest.fixture
    def opened(self, package: Packaged, models: list[Neuropod]) -> Opened:
        """Give the function that packages and loads a standard model."""

        def load(model: StandardModel) -> Neuropod:
            models.append(self.load(package(model)))
            return models[-1]

        return load

    @pytest.fixture
    def identity(self, write_model: WriteModel, models: list[Neuropod], tmp_path: Path) -> OpenedIdentity:
        """Give the function that packages and loads an identity over some ranks of one type."""

        def load(dtype: DType, ranks: tuple[int, ...]) -> Neuropod:
            path = tmp_path / f"identity-{dtype}-{len(models)}.neuropod"
            self._write(write_model, StandardModel.IDENTITY, identity_problem(dtype.value, ranks), path)
            models.append(self.load(path))
            return models[-1]

        return load

    @pytest.fixture
    def opened_add(self, write_model: WriteModel, models: list[Neuropod], tmp_path: Path) -> OpenedAdd:
        """Give the function that packages and loads an addition of a problem of its own."""

        def load(problem: Problem) -> Neuropod:
            path = tmp_path / f"add-{len(models)}.neuropod"
            self._write(write_model, StandardModel.ADD, problem, path)
            models.append(self.load(path))
            return models[-1]

        return load

    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
        """Give a model to try what holds for every model."""
        path = tmp_path / "subject.neuropod"
        if request.param == "sample":
            sample: Sample = request.getfixturevalue("sample")
            sample.write(path)
            return Subject(path, sample.inputs, sample.failing)
        self._write(request.getfixturevalue("write_model"), StandardModel.ADD, PROBLEMS[StandardModel.ADD], path)
        x = numbers(DType.FLOAT32, (2, 3))
        return Subject(path, {"x": x, "y": x[::-1].copy()}, None)

    @pytest.fixture
    def model(self, subject: Subject, models: list[Neuropod]) -> Neuropod:
        """Give the subject, loaded."""
        models.append(self.load(subject.path))
        return models[-1]

    def load(self, path: Path, **arguments: Any) -> Neuropod:
        """Load a package with the backend under test, and with trust in everything."""
        named = {"backend": self.distribution} if self.distribution else {}
        return load_neuropod(path, **{"trust": Trust.CODE, **named, **self.load_arguments, **arguments})

    def _write(self, write_model: WriteModel, model: StandardModel, problem: Problem, path: Path) -> None:
        if model in self.not_expressible:
            pytest.xfail(f"not expressible: {self.not_expressible[model]}")
        try:
            write_model(model, problem, path)
        except NotExpressibleError as error:
            pytest.xfail(f"not expressible: {error}")


def _is_ours(kind: type) -> bool:
    return issubclass(kind, Suite) and kind.__module__.partition(".")[0] == "neuropod_core"

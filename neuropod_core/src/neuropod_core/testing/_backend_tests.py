"""The conformance suite of backends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from neuropod_core import plugins
from neuropod_core.backend import Array, Backend, Tensors
from neuropod_core.dtypes import DType
from neuropod_core.errors import (
    DeviceError,
    InferenceError,
    ModelClosedError,
    NeuropodError,
    OptionError,
    TensorMismatchError,
    TrustError,
)
from neuropod_core.loading import load_neuropod
from neuropod_core.model import Neuropod
from neuropod_core.packaging import repack
from neuropod_core.tensors import object_array
from neuropod_core.testing._models import PROBLEMS, StandardModel, WriteModel, identity_problem
from neuropod_core.testing.strategies import reversed_view, strided
from neuropod_core.trust import Trust

__all__ = ["BackendTests"]

_RANKS = (0, 1, 2, 3)
_THREADS, _CALLS = 8, 50
_TEXTS = ["", "plain", "naïve", "日本語", "🙂", "a\0b", "x" * 1000, " spaced\n"]

Packaged = Callable[[StandardModel], Path]


class BackendTests:
    """Checks that every backend passes: subclass it, name the `platform`, and give the fixture `write_model`.

    Attributes
    ----------
    platform
        The platform of the backend under test; its plugin is installed or registered.
    known_gaps
        Name of a check -> why the backend cannot pass it. Such a check must fail: a gap that was closed is an error.
    load_arguments
        Arguments of `load_neuropod` that all models of the suite are loaded with.
    """

    platform: ClassVar[str] = ""
    known_gaps: ClassVar[Mapping[str, str]] = {}
    load_arguments: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        checks = {name for name in vars(BackendTests) if name.startswith("test_")}
        for name in cls.known_gaps:
            if name.partition("[")[0] not in checks:
                raise TypeError(f"{cls.__name__}.known_gaps names {name!r}, which is no check of the suite")
        for name in checks & set(vars(cls)):
            raise TypeError(f"{cls.__name__} overrides {name!r}; declare a known gap instead")

    # -- fixtures

    @pytest.fixture
    def write_model(self) -> WriteModel:
        """Give the function that writes a standard model; every subclass has its own."""
        raise NotImplementedError("give a fixture write_model: see neuropod_core.testing.StandardModel")

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
        return plugins.backend_for(self.platform)

    @pytest.fixture
    def package(self, write_model: WriteModel, tmp_path: Path) -> Packaged:
        """Give the function that packages a standard model."""

        def write(model: StandardModel) -> Path:
            path = tmp_path / f"{model.value}.neuropod"
            write_model(model, PROBLEMS[model], path)
            return path

        return write

    @pytest.fixture
    def opened(self, package: Packaged) -> Iterator[Callable[[StandardModel], Neuropod]]:
        """Give the function that packages and loads a standard model, closed after the test."""
        models: list[Neuropod] = []

        def load(model: StandardModel) -> Neuropod:
            models.append(self._load(package(model)))
            return models[-1]

        yield load
        for model in models:
            model.close()

    @pytest.fixture
    def identity(self, write_model: WriteModel, tmp_path: Path) -> Iterator[Callable[..., Neuropod]]:
        """Give the function that packages and loads an identity over some ranks of one type."""
        models: list[Neuropod] = []

        def load(dtype: DType, ranks: tuple[int, ...] = _RANKS) -> Neuropod:
            path = tmp_path / f"identity-{dtype}-{len(models)}.neuropod"
            write_model(StandardModel.IDENTITY, identity_problem(dtype.value, ranks), path)
            models.append(self._load(path))
            return models[-1]

        yield load
        for model in models:
            model.close()

    def _load(self, path: Path, **arguments: Any) -> Neuropod:
        return load_neuropod(path, **{"trust": Trust.CODE, **self.load_arguments, **arguments})

    # -- the descriptor

    def test_descriptor_names_what_exists(self, backend: Backend) -> None:
        descriptor = backend.descriptor

        assert descriptor.platform == self.platform
        assert descriptor.devices
        for name, target in descriptor.packagers.items():
            module, _, function = target.partition(":")
            assert callable(getattr(import_module(module), function)), name
        assert all(descriptor.options.values())

    def test_descriptor_imports_no_framework(self, backend: Backend) -> None:
        claim = next(plugin for plugin in plugins.installed() if plugin.platform == self.platform)
        program = (
            "import sys; from neuropod_core import plugins; before = set(sys.modules);"
            f"plugins.backend_for({self.platform!r}, {claim.distribution!r}).descriptor;"
            "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
        )
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603

        imported = set(run.stdout.split())
        assert not imported & _import_names(backend.descriptor.framework)

    # -- values

    @pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.STRING], ids=str)
    def test_numbers_come_back_as_they_went_in(
        self, dtype: DType, backend: Backend, identity: Callable[..., Neuropod]
    ) -> None:
        if dtype not in backend.descriptor.dtypes:
            with pytest.raises(NeuropodError):
                identity(dtype)
            return
        model = identity(dtype)

        for lengths in ((1, 2, 3), (0, 2, 1)):
            given = {f"x{rank}": _numbers(dtype, lengths[:rank]) for rank in _RANKS}
            _assert_identical(model.infer(given), given)

    @pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "read-only", "broadcast", "transposed"])
    def test_any_memory_layout_is_taken(self, layout: str, identity: Callable[..., Neuropod]) -> None:
        model = identity(DType.FLOAT32, (2, 3))
        given = {f"x{rank}": _LAYOUTS[layout](_numbers(DType.FLOAT32, (2, 3, 4)[:rank])) for rank in (2, 3)}

        _assert_identical(model.infer(given), given)

    def test_strings_of_one_dimension_come_back(self, backend: Backend, identity: Callable[..., Neuropod]) -> None:
        self._check_strings(backend, identity, ranks=(1,))

    def test_strings_of_any_rank_come_back(self, backend: Backend, identity: Callable[..., Neuropod]) -> None:
        self._check_strings(backend, identity, ranks=(0, 2))

    def _check_strings(self, backend: Backend, identity: Callable[..., Neuropod], ranks: tuple[int, ...]) -> None:
        if DType.STRING not in backend.descriptor.dtypes:
            with pytest.raises(NeuropodError):
                identity(DType.STRING, ranks)
            return
        model = identity(DType.STRING, ranks)

        for count in (len(_TEXTS), 0):
            shapes = {0: (), 1: (count,), 2: (count // 2, 2)}
            given = {f"x{rank}": object_array(_TEXTS[: int(np.prod(shapes[rank]))], shapes[rank]) for rank in ranks}
            results = model.infer(given)

            _assert_identical(results, given)
            assert all(type(item) is str for array in results.values() for item in array.ravel().tolist())

    def test_results_have_their_names(self, opened: Callable[[StandardModel], Neuropod]) -> None:
        x, y = _numbers(DType.FLOAT32, (2, 3)), np.full((2, 3), 2, np.float32)

        results = opened(StandardModel.ADD).infer({"x": x, "y": y})

        assert set(results) == {"sum", "difference"}
        np.testing.assert_array_equal(results["sum"], x + y)
        np.testing.assert_array_equal(results["difference"], x - y)

    @pytest.mark.parametrize("name", ["sum", "difference"])
    def test_only_asked_for_outputs_are_returned(self, name: str, opened: Callable[[StandardModel], Neuropod]) -> None:
        model = opened(StandardModel.ADD)
        x, y = np.ones((1, 2), np.float32), np.full((1, 2), 2, np.float32)

        results = model.infer({"x": x, "y": y}, [name])

        assert list(results) == [name]
        np.testing.assert_array_equal(results[name], model.infer({"x": x, "y": y})[name])
        with pytest.raises(TensorMismatchError, match="one of the outputs"):
            model.infer({"x": x, "y": y}, ["absent"])

    # -- whose memory

    def test_inputs_are_never_written(self, opened: Callable[[StandardModel], Neuropod]) -> None:
        model = opened(StandardModel.IN_PLACE)
        for size in (3, 1000):
            x = _aligned(np.arange(size, dtype=np.float32))

            y = model.infer({"x": x})["y"]

            np.testing.assert_array_equal(x, np.arange(size))
            np.testing.assert_array_equal(y, np.arange(size) + 1)

    def test_results_share_no_memory_with_inputs(self, identity: Callable[..., Neuropod]) -> None:
        model = identity(DType.FLOAT32, (1, 2))
        for size in (3, 1000):
            given = {"x1": _aligned(np.ones(size, np.float32)), "x2": _aligned(np.ones((size, 2), np.float32))}

            results = model.infer(given)

            assert not any(np.shares_memory(a, b) for a in results.values() for b in given.values())
            assert all(array.flags.writeable for array in results.values())

    @pytest.mark.parametrize("kind", [StandardModel.BUFFER, StandardModel.CONSTANT], ids=lambda kind: kind.value)
    def test_results_belong_to_the_caller(
        self, kind: StandardModel, opened: Callable[[StandardModel], Neuropod]
    ) -> None:
        model = opened(kind)
        first = model.infer({"x": np.array([1, 2, 3], np.float32)})["y"]
        kept = first.copy()

        second = model.infer({"x": np.array([7, 8, 9], np.float32)})["y"]
        again = second.copy()
        np.testing.assert_array_equal(first, kept)

        first += 100
        second += 100
        third = model.infer({"x": np.array([7, 8, 9], np.float32)})["y"]
        np.testing.assert_array_equal(third, again)

    def test_results_outlive_the_model(self, package: Packaged) -> None:
        with self._load(package(StandardModel.CONSTANT)) as model:
            y = model.infer({"x": np.zeros(3, np.float32)})["y"]

        np.testing.assert_array_equal(y, [1, 2, 3])

    # -- many calls, errors, the end

    def test_threads_get_the_answers_of_one(self, opened: Callable[[StandardModel], Neuropod]) -> None:
        model = opened(StandardModel.ADD)

        def calls(thread: int) -> bool:
            x = np.full((2, 3), thread, np.float32)
            results = [model.infer({"x": x, "y": x + call}) for call in range(_CALLS)]
            return all(bool((made["sum"] == 2 * thread + call).all()) for call, made in enumerate(results))

        with ThreadPoolExecutor(_THREADS) as pool:
            assert all(pool.map(calls, range(_THREADS)))

    def test_a_failing_call_raises_and_the_next_one_runs(self, opened: Callable[[StandardModel], Neuropod]) -> None:
        model = opened(StandardModel.FAILING)

        with pytest.raises(InferenceError) as raised:
            model.infer({"x": np.ones(4, np.float32)})

        assert raised.value.__cause__ is not None
        np.testing.assert_array_equal(model.infer({"x": np.ones(3, np.float32)})["y"], [2, 2, 2])

    def test_a_closed_model_says_so(self, opened: Callable[[StandardModel], Neuropod]) -> None:
        model = opened(StandardModel.CONSTANT)
        model.close()
        model.close()

        with pytest.raises(ModelClosedError, match="closed"):
            model.infer({"x": np.zeros(3, np.float32)})

    def test_two_models_live_side_by_side(self, package: Packaged) -> None:
        path = package(StandardModel.ADD)
        x = np.ones((1, 1), np.float32)
        with self._load(path) as first, self._load(path) as second:
            first.close()

            assert second.infer({"x": x, "y": x})["sum"].tolist() == [[2.0]]

    def test_a_folder_gives_what_the_archive_gives(self, package: Packaged, tmp_path: Path) -> None:
        archive, folder = package(StandardModel.ADD), tmp_path / "folder.neuropod"
        repack(archive, folder, package_as_zip=False)
        x = _numbers(DType.FLOAT32, (2, 3))
        with self._load(archive) as one, self._load(folder) as other:
            _assert_equal(one.infer({"x": x, "y": x}), other.infer({"x": x, "y": x}))

    # -- refusals

    def test_damaged_artefacts_are_refused(self, package: Packaged, tmp_path: Path) -> None:
        folder = tmp_path / "damaged.neuropod"
        repack(package(StandardModel.ADD), folder, package_as_zip=False)
        (folder / "manifest.json").unlink()
        largest = max((path for path in (folder / "0").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
        largest.write_bytes(b"\x93not a model\n" * 10)

        with pytest.raises(NeuropodError):
            self._load(folder)

    def test_less_trust_is_refused(self, backend: Backend, package: Packaged) -> None:
        path = package(StandardModel.CONSTANT)
        less = [trust for trust in Trust if not trust.admits(backend.descriptor.trust)]

        for trust in less:
            with pytest.raises(TrustError, match=f"needs trust '{backend.descriptor.trust}'"):
                self._load(path, trust=trust)
        self._load(path, trust=backend.descriptor.trust).close()

    def test_an_absent_device_is_refused(self, package: Packaged) -> None:
        with pytest.raises(DeviceError):
            self._load(package(StandardModel.CONSTANT), device="cuda:99")

    def test_an_unknown_option_is_refused(self, package: Packaged) -> None:
        with pytest.raises(OptionError, match="no option 'no_such_option'"):
            self._load(package(StandardModel.CONSTANT), options={"no_such_option": 1})


def _import_names(distributions: tuple[str, ...]) -> set[str]:
    return {name for name, owners in metadata.packages_distributions().items() if set(owners) & set(distributions)}


def _numbers(dtype: DType, shape: tuple[int, ...]) -> Array:
    count = int(np.prod(shape))
    values = (
        np.arange(count) % 2 == 0 if dtype is DType.BOOL else np.arange(count) - (count // 2 if _signed(dtype) else 0)
    )
    return values.astype(dtype.numpy).reshape(shape)


def _signed(dtype: DType) -> bool:
    return not dtype.value.startswith("uint")


def _aligned(array: Array) -> Array:
    """Copy to an address that is a multiple of 64: where frameworks are tempted to use the caller's memory."""
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    aligned: Array = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    aligned[...] = array
    return aligned


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


_LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "fortran": np.asfortranarray,
    "strided": strided,
    "reversed": reversed_view,
    "read-only": _read_only,
    "broadcast": lambda array: np.broadcast_to(array[:1], array.shape),
    "transposed": lambda array: np.ascontiguousarray(array.T).T,
}


def _assert_identical(results: Tensors, given: Tensors) -> None:
    assert set(results) == {f"y{name[1:]}" for name in given}
    _assert_equal(results, {f"y{name[1:]}": array for name, array in given.items()})


def _assert_equal(results: Tensors, expected: Tensors) -> None:
    for name, wanted in expected.items():
        assert results[name].dtype == wanted.dtype, name
        assert results[name].shape == wanted.shape, name
        assert results[name].tolist() == wanted.tolist(), name

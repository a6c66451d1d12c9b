from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from neuropod_core import Executor, LoadOptions, Problem, Variant
from neuropod_python.plugin import PythonBackend

collect_ignore = [] if find_spec("torch") else ["test_torch.py"]

Load = Callable[..., Executor]

_PROBLEM = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Give the function that writes the variant of a package from source texts, and opens it."""
    opened: list[Executor] = []

    def open_package(
        files: Mapping[str, str],
        *,
        package: str = "entry",
        entrypoint: str = "main",
        problem: Problem = _PROBLEM,
        lock: str | None = None,
        pylock: str | None = None,
        data: Mapping[str, bytes] | None = None,
        custom_ops: tuple[Path, ...] = (),
        device: str = "cpu",
        config: Mapping[str, Any] | None = None,
        name: str = "",
        **options: Any,
    ) -> Executor:
        folder = tmp_path / (name or f"package{len(list(tmp_path.iterdir()))}") / "0"
        _write({f"code/{name}": text.encode() for name, text in files.items()}, folder)
        _write({f"data/{name}": content for name, content in (data or {}).items()}, folder)
        for file, text in (("requirements.lock", lock), ("pylock.toml", pylock)):
            _write({} if text is None else {file: text.encode()}, folder)
        declared = {"entrypoint": entrypoint, "entrypoint_package": package, **(config or {})}
        variant = Variant("python", folder, problem, config=declared, custom_ops=custom_ops)
        executor = PythonBackend().load(variant, LoadOptions(device, options))
        opened.append(executor)
        return executor

    yield open_package
    for executor in opened:
        executor.close()


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    (folder / "code").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from neuropod_core import (
    Backend,
    Descriptor,
    Executor,
    LoadOptions,
    Package,
    PluginError,
    Trust,
    Variant,
    load_neuropod,
    plugins,
)
from neuropod_core.loading import trust_needed
from neuropod_core.plugins import backend_for

Write = Callable[..., Path]


class Looking(Backend):
    """Judges an artefact by its content."""

    descriptor = Descriptor("calc", Trust.DATA)

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        raise NotImplementedError

    def trust_needed(self, variant: Variant) -> Trust:
        return {"add": Trust.DATA, "identity": Trust.GRAPH}[variant.name]


def needed(path: Path, *, look_inside: bool = True) -> tuple[Trust, str]:
    with Package.open(path) as package:
        return trust_needed(package, backend_for("calc"), look_inside=look_inside)


def test_trust_needed_is_that_of_the_platform(write: Write, tmp_path: Path) -> None:
    assert needed(write(tmp_path / "m")) == (Trust.GRAPH, "graph is the class of calc packages")


def test_trust_needed_by_custom_ops_is_code(write: Write, tmp_path: Path) -> None:
    (tmp_path / "op.so").touch()

    assert needed(write(tmp_path / "m", custom_ops=[tmp_path / "op.so"]))[0] is Trust.CODE


def test_trust_needed_is_that_of_the_artefact_where_the_backend_looks(
    write: Write, make_plugin: Callable[..., ModuleType], tmp_path: Path
) -> None:
    path = write(tmp_path / "m", "identity")
    plugins.register(make_plugin(Looking()), "calc")

    assert needed(path) == (Trust.GRAPH, "this one holds graph")
    assert needed(path, look_inside=False)[0] is Trust.DATA


def test_a_backend_that_fails_to_look_is_named(
    write: Write, make_plugin: Callable[..., ModuleType], tmp_path: Path
) -> None:
    path = write(tmp_path / "m", "constant")
    plugins.register(make_plugin(Looking()), "calc")

    with pytest.raises(PluginError, match="its trust_needed raised KeyError"):
        load_neuropod(path)

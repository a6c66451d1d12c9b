"""What is damaged or misbehaves takes away itself and nothing else, in the process that loads models."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuropod_core import PluginError, packagers, plugins

SOUND = """
from neuropod_core import Backend, Descriptor, Trust, hookimpl
neuropod_contract = (1, 0)
class Made(Backend):
    def __init__(self, platform):
        packagers = {{f"create_{{platform}}_neuropod": "{module}:create"}}
        self.descriptor = Descriptor(platform, Trust.DATA, packagers=packagers)
    def load(self, variant, options):
        raise AssertionError
def create(): return "{module}"
@hookimpl
def neuropod_backend(platform):
    return Made(platform)
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give the function that installs a distribution with one plugin, and gives its dist-info."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.observers.cache_clear()

    def make(name: str, source: str = SOUND, group: str = "backends") -> Path:
        module = f"discovered_{name}"
        (tmp_path / f"{module}.py").write_text(source.format(module=module))
        facts = tmp_path / f"{name}-1.2.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (facts / "entry_points.txt").write_text(f"[neuropod.{group}]\n{name} = {module}\n")
        return facts

    yield make
    plugins.observers.cache_clear()
    for module in [name for name in sys.modules if name.startswith("discovered_")]:
        del sys.modules[module]


def test_a_distribution_whose_entry_points_cannot_be_read_hides_no_other(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("sound")
    (install("torn") / "entry_points.txt").write_text("[neuropod.backends]\nno equals sign\n")

    with caplog.at_level(logging.WARNING, "neuropod"):
        backend = plugins.backend_for("sound")

    assert backend.descriptor.platform == "sound"
    assert "torn-1.2.dist-info cannot be read" in caplog.text


@pytest.mark.parametrize("metadata", ["", "Metadata-Version: 2.1\n", None], ids=["empty", "nameless", "missing"])
def test_a_distribution_without_a_name_hides_no_other(metadata: str | None, install: Install) -> None:
    install("sound")
    facts = install("torn")
    if metadata is None:
        (facts / "METADATA").unlink()
    else:
        (facts / "METADATA").write_text(metadata)

    assert {"sound", "torn"} <= {plugin.platform for plugin in plugins.installed()}
    assert plugins.backend_for("sound").descriptor.platform == "sound"


def test_a_module_that_raises_when_it_is_asked_for_its_contract_is_broken(install: Install) -> None:
    install("odd", "def __getattr__(name): raise RuntimeError(name)\n")

    with pytest.raises(PluginError, match="reading its neuropod_contract raised RuntimeError"):
        plugins.backend_for("odd")


def test_a_descriptor_that_raises_makes_its_plugin_broken(install: Install) -> None:
    source = SOUND.replace(
        "    def __init__(self, platform):",
        "    @property\n    def descriptor(self): 1 / 0\n    def made(self, platform):",
    )
    install("odd", source.replace("return Made(platform)", "return Made()"))

    with pytest.raises(PluginError, match="reading its descriptor raised ZeroDivisionError"):
        plugins.backend_for("odd")


@pytest.mark.parametrize(
    "source", ["raise SystemExit(1)\n", "class Odd(BaseException): pass\nraise Odd\n", "def broken(:\n"]
)
def test_an_observer_that_cannot_be_imported_is_logged_and_dropped(
    source: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("watcher", source, group="observers")

    with caplog.at_level(logging.ERROR, "neuropod"):
        plugins.notify("neuropod_model_loaded", model=None)

    assert "observer 'watcher' cannot be used, it comes from watcher" in caplog.text


def test_a_blocked_observer_is_not_imported(
    install: Install, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("watcher", "raise AssertionError\n", group="observers")
    monkeypatch.setenv(plugins.BLOCKED_VARIABLE, "Watcher")

    plugins.notify("neuropod_model_loaded", model=None)

    assert "discovered_watcher" not in sys.modules
    assert not caplog.records


def test_a_packager_is_found_without_importing_plugins_of_other_platforms(install: Install) -> None:
    install("sound")
    install("aaa", "raise AssertionError\n")

    packager: Callable[[], object] = packagers.create_sound_neuropod

    assert packager() == "discovered_sound"
    assert "discovered_aaa" not in sys.modules

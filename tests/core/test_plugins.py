from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from neuropod_core import (
    Backend,
    BackendConflictError,
    BackendNotFoundError,
    Descriptor,
    FrameworkNotFoundError,
    FrameworkVersionError,
    PackageFormatError,
    PluginBlockedError,
    PluginContractError,
    PluginError,
    SpecError,
    Trust,
    packagers,
    plugins,
)

MODULE = """
from neuropod_core import Backend, Descriptor, Trust, hookimpl
neuropod_contract = (1, 0)
class Made(Backend):
    def __init__(self, platform):
        packagers = {{"create_{name}": "{module}:create"}}
        self.descriptor = Descriptor(platform=platform, trust=Trust.DATA, packagers=packagers)
    def load(self, variant, options):
        raise AssertionError
def create(): return "made by {name}"
@hookimpl
def neuropod_backend(platform):
    return Made(platform)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give the function that installs a distribution with one plugin, seen by the real discovery."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def make(name: str, source: str = MODULE, platforms: tuple[str, ...] = ("made",), group: str = "backends") -> None:
        module = f"plugin_{name}"
        (site / f"{module}.py").write_text(source.format(name=name, module=module))
        facts = site / f"{name}-1.2.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "\n".join(f"{platform} = {module}" for platform in platforms)
        (facts / "entry_points.txt").write_text(f"[neuropod.{group}]\n{lines}\n")

    yield make
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]
    plugins.observers.cache_clear()


class Some(Backend):
    def __init__(self, **facts: Any) -> None:
        self.descriptor = Descriptor(**{"platform": "made", "trust": Trust.DATA, **facts})

    def load(self, variant: object, options: object) -> Any:
        raise AssertionError


class Undescribed(Backend):
    def load(self, variant: object, options: object) -> Any:
        raise AssertionError


def test_an_installed_plugin_is_found_by_its_platform(install: Callable[..., None]) -> None:
    install("one", platforms=("made", "made_too"))

    backend = plugins.backend_for("made")

    assert backend.descriptor.platform == "made"
    assert plugins.backend_for("made") is backend
    assert plugins.backend_for("made_too").descriptor.platform == "made_too"
    assert [str(plugin) for plugin in plugins.installed() if plugin.platform == "made"] == ["one 1.2"]


def test_listing_imports_no_plugin(install: Callable[..., None]) -> None:
    install("silent", "raise AssertionError('imported')")

    assert "made" in {plugin.platform for plugin in plugins.installed()}
    assert "plugin_silent" not in sys.modules


@pytest.mark.parametrize(
    ("platform", "remedy"),
    [("torchscript", "pip install neuropod-torch"), ("onnx", "neuropod-onnx"), ("fortran", "install the plugin")],
)
def test_an_unserved_platform_names_what_to_install(
    platform: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_claims", lambda platform=None: iter(()))

    with pytest.raises(BackendNotFoundError, match=f"no backend for platform '{platform}' .*{remedy}"):
        plugins.backend_for(platform)


def test_rivals_are_named_and_one_can_be_chosen(install: Callable[..., None]) -> None:
    install("one")
    install("other_one")

    with pytest.raises(BackendConflictError, match="2 plugins claim platform 'made' \\(one, other_one\\)"):
        plugins.backend_for("made")
    assert type(plugins.backend_for("made", "other-one")).__module__ == "plugin_other_one"
    with pytest.raises(
        BackendNotFoundError, match="no backend by 'third' for platform 'made' \\(installed: one, other_one\\)"
    ):
        plugins.backend_for("made", "third")


def test_a_claim_made_twice_is_no_rival(install: Callable[..., None]) -> None:
    install("one", platforms=("made", "made"))

    assert plugins.backend_for("made").descriptor.platform == "made"


def test_what_an_uninstallation_left_behind_breaks_nothing_else(install: Callable[..., None], tmp_path: Path) -> None:
    install("one")
    install("left", platforms=("other",))
    (tmp_path / "site/left-1.2.dist-info/METADATA").unlink()

    assert plugins.backend_for("made").descriptor.platform == "made"
    assert "an unknown distribution" in map(str, plugins.installed())
    assert plugins.backend_for("other").descriptor.platform == "other"


def test_a_blocked_rival_is_no_rival(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    install("one")
    install("other")
    monkeypatch.setenv(plugins.BLOCKED_VARIABLE, "someone, ONE")

    assert type(plugins.backend_for("made")).__module__ == "plugin_other"


def test_rivals_that_are_all_blocked_are_no_conflict(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("one")
    install("other")
    monkeypatch.setenv(plugins.BLOCKED_VARIABLE, "one,other")

    with pytest.raises(PluginBlockedError, match="plugin one 1.2 is blocked by the environment variable"):
        plugins.backend_for("made")


def test_a_blocked_plugin_is_named(install: Callable[..., None]) -> None:
    install("one")
    plugins.block("One")
    try:
        with pytest.raises(PluginBlockedError, match="plugin one 1.2 is blocked by a call of"):
            plugins.backend_for("made")
    finally:
        plugins.unblock("one")
    plugins.backend_for("made")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def broken(:", "SyntaxError"),
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
    ],
)
def test_a_plugin_that_cannot_be_imported_breaks_its_own_platform_only(
    source: str, message: str, install: Callable[..., None]
) -> None:
    install("broken", source)
    install("sound", platforms=("other",))

    with pytest.raises(PluginError, match=f"plugin broken 1.2 is broken: importing plugin_broken raised {message}"):
        plugins.backend_for("made")
    plugins.backend_for("other")


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (None, "states no contract version, neuropod_contract is None, this core serves 1.1"),
        ("1.0", "states no contract version"),
        ((1,), "states no contract version"),
        ((1, True), "states no contract version"),
        ((1, 99), "written for contract 1.99, this core serves up to 1.1; run: pip install --upgrade neuropod-core"),
        ((2, 0), "written for contract 2.0"),
        ((0, 9), "written for contract 0.9"),
    ],
    ids=str,
)
def test_another_contract_is_refused(contract: object, message: str, make_plugin: Callable[..., ModuleType]) -> None:
    plugins.register(make_plugin(Some(), contract), "made", "odd")
    try:
        with pytest.raises(PluginContractError, match=message):
            plugins.backend_for("made")
    finally:
        plugins.unregister("made")


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (None, "gave None for 'made', not a Backend"),
        (Some, "not a Backend; give an instance of it"),
        (Some(platform="other"), "describes 'other' where 'made' was asked for; name the entry point as"),
        (Undescribed(), r"has None as descriptor; write descriptor = Descriptor\(...\) into Undescribed"),
        (SimpleNamespace(descriptor=3), "not a Backend"),
    ],
    ids=str,
)
def test_a_hook_that_gives_no_backend_is_refused(
    backend: object, message: str, make_plugin: Callable[..., ModuleType]
) -> None:
    plugins.register(make_plugin(backend), "made", "odd")
    try:
        with pytest.raises(PluginError, match=message):
            plugins.backend_for("made")
    finally:
        plugins.unregister("made")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@hookimpl\n", "", "its function neuropod_backend is not marked as a hook; put @hookimpl above it"),
        ("def neuropod_backend(", "def neuropod_backends(", "no hook neuropod_backend; write one into plugin_hookless"),
        ("return Made", "raise RuntimeError('no') #", r"raised RuntimeError: no \(plugin_hookless.py, line 13\)"),
    ],
)
def test_what_is_wrong_with_a_hook_is_told(old: str, new: str, message: str, install: Callable[..., None]) -> None:
    install("hookless", MODULE.replace(old, new))

    with pytest.raises(PluginError, match=message):
        plugins.backend_for("made")


def test_a_wrong_range_of_frameworks_is_the_plugins_fault() -> None:
    with pytest.raises(PluginError, match="plugin made is broken: its framework_versions 'about 8' is no range"):
        plugins.check_framework(Some(framework=("pytest",), framework_versions="about 8"))


def test_one_name_in_a_descriptor_is_one_name() -> None:
    assert Descriptor("made", Trust.DATA, devices="cuda", framework="pytest").devices == ("cuda",)  # type: ignore[arg-type]  # The slip.


@pytest.mark.parametrize("field", ["options", "packagers", "packs"])
def test_a_descriptor_refuses_what_is_no_dictionary(field: str) -> None:
    with pytest.raises(SpecError, match=f"expected {field} of a descriptor as a dictionary, got 3"):
        Some(**{field: 3})


def test_a_hook_of_the_wrong_signature_is_refused(install: Callable[..., None]) -> None:
    source = MODULE.replace("def neuropod_backend(platform):", "def neuropod_backend(platform, colour):")
    install("wrong", source)

    with pytest.raises(PluginError, match="plugin wrong 1.2 is broken: .*PluginValidationError.*colour"):
        plugins.backend_for("made")


@pytest.mark.parametrize(
    ("version_range", "fits"),
    [
        ("*", True),
        ("", True),
        (">=1.2 <3", True),
        ("2.x", False),
        ("^1.26", True),
        (">=1.0.0-rc1", True),
        ("1.0 || >1.2", True),
        (">= 1.2 < 3 || > 4", True),
    ],
)
def test_framework_versions_follow_npm_ranges(version_range: str, fits: bool) -> None:
    backend = Some(framework="made-framework")
    backend.framework_version = lambda: "1.26.4+cpu"  # type: ignore[method-assign]  # no such framework

    if fits:
        assert plugins.check_framework(backend, version_range) == "1.26.4+cpu"
    else:
        with pytest.raises(FrameworkVersionError, match="asks for made-framework 2.x, installed is 1.26.4"):
            plugins.check_framework(backend, version_range)


@pytest.mark.parametrize("version_range", ["one", ">=", "1.2 <=> 3", "1." * 200, "$(true)"])
def test_a_wrong_range_is_the_packages_fault(version_range: str) -> None:
    backend = Some(framework="numpy")

    with pytest.raises(PackageFormatError, match="is no npm-style version range"):
        plugins.check_framework(backend, version_range)


def test_a_missing_framework_names_its_installation() -> None:
    backend = Some(framework=("not-there", "nor-this"), install="pip install 'made[cpu]'")

    with pytest.raises(FrameworkNotFoundError, match="needs not-there or nor-this, .*run: pip install 'made\\[cpu\\]'"):
        plugins.check_framework(backend)


def test_a_backend_states_its_own_range() -> None:
    with pytest.raises(FrameworkVersionError, match="the backend for 'made' asks for numpy >=99"):
        plugins.check_framework(Some(framework="numpy", framework_versions=">=99"))


def test_packagers_are_listed_and_importable(install: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    install("one")
    install("broken", "def broken(:", platforms=("other",))

    assert packagers.available()["create_one"] == "plugin_one:create"
    assert getattr(packagers, "create_one")() == "made by one"  # noqa: B009 - a packager returns None, this one does not
    assert "create_one" in dir(packagers)
    with pytest.raises(AttributeError, match="offers the packager 'create_nothing' \\(offered: .*create_one"):
        packagers.create_nothing  # noqa: B018 - asking is the test
    assert "plugin broken 1.2 is broken: importing plugin_broken raised SyntaxError" in caplog.text


def test_observers_of_one_name_all_watch(install: Callable[..., None]) -> None:
    for name in ("first", "second"):
        install(name, "", platforms=("metrics",), group="observers")
    plugins.observers.cache_clear()

    assert {"plugin_first", "plugin_second"} <= {name for name, _ in plugins.observers().list_name_plugin()}


def test_a_broken_observer_is_logged_and_dropped(
    install: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    install("watcher", "raise RuntimeError('no')", platforms=("watch",), group="observers")
    plugins.observers.cache_clear()

    with caplog.at_level(logging.ERROR, "neuropod"):
        plugins.notify("neuropod_model_loaded", model=None)

    assert "observer 'watch' cannot be used" in caplog.text

"""Core and plugins of different releases were installed here; that they work together, their own suites say."""

from __future__ import annotations

import os
from importlib import metadata

import pytest

from neuropod_core.plugins import installed

PLUGINS = ["neuropod-echo", "neuropod-onnx", "neuropod-python"]


def version(distribution: str) -> tuple[int, ...]:
    return tuple(map(int, metadata.version(distribution).split(".")))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_releases_differ(plugin: str) -> None:
    core = version("neuropod-core")

    assert (version(plugin) > core) if os.environ["NEUROPOD_NEWER"] == "plugins" else (core > version(plugin))


def test_each_plugin_is_served() -> None:
    served = {plugin.distribution for plugin in installed() if plugin.backend() is not None}

    assert served >= set(PLUGINS)

"""The core needs no framework: not to be installed, not to be imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FRAMEWORKS = {"jax", "keras", "onnx", "onnxruntime", "scikit-learn", "tensorflow", "tensorflow-cpu", "torch"}
MODULES = {"jax", "keras", "onnx", "onnxruntime", "sklearn", "tensorflow", "torch"}


def requirements(distribution: str, seen: set[str]) -> Iterator[str]:
    """Name everything that an installation without extras pulls, on this Python."""
    for line in metadata.requires(distribution) or ():
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and name not in seen:
            seen.add(name)
            yield name
            yield from requirements(name, seen)


def test_core_requires_small_libraries_only() -> None:
    small = {"numpy", "packaging", "platformdirs", "pluggy", "semantic-version", "tomli"}

    assert set(requirements("neuropod-core", set())) <= small


def test_environment_of_the_core_holds_no_framework() -> None:
    installed = {canonicalize_name(found.metadata["Name"]) for found in metadata.distributions()}
    if any(name.startswith("neuropod-") and name != "neuropod-core" for name in installed):
        pytest.skip("plugins are installed here, and they may pull frameworks")

    assert not installed & FRAMEWORKS


def test_import_of_the_core_imports_no_framework() -> None:
    program = "import sys, neuropod_core; print(*(name for name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert not set(ran.stdout.split()) & MODULES

"""Runs TorchScript models through neuropod; importing it imports no torch."""

from importlib import metadata

__all__ = ["__version__"]

try:
    __version__ = metadata.version("neuropod-torch")
except metadata.PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0"

"""Compiles the operator of this folder for each framework; each content once, into the cache of pytest."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

SOURCES = Path(__file__).parent
COMPILER = shutil.which("g++")


def compiled(platform: str, build: str, folder: Path) -> Path:
    """Compile the operator for `platform`; another `build` is other content that registers the same operator."""
    source = SOURCES / f"scaled_add_{FILES[platform]}.cpp"
    flags = ["-shared", "-fPIC", "-w", "-O1", "-std=c++17", f'-DSCALED_ADD_BUILD="{build}"', *FLAGS[platform]()]
    key = sha256("\0".join([source.read_text("utf-8"), *flags]).encode()).hexdigest()[:16]
    library = folder / f"libscaled_add-{FILES[platform]}-{build}-{key}.so"
    if not library.exists():
        made = library.with_suffix(".made")
        subprocess.run([str(COMPILER), str(source), "-o", str(made), *flags], check=True)
        made.replace(library)
    return library


def _torch() -> list[str]:
    import torch
    from torch.utils import cpp_extension

    abi = int(torch.compiled_with_cxx11_abi())
    include = [f"-I{path}" for path in cpp_extension.include_paths()]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    return [f"-D_GLIBCXX_USE_CXX11_ABI={abi}", *include, *libraries, "-lc10", "-ltorch_cpu"]


def _tensorflow() -> list[str]:
    import tensorflow as tf

    return [*tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags()]


def _onnx() -> list[str]:
    return []


_PLATFORMS_OF_TORCH = ("torchscript", "torch_export", "torch_aoti")
FILES = {"onnx": "onnx", "tensorflow": "tensorflow", **dict.fromkeys(_PLATFORMS_OF_TORCH, "torch")}
FLAGS: dict[str, Callable[[], list[str]]] = {
    "onnx": _onnx,
    "tensorflow": _tensorflow,
    **dict.fromkeys(_PLATFORMS_OF_TORCH, _torch),
}

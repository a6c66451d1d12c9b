"""Results of a call on their way out: for JSON, for people, and into an ``.npz`` file."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import click
import numpy as np

from neuropod_core.backend import Array, Tensors
from neuropod_core.cli._output import Lines
from neuropod_core.cli._text import clean, clean_lines
from neuropod_core.dtypes import DType
from neuropod_core.errors import shown
from neuropod_core.tensors import dtype_of

__all__ = ["abbreviated", "notation", "save", "to_json"]

_MOST_SHOWN = 60
_AT_EACH_EDGE = 3
_DIGITS = 6
_FLOATS = {DType.BFLOAT16, DType.FLOAT16, DType.FLOAT32, DType.FLOAT64}


def to_json(array: Array) -> dict[str, object]:
    """Give a tensor as ``{"dtype", "shape", "values"}``; what is no number becomes "NaN", "Infinity" or "-Infinity"."""
    return {"dtype": _type_name(array), "shape": list(array.shape), "values": _values(array)}


def notation(array: Array) -> str:
    """Say what a tensor is as specs do: ``float32[2, 3]``."""
    return f"{_type_name(array)}{list(array.shape)}"


def abbreviated(array: Array) -> Lines:
    """Show a tensor to people: large ones by their edges."""
    if dtype_of(array) is DType.BFLOAT16:
        array = array.astype(np.float32)
    text = np.array2string(
        array,
        threshold=_MOST_SHOWN,
        edgeitems=_AT_EACH_EDGE,
        precision=_DIGITS,
        separator=", ",
        formatter={"object": shown},
    )
    return Lines(clean_lines(text))


def save(tensors: Mapping[str, Array], target: Path) -> None:
    """Write tensors into an ``.npz`` file, which appears whole or not at all; one that is there is replaced.

    What is there and is no file, such as a pipe or a device, is written to.

    Text becomes fixed-width Unicode; bfloat16 is kept as two bytes without a name, the only form that NumPy can write.

    Raises
    ------
    click.UsageError
        If it cannot be written.
    """
    arrays = {name: _storable(name, array) for name, array in tensors.items()}
    try:
        if target.exists() and not target.is_file():
            _write_through(arrays, target)
        else:
            _write_npz(arrays, target)
    except OSError as error:
        raise click.UsageError(f"{clean(shown(str(target)))} cannot be written: {error.strerror}") from error


def _write_archive(arrays: Tensors, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_through(arrays: Tensors, target: Path) -> None:
    whole = io.BytesIO()
    _write_archive(arrays, whole)
    with target.open("wb") as file:
        file.write(whole.getbuffer())


def _write_npz(arrays: Tensors, target: Path) -> None:
    with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            _write_archive(arrays, file)
            file.flush()
            Path(file.name).chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask())
            Path(file.name).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(file.name).unlink()
            raise


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _storable(name: str, array: Array) -> Array:
    if array.dtype.kind != "O":
        return array
    fixed = array.astype(np.str_)
    if not np.array_equal(fixed.astype(object), array):
        what = f"{clean(shown(name))} holds text that ends with a null character, which .npz cannot keep; use --json"
        raise click.UsageError(what)
    return fixed


def _type_name(array: Array) -> str:
    dtype = dtype_of(array)
    return array.dtype.name if dtype is None else dtype.value


def _values(array: Array) -> Any:
    if dtype_of(array) not in _FLOATS:
        return array.tolist()
    wide = array.astype(np.float64)
    finite = np.isfinite(wide)
    if finite.all():
        return wide.tolist()
    mixed = wide.astype(object)
    for kind, name in ((np.isnan(wide), "NaN"), (np.isposinf(wide), "Infinity"), (np.isneginf(wide), "-Infinity")):
        mixed[kind] = name
    return mixed.tolist()

"""What models of one kind share: the names, types and shapes of their inputs and outputs."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from neuropod_core._json import parse_object
from neuropod_core.dtypes import DType, DTypeLike
from neuropod_core.errors import SpecError, shown

__all__ = ["MOST_TENSORS", "Dim", "Problem", "TensorSpec"]

Dim = int | str | None
"""One dimension: its length, a symbol that has one value per call, or None for any length."""

SpecLike = Union["TensorSpec", Mapping[str, object], str]

_NOTATION = re.compile(r"\s*([A-Za-z0-9_]+)\s*\[([^\[\]]*)\]\s*\Z")
_LONGEST_NAME = 256
_MOST_DIMENSIONS = 32  # NumPy 1 knows no more.
_LARGEST_LENGTH = 2**63 - 1

MOST_TENSORS = 4096
"""Inputs, or outputs, of one problem."""


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of a problem.

    Parameters
    ----------
    name
        Unique among the inputs, or among the outputs, of its problem.
    dtype
        The element type; a name or a NumPy type is taken too.
    shape
        One item for each dimension: a positive int, None for any length, or a symbol. ``()`` is a scalar.
    optional
        Whether a call may leave it out.
    description, unit
        For people: what it holds, in which unit or range (``"pixels in [0, 1], RGB"``).

    Raises
    ------
    SpecError
        If one of them cannot be.

    Examples
    --------
    >>> print(TensorSpec("image", "float32", ("N", 3, None)))
    image: float32[N, 3, ?]
    >>> TensorSpec.parse("image: float32[N, 3, ?]").shape
    ('N', 3, None)
    """

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    optional: bool = False
    description: str = ""
    unit: str = ""

    if TYPE_CHECKING:  # What is taken is wider than what is kept.

        def __init__(  # noqa: PLR0917 - as many as there are fields
            self,
            name: str,
            dtype: DTypeLike,
            shape: Sequence[Dim],
            optional: bool = False,  # noqa: FBT001, FBT002 - a dataclass takes its fields by position too
            description: str = "",
            unit: str = "",
        ) -> None: ...

    def __post_init__(self) -> None:
        _check_name(self.name)
        object.__setattr__(self, "dtype", DType.parse(self.dtype))
        object.__setattr__(self, "shape", _checked_shape(self.shape, self.name))
        for text in ("description", "unit"):
            if not isinstance(getattr(self, text), str):
                raise SpecError(f"the {text} is a text, not {shown(getattr(self, text))}", at=self.name)
        if not isinstance(self.optional, bool):
            raise SpecError(f"optional is true or false, not {shown(self.optional)}", at=self.name)

    def __str__(self) -> str:
        return f"{self.name}: {self.notation}"

    @property
    def notation(self) -> str:
        """Type and shape as text: ``float32[N, 3, ?]``."""
        return f"{self.dtype}[{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of its shape, in order, each once."""
        return tuple(dict.fromkeys(dim for dim in self.shape if isinstance(dim, str)))

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> TensorSpec:
        """Read ``image: float32[N, 3, ?]``, or ``float32[N, 3, ?]`` where `name` is given."""
        if name is None:
            name, _, text = text.partition(":")
            name = name.strip()
        found = _NOTATION.match(text)
        if found is None:
            raise SpecError(f"{shown(text)} is no notation of a tensor", at=name, remedy="write it like float32[N, 3]")
        dims = [part.strip() for part in found[2].split(",")] if found[2].strip() else []
        return cls(name, DType.parse(found[1]), tuple(_dim_from_text(dim, name) for dim in dims))

    @classmethod
    def from_dict(cls, fields: Mapping[str, object], name: str | None = None) -> TensorSpec:
        """Read ``{"name", "dtype", "shape"}`` with the optional keys ``optional``, ``description`` and ``unit``."""
        where = name if name is not None else shown(fields.get("name"))
        unknown = sorted(map(str, set(fields) - {"name", "dtype", "shape", "optional", "description", "unit"}))
        if unknown:
            raise SpecError(f"unknown keys {shown(unknown)} in a tensor spec", at=where)
        missing = [key for key in ("dtype", "shape") if key not in fields]
        if missing or (name is None and "name" not in fields):
            raise SpecError(f"a tensor spec needs {missing or ['name']}", at=where)
        if name is not None and fields.get("name", name) != name:
            raise SpecError(f"is called {shown(fields['name'])} too", at=name)
        known: dict[str, Any] = {**fields, "name": fields["name"] if name is None else name}
        return cls(**known)

    def to_dict(self) -> dict[str, object]:
        """Give it as `from_dict` reads it, without what has its default."""
        fields: dict[str, object] = {"name": self.name, "dtype": self.dtype.value, "shape": list(self.shape)}
        if self.optional:
            fields["optional"] = True
        return fields | {key: value for key in ("description", "unit") if (value := getattr(self, key))}


@dataclass(frozen=True)
class Problem:
    """The interface that implementations of one kind share, enforced on the way in and out.

    Parameters
    ----------
    inputs, outputs
        The tensors, each name once.
    name, description
        For people.
    ties_outputs
        Whether a symbol has one value over inputs *and* outputs of a call. False for packages of the original tool,
        which tied symbols among the inputs only.

    Raises
    ------
    SpecError
        If a name comes twice, or there are more than 4096 inputs or outputs.

    Examples
    --------
    >>> digits = Problem.of({"image": "uint8[N, 8, 8]"}, {"scores": "float32[N, 10]"}, name="digits")
    >>> print(digits)
    digits(image: uint8[N, 8, 8]) -> (scores: float32[N, 10])
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    name: str = ""
    description: str = ""
    ties_outputs: bool = True

    def __post_init__(self) -> None:
        for side in ("inputs", "outputs"):
            specs = tuple(getattr(self, side))
            if len(specs) > MOST_TENSORS:
                raise SpecError(f"a problem has at most {MOST_TENSORS} {side}, not {len(specs)}")
            _check_specs(specs, side)
            object.__setattr__(self, side, specs)
        for text in ("name", "description"):
            if not isinstance(getattr(self, text), str):
                raise SpecError(f"the {text} of a problem is a text, not {shown(getattr(self, text))}")

    def __str__(self) -> str:
        inputs, outputs = (", ".join(map(str, side)) for side in (self.inputs, self.outputs))
        return f"{self.name}({inputs}) -> ({outputs})"

    @classmethod
    def of(
        cls,
        inputs: Mapping[str, SpecLike] | Iterable[SpecLike],
        outputs: Mapping[str, SpecLike] | Iterable[SpecLike],
        *,
        name: str = "",
        description: str = "",
    ) -> Problem:
        """Declare a problem in any of the short forms: notations, dictionaries, or `TensorSpec` objects."""
        return cls(_specs(inputs, "inputs"), _specs(outputs, "outputs"), name, description)

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> Problem:
        """Read ``{"inputs", "outputs"}`` with the optional keys ``name`` and ``description``.

        Raises
        ------
        SpecError
            If a key is missing, unknown or of the wrong type.
        """
        unknown = sorted(map(str, set(fields) - {"inputs", "outputs", "name", "description"}))
        if unknown:
            raise SpecError(
                f"unknown keys {shown(unknown)} in a problem", remedy="use inputs, outputs, name, description"
            )
        missing = [side for side in ("inputs", "outputs") if side not in fields]
        if missing:
            raise SpecError(f"a problem needs {' and '.join(missing)}")
        known: dict[str, Any] = dict(fields)
        return cls.of(known.pop("inputs"), known.pop("outputs"), **known)

    @classmethod
    def from_file(cls, path: str | Path) -> Problem:
        """Read a problem from a ``.toml`` or ``.json`` file, in the forms that `from_dict` takes.

        In TOML, which has no null, ``"?"`` stands for a dimension of any length.

        Raises
        ------
        SpecError
            If there is no such file, it cannot be parsed, or it is no problem.
        """
        path = Path(path)
        try:
            fields = _parse_toml(path) if path.suffix.lower() == ".toml" else parse_object(path.read_bytes(), "")
        except (OSError, ValueError, RecursionError) as error:
            raise SpecError(f"cannot be read as a problem: {error}", at=str(path)) from error
        return cls.from_dict(_with_any_length(fields))

    def to_dict(self) -> dict[str, object]:
        """Give it as `from_dict` reads it."""
        texts = {key: value for key in ("name", "description") if (value := getattr(self, key))}
        sides = {side: [spec.to_dict() for spec in getattr(self, side)] for side in ("inputs", "outputs")}
        return {**texts, **sides}


def _specs(given: Mapping[str, SpecLike] | Iterable[SpecLike], side: str) -> tuple[TensorSpec, ...]:
    if isinstance(given, Mapping):
        return tuple(_spec(spec, name) for name, spec in given.items())
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise SpecError(f"expected tensors by name or a list of them, got {shown(given)}", at=side)
    return tuple(_spec(spec, None) for spec in given)


def _spec(given: SpecLike, name: str | None) -> TensorSpec:
    if isinstance(given, TensorSpec):
        if name not in (None, given.name):
            raise SpecError(f"is called {shown(given.name)} too", at=str(name))
        return given
    if isinstance(given, str):
        return TensorSpec.parse(given, name)
    if isinstance(given, Mapping):
        return TensorSpec.from_dict(given, name)
    raise SpecError(f"a tensor spec is a notation or a table, not {shown(given)}", at=name or "")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise SpecError(f"a tensor's name is a text of at least one character, not {shown(name)}")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise SpecError(f"a tensor's name has at most {_LONGEST_NAME} printable characters, not {shown(name)}")


def _check_specs(specs: Sequence[TensorSpec], side: str) -> None:
    given: Sequence[object] = specs
    for spec in given:
        if not isinstance(spec, TensorSpec):
            raise SpecError(f"a problem is made of TensorSpec objects, not {shown(spec)}", side, "use Problem.of")
    twice = sorted(name for name, times in Counter(spec.name for spec in specs).items() if times > 1)
    if twice:
        raise SpecError(f"{', '.join(map(shown, twice))} named more than once", at=side)


def _checked_shape(shape: object, name: str) -> tuple[Dim, ...]:
    if not isinstance(shape, list | tuple):
        raise SpecError(f"a shape is a list or a tuple, not {shown(shape)}", at=name)
    if len(shape) > _MOST_DIMENSIONS:
        raise SpecError(f"a tensor has at most {_MOST_DIMENSIONS} dimensions, not {len(shape)}", at=name)
    dims = tuple(int(dim) if isinstance(dim, np.integer) else dim for dim in shape)
    for dim in dims:
        if not _is_dim(dim):
            raise SpecError(f"a dimension is a positive int, None or a symbol, not {shown(dim)}", at=name)
    return dims


def _is_dim(dim: object) -> bool:
    if isinstance(dim, str):
        return 0 < len(dim) <= _LONGEST_NAME and dim.isprintable()
    return dim is None or (type(dim) is int and 0 < dim <= _LARGEST_LENGTH)


def _dim_from_text(text: str, name: str) -> Dim:
    if text == "?":
        return None
    if text.isascii() and text.isdigit() and len(text) < 20:  # noqa: PLR2004 - 2**63 has 19 digits
        return int(text)
    if not text.isidentifier():
        raise SpecError(f"a dimension is a number, ? or a symbol, not {shown(text)}", at=name)
    return text


def _parse_toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(path.read_text("utf-8"))


def _with_any_length(fields: dict[str, Any]) -> dict[str, Any]:
    """Put None for ``"?"`` in the shapes of a parsed problem file."""

    def mended(spec: object) -> object:
        if isinstance(spec, dict) and isinstance(spec.get("shape"), list):
            return {**spec, "shape": [None if dim == "?" else dim for dim in spec["shape"]]}
        return spec

    def side(specs: object) -> object:
        if isinstance(specs, dict):
            return {name: mended(spec) for name, spec in specs.items()}
        return [mended(spec) for spec in specs] if isinstance(specs, list) else specs

    return {key: side(value) if key in ("inputs", "outputs") else value for key, value in fields.items()}

"""Between the bytes of ``config.json`` and `Config`; pure.

Source: the layout is that of uber/neuropod at fde79d9 (``name``, ``platform``, ``input_spec``, ...). The key
``problem`` is ours: with it, the rules of `Problem` hold; without it, those of the original tool, in which every tensor
is optional and symbols tie the inputs only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from neuropod_core._json import dump, parse_object
from neuropod_core.errors import PackageFormatError, PackageLimitError, SpecError, shown
from neuropod_core.problem import MOST_TENSORS, Problem, TensorSpec

__all__ = ["Config", "Manifest"]

_LONGEST_TEXT = 256
_DEVICES = ("CPU", "GPU")
_TARGET = re.compile(r"[a-z0-9_]{1,32}-[a-z0-9_]{1,32}(\+[a-z0-9_]{1,32}){0,15}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Config:
    """The declaration of a package: what it is called, which platform it is for, and the problem that it solves.

    Parameters
    ----------
    name, platform
        The model's name, and the artefact kind of variant ``0/``.
    problem
        What it solves.
    platform_version
        The npm-style range of framework versions that it runs on.
    custom_ops
        Base names of libraries in ``0/ops``.
    custom_op_targets
        Name of a library in `custom_ops` -> the system and machines that it was built for, ``linux-x86_64``; for those
        that the package tells of.
    input_devices
        ``"GPU"`` or ``"CPU"`` for each input; empty if the package does not say.
    raw
        The JSON that it was read from; keys that we do not know survive in it.
    """

    name: str
    platform: str
    problem: Problem
    platform_version: str = "*"
    custom_ops: tuple[str, ...] = ()
    input_devices: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    custom_op_targets: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    raw: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, compare=False, repr=False)

    @classmethod
    def from_bytes(cls, data: bytes, at: str = "config.json") -> Config:
        """Read ``config.json``.

        Raises
        ------
        PackageFormatError
            If it is no JSON, lacks a key, or holds a value of the wrong type.
        PackageLimitError
            If it has too many tensors, or is nested too deeply.
        """
        raw = parse_object(data, at)
        try:
            return cls(
                name=_text(raw, "name", at),
                platform=_text(raw, "platform", at),
                problem=_problem(raw, at),
                platform_version=_text(raw, "platform_version_semver", at, default="*"),
                custom_ops=_custom_ops(raw, at),
                input_devices=_input_devices(raw, at),
                custom_op_targets=_custom_op_targets(raw, at),
                raw=MappingProxyType(raw),
            )
        except SpecError as error:
            raise PackageFormatError(error.what, f"{at}: {error.at}" if error.at else at, error.remedy) from error

    def to_bytes(self) -> bytes:
        """Write ``config.json``; an old reader ignores the key ``problem``."""
        known: dict[str, Any] = {
            "name": self.name,
            "platform": self.platform,
            "platform_version_semver": self.platform_version,
            "input_spec": [_bare(spec) for spec in self.problem.inputs],
            "output_spec": [_bare(spec) for spec in self.problem.outputs],
            "custom_ops": list(self.custom_ops),
            "input_tensor_device": dict(self.input_devices) or {spec.name: "GPU" for spec in self.problem.inputs},
        }
        if self.custom_op_targets:
            known["custom_op_targets"] = dict(self.custom_op_targets)
        if self.problem.ties_outputs:
            known["problem"] = _extras(self.problem)
        return dump(_merged(self.raw, known))


@dataclass(frozen=True)
class Manifest:
    """The hashes of a package's files: relative path -> sha256 in hex, without ``manifest.json`` itself."""

    files: Mapping[str, str]

    @classmethod
    def from_bytes(cls, data: bytes, at: str = "manifest.json") -> Manifest:
        """Read ``manifest.json``.

        Raises
        ------
        PackageFormatError
            If it is of another version, or maps anything but paths to hashes.
        """
        raw = parse_object(data, at)
        version, files = raw.get("manifest_version"), raw.get("files")
        if type(version) is not int or version != 1:
            raise PackageFormatError(f"expected manifest_version 1, got {shown(version)}", at)
        if not isinstance(files, dict):
            raise PackageFormatError(f"expected files as an object, got {shown(files)}", at)
        for path, digest in files.items():
            if not isinstance(digest, str) or not _SHA256.match(digest):
                raise PackageFormatError(f"expected a sha256 in hex for {shown(path)}, got {shown(digest)}", at)
        return cls(MappingProxyType(files))

    def to_bytes(self) -> bytes:
        """Write ``manifest.json``."""
        return dump({"files": dict(self.files), "manifest_version": 1})


# -- reading ----------------------------------------------------------------------------------------------------------


def _text(raw: Mapping[str, Any], key: str, at: str, default: str | None = None) -> str:
    value = default if raw.get(key) is None else raw[key]
    if value is None:
        raise PackageFormatError(f"has no {key!r}", at)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TEXT or not value.isprintable():
        what = f"expected {key!r} as a text of at most {_LONGEST_TEXT} printable characters, got {shown(value)}"
        raise PackageFormatError(what, at)
    return value


def _problem(raw: Mapping[str, Any], at: str) -> Problem:
    sides = {side: _listed(raw, f"{side}_spec", at) for side in ("input", "output")}
    declared = raw.get("problem")
    if declared is None:
        inputs, outputs = (tuple(replace(_read_spec(spec), optional=True) for spec in sides[side]) for side in sides)
        return Problem(inputs, outputs, name=raw["name"], ties_outputs=False)
    if not isinstance(declared, dict):
        raise PackageFormatError(f"expected an object, got {shown(declared)}", f"{at}: problem")
    inputs, outputs = (
        tuple(_with_extras(_read_spec(spec), declared, f"{side}s", at) for spec in sides[side]) for side in sides
    )
    return Problem(inputs, outputs, declared.get("name", ""), declared.get("description", ""))


def _listed(raw: Mapping[str, Any], key: str, at: str) -> list[dict[str, Any]]:
    specs = raw.get(key)
    if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
        raise PackageFormatError(f"expected {key!r} as a list of objects, got {shown(specs)}", at)
    if len(specs) > MOST_TENSORS:  # Before time is spent on each.
        raise PackageLimitError("tensors", MOST_TENSORS, len(specs), f"{at}: {key}")
    return specs


def _read_spec(spec: dict[str, Any]) -> TensorSpec:
    return TensorSpec.from_dict({key: spec[key] for key in ("name", "dtype", "shape") if key in spec})


def _with_extras(spec: TensorSpec, declared: Mapping[str, Any], side: str, at: str) -> TensorSpec:
    where = f"{at}: problem.{side}"
    extras = declared.get(side, {})
    if not isinstance(extras, dict):
        raise PackageFormatError(f"expected an object, got {shown(extras)}", where)
    own = extras.get(spec.name, {})
    if not isinstance(own, dict):
        raise PackageFormatError(f"expected an object, got {shown(own)}", f"{where}.{spec.name}")
    return replace(spec, **{key: own[key] for key in ("optional", "description", "unit") if key in own})


def _custom_ops(raw: Mapping[str, Any], at: str) -> tuple[str, ...]:
    names = [] if raw.get("custom_ops") is None else raw["custom_ops"]
    if not isinstance(names, list):
        raise PackageFormatError(f"expected 'custom_ops' as a list, got {shown(names)}", at)
    for name in names:
        if not isinstance(name, str) or not name.isprintable() or name in ("", ".", "..") or set(name) & set("/\\:"):
            raise PackageFormatError(f"expected the base name of a library, got {shown(name)}", f"{at}: custom_ops")
    return tuple(names)


def _custom_op_targets(raw: Mapping[str, Any], at: str) -> Mapping[str, str]:
    targets = raw.get("custom_op_targets")
    if targets is None:
        return _NOTHING
    where = f"{at}: custom_op_targets"
    if not isinstance(targets, dict) or not set(targets) <= set(raw.get("custom_ops") or ()):
        raise PackageFormatError(f"expected a target for libraries of custom_ops, got {shown(targets)}", where)
    for target in targets.values():
        if not isinstance(target, str) or not _TARGET.match(target):
            raise PackageFormatError(f"expected a target such as 'linux-x86_64', got {shown(target)}", where)
    return MappingProxyType(targets)


def _input_devices(raw: Mapping[str, Any], at: str) -> Mapping[str, str]:
    devices = raw.get("input_tensor_device")
    if devices is None:
        return _NOTHING
    where = f"{at}: input_tensor_device"
    if not isinstance(devices, dict) or not all(device in _DEVICES for device in map(str, devices.values())):
        raise PackageFormatError(f"expected 'GPU' or 'CPU' for each input, got {shown(devices)}", where)
    names = {spec.get("name") for spec in raw["input_spec"]}
    if set(devices) != names:
        raise PackageFormatError(f"expected the inputs {shown(sorted(names))}, got {shown(sorted(devices))}", where)
    return MappingProxyType(devices)


# -- writing ----------------------------------------------------------------------------------------------------------


def _bare(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype.value, "shape": list(spec.shape)}


def _extras(problem: Problem) -> dict[str, Any]:
    def own(spec: TensorSpec) -> dict[str, Any]:
        return {key: value for key in ("optional", "description", "unit") if (value := getattr(spec, key))}

    texts = {key: value for key in ("name", "description") if (value := getattr(problem, key))}
    sides = {side: {spec.name: own(spec) for spec in getattr(problem, side)} for side in ("inputs", "outputs")}
    return {**texts, **sides}


def _merged(raw: Any, known: Any) -> Any:
    """Lay what we know over what was read, so that keys of other tools survive at every level."""
    if isinstance(raw, Mapping) and isinstance(known, dict):
        return {**raw, **{key: _merged(raw.get(key), value) for key, value in known.items()}}
    if isinstance(raw, list) and isinstance(known, list) and len(raw) == len(known):
        return [_merged(before, after) for before, after in zip(raw, known, strict=True)]
    return known

"""What a worker is told: which model to load, and how its process is set up; as plain data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from neuropod_core import plugins
from neuropod_core.backend import Backend, Descriptor, LoadOptions
from neuropod_core.dtypes import DType
from neuropod_core.errors import NeuropodError, OptionError, WorkerProtocolError, shown
from neuropod_core.trust import Trust
from neuropod_core.variants import Variant


@dataclass(frozen=True)
class Home:
    """Where a worker lives.

    Parameters
    ----------
    python
        The interpreter of another environment; None for this one.
    lent
        Folders that come after that environment's own path: what it lacks of neuropod.
    caged
        Whether it runs in a sandbox.
    readable
        What it may read there beside its own installation.
    roots
        Entries of this environment's path that a caged worker reads, although nobody installed anything there.
    installed
        The distributions of another environment with their versions: with others, it is another home.
    keep
        Whatever must live as long as the worker does.
    """

    python: str | None = None
    lent: tuple[str, ...] = ()
    caged: bool = False
    readable: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    installed: tuple[tuple[str, str], ...] = ()
    keep: object = field(default=None, compare=False)


@dataclass(frozen=True)
class Recipe:
    """Everything that it takes to start a worker of one model, again and again."""

    name: str
    platform: str
    tensors: int
    order: Mapping[str, Any]
    home: Home = field(default_factory=Home)
    variables: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[], None] = lambda: None
    """Raises if what the first worker loaded is there no more."""


def order_for(
    backend: Backend, variant: Variant, options: LoadOptions, *, inherits_threads: bool = True
) -> dict[str, Any]:
    """Write down which model to load, and with which thread settings of this process.

    Raises
    ------
    OptionError
        If an option is no plain data, or the plugin exists in this process only.
    """
    claim = plugins.claim_of(backend)
    if claim is None:
        what = f"the plugin for {variant.platform!r} is registered in this process only, a worker cannot import it"
        raise OptionError(what, at="placement", remedy="install it, or leave placement out")
    return {
        "distribution": claim.distribution,
        "version": claim.version,
        "target": claim.target,
        "threads": _checked("threads", dict(backend.thread_settings())) if inherits_threads else {},
        **model_facts(variant, options),
    }


def model_facts(variant: Variant, options: LoadOptions) -> dict[str, Any]:
    """Write down what to load, whoever loads it."""
    return {
        "platform": variant.platform,
        "device": options.device,
        "values": {name: _checked(name, value) for name, value in options.values.items()},
        "variant": variant_facts(variant),
    }


def descriptor_facts(descriptor: Descriptor) -> dict[str, Any]:
    """Write down a descriptor as plain data."""
    return {
        "platform": descriptor.platform,
        "trust": str(descriptor.trust),
        "framework": list(descriptor.framework),
        "framework_versions": descriptor.framework_versions,
        "install": descriptor.install,
        "dtypes": sorted(map(str, descriptor.dtypes)),
        "devices": list(descriptor.devices),
        "options": dict(descriptor.options),
        "stateful": descriptor.stateful,
    }


def descriptor_from(facts: Mapping[str, Any]) -> Descriptor:
    """Read a descriptor that another process wrote.

    Raises
    ------
    WorkerProtocolError
        If it is none.
    """
    try:
        return Descriptor(
            platform=str(facts["platform"]),
            trust=Trust.parse(facts["trust"]),
            framework=tuple(map(str, facts["framework"])),
            framework_versions=str(facts["framework_versions"]),
            install=str(facts["install"]),
            dtypes=frozenset(map(DType.parse, facts["dtypes"])),
            devices=tuple(map(str, facts["devices"])),
            options={str(name): str(text) for name, text in facts["options"].items()},
            stateful=facts["stateful"] is True,
        )
    except (KeyError, TypeError, AttributeError, NeuropodError) as error:
        raise WorkerProtocolError(f"a descriptor cannot be {shown(facts)}: {error}") from error


def variant_facts(variant: Variant) -> dict[str, Any]:
    """Write down a variant as plain data."""
    return {
        "folder": str(variant.folder),
        "problem": variant.problem.to_dict(),
        "name": variant.name,
        "config": dict(variant.config),
        "custom_ops": list(map(str, variant.custom_ops)),
        "input_devices": dict(variant.input_devices),
    }


def _checked(name: str, value: object) -> object:
    """Admit what comes out of JSON as it went in: a tuple would come out as a list, and a backend may mind."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError) as error:
        what = f"option {name!r} is {shown(value)}, and only plain data goes to a worker"
        raise OptionError(what, remedy="use numbers, texts, lists and dictionaries of them") from error
    return json.loads(text)

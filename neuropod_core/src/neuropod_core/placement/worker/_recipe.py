"""What a worker is told: which model to load, and how its process is set up; as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuropod_core import plugins
from neuropod_core.backend import Backend, LoadOptions
from neuropod_core.errors import OptionError, shown
from neuropod_core.variants import Variant


@dataclass(frozen=True)
class Recipe:
    """Everything that it takes to start a worker of one model, again and again."""

    name: str
    platform: str
    tensors: int
    order: Mapping[str, Any]
    python: str | None = None
    lent: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def order_for(backend: Backend, variant: Variant, options: LoadOptions) -> dict[str, Any]:
    """Write down which model to load.

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
        "platform": variant.platform,
        "distribution": claim.distribution,
        "version": claim.version,
        "target": claim.target,
        "device": options.device,
        "values": {name: _checked(name, value) for name, value in options.values.items()},
        "variant": variant_facts(variant),
    }


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

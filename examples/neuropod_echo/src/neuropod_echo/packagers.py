"""Writes packages of the platform ``echo``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from neuropod_core import PackagingError
from neuropod_core.packaging import PackageArguments, new_package

if TYPE_CHECKING:
    from typing_extensions import Unpack


def create_echo_neuropod(
    *, neuropod_path: str | Path, model_name: str, outputs: Mapping[str, object], **arguments: Unpack[PackageArguments]
) -> None:
    """Package a model whose `outputs` are expressions in the language of `neuropod_echo.language`."""
    with new_package("echo", neuropod_path=neuropod_path, model_name=model_name, **arguments) as new:
        try:
            content = json.dumps(dict(outputs))
        except (TypeError, ValueError) as error:
            raise PackagingError(f"expressions are made of lists, texts and numbers: {error}") from error
        (new.folder / "data").mkdir()
        (new.folder / "data" / "model.json").write_text(content, "utf-8")

"""What hostile input once did to us: each case has its own test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neuropod_core._json import parse_object
from neuropod_core.errors import PackageError, PackageFormatError, SpecError
from neuropod_core.package import Package
from neuropod_core.problem import Problem


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")], ids=["pipe", "device"])
def test_package_refuses_what_is_neither_file_nor_folder(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "package")

    with pytest.raises(PackageFormatError, match="neither a file nor a folder"):
        Package.open(tmp_path / "package")

"""Checks of what a backend must refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from neuropod_core.backend import Backend
from neuropod_core.errors import DeviceError, NeuropodError, OptionError, TrustError
from neuropod_core.packaging import repack
from neuropod_core.testing._suite import Subject, Suite
from neuropod_core.trust import Trust

_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "other content": lambda _: b"\x93not a model\n" * 10,
    "emptied": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
}


class RefusalTests(Suite):
    """Damaged artefacts, absent devices, unknown options and missing trust end in errors of ours."""

    @pytest.mark.parametrize("damage", _DAMAGE)
    def test_damaged_artefacts_are_refused(self, damage: str, subject: Subject, tmp_path: Path) -> None:
        folder = tmp_path / "damaged.neuropod"
        repack(subject.path, folder, package_as_zip=False)
        (folder / "manifest.json").unlink()
        artefact = max(_files(folder / "0"), key=lambda path: path.stat().st_size)
        artefact.write_bytes(_DAMAGE[damage](artefact.read_bytes()))

        with pytest.raises(NeuropodError) as raised, self.load(folder) as model:
            model.infer(subject.inputs)
        assert "\n" not in str(raised.value)

    def test_a_missing_artefact_is_refused(self, subject: Subject, tmp_path: Path) -> None:
        folder = tmp_path / "missing.neuropod"
        repack(subject.path, folder, package_as_zip=False)
        (folder / "manifest.json").unlink()
        for path in _files(folder / "0"):
            path.unlink()

        with pytest.raises(NeuropodError):
            self.load(folder)

    def test_less_trust_is_refused(self, backend: Backend, subject: Subject) -> None:
        less = [trust for trust in Trust if not trust.admits(backend.descriptor.trust)]

        for trust in less:
            with pytest.raises(TrustError, match=f"needs trust '{backend.descriptor.trust}'"):
                self.load(subject.path, trust=trust)
        self.load(subject.path, trust=backend.descriptor.trust).close()

    def test_an_absent_device_is_refused(self, subject: Subject) -> None:
        with pytest.raises(DeviceError):
            self.load(subject.path, device="cuda:99")

    def test_an_unknown_option_is_refused(self, subject: Subject) -> None:
        with pytest.raises(OptionError, match="no option 'no_such_option'"):
            self.load(subject.path, options={"no_such_option": 1})


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]

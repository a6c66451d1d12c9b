"""Damaged artefacts, each opened and called in a child process: what a backend does with files that are not whole.

::

    def test_damaged_artefacts_end_in_our_errors(tmp_path):
        create_echo_neuropod(neuropod_path=tmp_path / "m.neuropod", ..., test_input_data={"x": x})
        report = try_damaged(tmp_path / "m.neuropod", range(60), work=tmp_path)
        assert report.wrong == ()

A case ends well in an error of ours, or in results that solve the problem. It ends badly in any other exception, in
silence (a case that hangs is ended), or in the death of the process, which costs that case only: a new child goes on.
"""

from __future__ import annotations

import io
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from neuropod_core.packaging import repack

__all__ = ["Report", "damaged", "try_damaged"]

_CHILD = "neuropod_core.testing._damaged_child"
_STARTS_WITHIN_S = 120.0  # A framework is imported, and a model called.
_ODD_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_LONGEST_BLOCK = 64


@dataclass
class Report:
    """How the cases ended.

    Attributes
    ----------
    ended
        Number of cases by outcome: the name of an error of ours, ``results``, ``died: SIGSEGV``, ``hung``, or the name
        of a foreign exception.
    wrong
        What should not be: cases that hung, and foreign exceptions with the end of their traceback.
    died
        Cases that took their process along, with what it said last.
    """

    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)

    @property
    def ran(self) -> int:
        """How many cases there were."""
        return sum(self.ended.values())


def try_damaged(
    package: str | os.PathLike[str],
    numbers: Iterable[int],
    *,
    work: str | os.PathLike[str],
    artefact: str | None = None,
    limit_s: float = 30.0,
    memory_bytes: int = 4 << 30,
) -> Report:
    """Damage an artefact in many ways, and open and call each in a child process.

    Parameters
    ----------
    package
        A sound package with test data, whose inputs are passed in each case.
    numbers
        One case each; the same number always makes the same damage.
    work
        A folder for files of the children, which are removed.
    artefact
        The file to damage, ``0/data/model.pt``; None for the largest file of the variant.
    limit_s
        How long one case may take before it counts as hung, and is ended.
    memory_bytes
        How much more memory than the sound model a child may map.
    """
    folder = Path(work) / f"damage-{os.getpid()}-{random.getrandbits(32):x}"
    repack(package, folder, package_as_zip=False)
    (folder / "manifest.json").unlink()
    chosen = artefact or _largest(folder)
    sound = (folder / chosen).read_bytes()
    report, waiting = Report(), list(numbers)[::-1]
    while waiting:
        (folder / chosen).unlink()
        (folder / chosen).write_bytes(sound)
        with _Child(folder, chosen, memory_bytes) as child:
            if child.answers(_STARTS_WITHIN_S) is None:
                raise RuntimeError(f"the sound package does not run in a child: {child.last_words()}")
            _feed(child, waiting, report, limit_s)
    _remove(folder)
    return report


def _feed(child: _Child, waiting: list[int], report: Report, limit_s: float) -> None:
    """Let one child try cases until none is left, or it is of no use any more."""
    while waiting:
        number = waiting.pop()
        answer = child.tries(number, limit_s)
        if answer is None:
            outcome = child.end()
            report.ended[outcome] += 1
            words = f"case {number} {outcome}: {child.last_words()}"
            (report.wrong if outcome == "hung" else report.died).append(words)
            return
        report.ended[answer["outcome"]] += 1
        if answer["wrong"]:
            report.wrong.append(f"case {number}: {answer['wrong']}")


def _largest(folder: Path) -> str:
    files = [path for path in (folder / "0").rglob("*") if path.is_file() and path.name != "config.json"]
    return max(files, key=lambda path: path.stat().st_size).relative_to(folder).as_posix()


def _remove(folder: Path) -> None:
    from neuropod_core._cache import remove_tree

    remove_tree(folder)


# -- damage -----------------------------------------------------------------------------------------------------------


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Damage the content of a file; most often within a member where it is a zip archive, whose checksums then hold."""
    if zipfile.is_zipfile(io.BytesIO(content)) and chance.random() < 0.7:  # noqa: PLR2004 - most often
        return _damaged_member(content, chance)
    return _damaged_bytes(content, chance)


def _damaged_member(content: bytes, chance: random.Random) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as copy:
        members = source.namelist()
        if not members:
            return _damaged_bytes(content, chance)
        victim, is_lost = chance.choice(members), chance.random() < 0.05  # noqa: PLR2004 - now and then
        for name in members:
            inner = source.read(name)
            if name != victim:
                copy.writestr(name, inner)
            elif not is_lost:
                copy.writestr(name, _damaged_bytes(inner, chance))
    return target.getvalue()


def _damaged_bytes(content: bytes, chance: random.Random) -> bytes:
    damage = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(damage) + 1)
        length = min(chance.randrange(1, _LONGEST_BLOCK), len(damage) - at)
        kind = chance.randrange(7)
        if kind == 0 and at < len(damage):
            damage[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(damage):
            damage[at] = chance.choice(_ODD_NUMBERS) & 0xFF
        elif kind == 2:  # noqa: PLR2004 - one of seven
            number = chance.choice(_ODD_NUMBERS).to_bytes(4, "little")
            damage[at : at + 4] = number[: max(0, len(damage) - at)]
        elif kind == 3:  # noqa: PLR2004 - as above
            del damage[at : at + length]
        elif kind == 4:  # noqa: PLR2004 - as above
            damage[at:at] = damage[at : at + length]
        elif kind == 5:  # noqa: PLR2004 - as above
            damage[at : at + length] = chance.randbytes(length)
        elif chance.random() < 0.3:  # noqa: PLR2004 - cuts leave little to look at
            del damage[at:]
    return bytes(damage)


# -- children ---------------------------------------------------------------------------------------------------------


class _Child:
    """A process that tries one case after the other, and answers on a pipe of its own: frameworks write elsewhere."""

    def __init__(self, folder: Path, artefact: str, memory_bytes: int) -> None:
        self._words = folder.parent / f"{folder.name}.stderr"
        self._reading, writing = os.pipe()
        command = [sys.executable, "-m", _CHILD, str(folder), artefact]
        with self._words.open("wb") as words:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [*command, str(memory_bytes), str(writing)],
                stdin=subprocess.PIPE,
                stdout=words,
                stderr=words,
                pass_fds=[writing],
            )
        os.close(writing)
        self._read = b""

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        os.close(self._reading)
        self._words.unlink()

    def tries(self, number: int, limit_s: float) -> dict[str, str] | None:
        """Let it try a case; None if it gave no answer in time, or died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{number}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        return self.answers(limit_s)

    def answers(self, limit_s: float) -> dict[str, str] | None:
        """Wait for its next line."""
        end = time.monotonic() + limit_s
        while b"\n" not in self._read:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self._reading, 1 << 16) if ready else b""
            if not piece:
                return None
            self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, str] = json.loads(line)
        return answer

    def end(self) -> str:
        """End it, and say how it ended before."""
        ready, _, _ = select.select([self._reading], [], [], 0)
        if not ready:  # Its end of the pipe is open: it lives.
            self._process.kill()
        self._process.communicate()
        code = self._process.returncode
        if not ready:
            return "hung"
        return f"died: {signal.Signals(-code).name}" if code < 0 else f"died: exit {code}"

    def last_words(self) -> str:
        """Give the end of what it wrote to stderr."""
        return " ".join(self._words.read_bytes()[-400:].decode(errors="replace").split())

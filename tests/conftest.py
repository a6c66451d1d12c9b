"""Runs the code of the site as it is written there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"(?ms)^(?P<indent> *)```(?P<language>\w+)?(?P<rest>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$")


class Block(NamedTuple):
    """One fenced block of a page: its language, its title (a file, or ``output``), and where it begins."""

    language: str
    title: str
    code: str
    line: int


def blocks_of(page: str) -> Iterator[Block]:
    text = (DOCS / page).read_text("utf-8")
    for fence in FENCE.finditer(text):
        title = re.search(r'title="([^"]*)"', fence["rest"])
        yield Block(
            fence["language"] or "", title[1] if title else "", fence["code"], text[: fence.start()].count("\n")
        )


class Page:
    """Runs the blocks of one page in order, in one namespace and one folder.

    A block with a file as its title is written there. A block of Python is executed; of a console, the commands are.
    A block with the title ``output`` must be what the one before printed.
    """

    def __init__(self, page: str, folder: Path, read_output: Callable[[], str]) -> None:
        self.page, self.folder, self._read_output = page, folder, read_output
        self.namespace: dict[str, Any] = {"__name__": "page"}
        self.executed = 0
        self._printed = ""

    def run(self) -> None:
        for block in blocks_of(self.page):
            if block.title == "output":
                assert self._printed.rstrip() == block.code.rstrip(), f"{self.page}, line {block.line + 1}"
            elif block.title:
                self._write(block)
            elif block.language == "python":
                self._execute(block)
            elif block.language == "console":
                self._type(block)

    def _write(self, block: Block) -> None:
        path = self.folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(block.code)

    def _execute(self, block: Block) -> None:
        # In a file and at its line, so that `inspect` finds the source and a traceback names the place in the page.
        script = self.folder / f"{Path(self.page).stem}-{block.line}.py"
        source = "\n" * (block.line + 1) + block.code
        script.write_text(source, "utf-8")
        self._read_output()
        exec(compile(source, str(script), "exec"), self.namespace)  # noqa: S102 - the code of our own pages
        self._printed = self._read_output()
        self.executed += 1

    def _type(self, block: Block) -> None:
        commands = [line.removeprefix("$ ") for line in block.code.splitlines() if line.startswith("$ ")]
        expected = [line for line in block.code.splitlines() if not line.startswith("$ ")]
        script = "\n".join(commands)
        ran = subprocess.run(["sh", "-c", script], check=False, cwd=self.folder, capture_output=True, text=True)
        shown = [line.rstrip() for line in (ran.stdout + ran.stderr).splitlines()]
        assert shown == expected, f"{self.page}, line {block.line + 1}"
        self.executed += len(commands)


@pytest.fixture
def run_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Page]:
    """Give the function that runs a page of the site in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NEUROPOD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # Nor are processes left that compile.
    for variable in ("NEUROPOD_TRUST", "NEUROPOD_BLOCKED_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)

    def run(page: str) -> Page:
        ran = Page(page, tmp_path, lambda: capsys.readouterr().out)
        ran.run()
        return ran

    return run

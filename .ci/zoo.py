"""Write the table of the model zoo between its markers: ``python .ci/zoo.py PAGE FOLDER``.

FOLDER holds what the tests recorded (``NEUROPOD_ZOO_REPORT``): one JSON file for each model on each platform.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PLACE = re.compile(r"(?s)(?<=<!-- zoo: written by nox -s zoo -->\n).*?(?=<!-- end of zoo -->)")
FRAMEWORKS = ("PyTorch", "Keras", "TensorFlow", "scikit-learn", "NumPy", "ONNX")
PLATFORMS = ("torchscript", "torch_export", "torch_aoti", "onnx", "tensorflow", "tensorrt", "python")

Row = dict[str, Any]


def main(page: Path, folder: Path) -> None:
    """Rewrite the section."""
    rows = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    if not rows:
        sys.exit(f"no rows in {folder}; run: nox -s zoo")
    text = page.read_text("utf-8")
    page.write_text(PLACE.sub(lambda _: "\n" + "\n".join(section(rows)) + "\n\n", text), "utf-8")


def section(rows: list[Row]) -> Iterator[str]:
    """Give the lines of the table and of the reasons below it."""
    platforms = sorted({row["platform"] for row in rows}, key=lambda name: order(PLATFORMS, name))
    reasons = list(dict.fromkeys(row["reason"] for row in sorted(rows, key=place) if row["reason"]))
    yield "| framework | model | shows | " + " | ".join(f"`{platform}`" for platform in platforms) + " |"
    yield "|" + "---|" * (3 + len(platforms))
    for cells in models(rows):
        (first, *_), by_platform = cells, {cell["platform"]: cell for cell in cells}
        said = [words(by_platform.get(platform), reasons) for platform in platforms]
        yield f"| {first['framework']} | `{first['model']}` | {first['shows']} | " + " | ".join(said) + " |"
    yield ""
    yield from (f"{number}. {reason}" for number, reason in enumerate(reasons, 1))


def models(rows: Iterable[Row]) -> list[list[Row]]:
    """Group cells by model, in the order of the table."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=place):
        grouped.setdefault((row["framework"], row["model"]), []).append(row)
    return list(grouped.values())


def place(row: Row) -> tuple[Any, ...]:
    """Say where a cell belongs."""
    return order(FRAMEWORKS, row["framework"]), row["model"], order(PLATFORMS, row["platform"])


def order(known: tuple[str, ...], name: str) -> tuple[int, str]:
    """Put what is known first, and the rest by name."""
    return (known.index(name) if name in known else len(known)), name


def words(cell: Row | None, reasons: list[str]) -> str:
    """Say how close a cell is, or which reason it has."""
    if cell is None:
        return ""
    if cell["verdict"] == "cannot":
        return f"no ({reasons.index(cell['reason']) + 1})"
    largest = cell["difference"]
    return "exact" if largest == 0 else f"1e{math.ceil(math.log10(largest))}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Train, package, run, compare: ``python examples/digits [--keep DIR] [--json]``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compare import Entry
    from scans import Scans

__all__ = ["main"]

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}  # Read while TensorFlow and Keras are imported.


def main() -> int:
    """Give 0 if every package agrees with its framework run by hand."""
    arguments = _parsed()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _say("importing PyTorch, TensorFlow, Keras, ONNX Runtime and scikit-learn")
    with _no_stderr():
        import train  # noqa: F401 - TensorFlow tells how it was compiled, whatever the log level is.
    from compare import run
    from scans import split
    from table import show, show_json

    seen, held_out = split()
    with _folder(arguments.keep) as folder:
        entries = _entries(folder, seen, held_out)
        _say("running every package over the held-out digits")
        results = [run(entry, held_out) for entry in entries]
    (show_json if arguments.json else show)(results)
    return 0 if all(result.agrees for result in results) else 1


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python examples/digits", description=__doc__.partition(":")[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the packages there and leave them")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    return parser.parse_args()


def _entries(folder: Path, seen: Scans, held_out: Scans) -> list[Entry]:
    """Train and package four classifiers."""
    import by_hand
    import package
    import train
    from compare import Entry

    sample = {"image": held_out.images[:8]}
    _say("training with PyTorch, Keras and scikit-learn")
    net, dense, regression = train.train_torch(seen), train.train_keras(seen), train.train_regression(seen)
    graph = package.as_onnx(train.train_sklearn_mlp(seen))
    _say("packaging for TorchScript, TensorFlow, ONNX and Python")
    package.package_torchscript(net, folder / "torch.neuropod", sample)
    package.package_keras(dense, folder / "keras.neuropod", sample)
    package.package_onnx(graph, folder / "onnx.neuropod", sample)
    package.package_python(regression, folder / "python.neuropod", sample)
    return [
        Entry(folder / "torch.neuropod", "PyTorch", by_hand.torch_scores(net)),
        Entry(folder / "keras.neuropod", "Keras", by_hand.keras_scores(dense)),
        Entry(folder / "onnx.neuropod", "scikit-learn", by_hand.onnx_scores(graph)),
        Entry(folder / "python.neuropod", "scikit-learn", by_hand.regression_scores(regression)),
    ]


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Give the folder for the packages; the cache lies in a folder that goes away in any case."""
    with tempfile.TemporaryDirectory(prefix="neuropod-digits-") as passing:
        os.environ["NEUROPOD_CACHE_DIR"] = str(Path(passing) / "cache")
        folder = kept or Path(passing) / "packages"
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what libraries write to the standard error; exceptions are shown all the same."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Reads one batch of hostile input in a process of its own, whose memory is limited; prints what came of it as JSON.

python -m hostile BATCH COUNT FOLDER
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from neuropod_core.config import Config, Manifest
from neuropod_core.errors import NeuropodError
from neuropod_core.limits import Limits
from neuropod_core.package import Package
from neuropod_core.test_data import decode, decode_pickle, encode

from . import archives, folders, tensors, texts

MIB = 1 << 20
LIMITS = Limits(
    files=2000,
    json_bytes=4 * MIB,
    manifest_bytes=4 * MIB,
    test_data_bytes=4 * MIB,
    total_bytes=64 * MIB,
    expansion_free_bytes=4 * MIB,
)
MEMORY_BYTES = 256 * MIB
HANGS_AFTER_S = 20

Case = Callable[[], object]


class Hung(BaseException):
    """A case took so long that it was ended; no `except Exception` catches it."""


def examine(path: Path, root: Path) -> str:
    """Do everything that opening a package may do; what was read must be what its manifest says."""
    with Package.open(path, limits=LIMITS, cache_dir=root / "cache") as package:
        content = package.folder()
        package.verify()
        package.variant()
        package.test_data()
        package.config.to_bytes()
        for name, digest in package.manifest.files.items() if package.manifest else ():
            if sha256((content / name).read_bytes()).hexdigest() != digest:
                raise AssertionError(name)
    return "read"


def packages(contents: Iterable[bytes], root: Path) -> Iterator[Case]:
    """One case for each archive."""
    for number, content in enumerate(contents):
        path = root / "in" / f"{number}.neuropod"

        def case(path: Path = path, content: bytes = content) -> str:
            path.write_bytes(content)
            try:
                return examine(path, root)
            finally:
                path.unlink()

        yield case


def _examine_built(build: folders.Builder, root: Path, number: int) -> str:
    return examine(build(root / "in" / str(number), root / "canary"), root)


def trees(root: Path) -> Iterator[Case]:
    """One case for each folder."""
    for number, build in enumerate(folders.BUILDERS):
        yield partial(_examine_built, build, root, number)


def read_config(data: bytes) -> object:
    """Read a config; what it gives is written and read again. Devices that it does not name are written down."""
    config = Config.from_bytes(data)
    again = Config.from_bytes(config.to_bytes())
    if replace(again, input_devices=config.input_devices) != config:
        raise AssertionError(again)
    return "read"


def read_manifest(data: bytes) -> object:
    """Read a manifest; what it gives is written and read again."""
    manifest = Manifest.from_bytes(data)
    if Manifest.from_bytes(manifest.to_bytes()) != manifest:
        raise AssertionError(manifest)
    return "read"


def read_tensors(data: bytes) -> object:
    """Read test data; what it gives is written and read again."""
    found = decode(data, "test_data.safetensors")
    again = decode(encode(found), "again")
    if encode(again) != encode(found):
        raise AssertionError(again)
    return "read"


def read_pickle(data: bytes) -> object:
    """Read the original's test data; what it gives can be written."""
    found = decode_pickle(data, "test_data.pkl")
    encode(found)
    return "read"


def _cases(read: Callable[[bytes], object], contents: Iterable[bytes]) -> Iterator[Case]:
    for content in contents:
        yield partial(read, content)


def _endless(make: Callable[[random.Random], bytes], seed: str) -> Iterator[bytes]:
    chance = random.Random(seed)  # noqa: S311 - the same damage in each run
    while True:
        yield make(chance)


def batch(name: str, root: Path) -> Iterator[Case]:
    """The cases of a batch; those of damaged samples have no end."""
    kind, _, form = name.partition(".")
    if kind == "archives":
        return packages(_endless(archives.mutated, name) if form == "mutated" else getattr(archives, form)(), root)
    if kind == "folders":
        return trees(root)
    if kind in ("configs", "manifests"):
        document, read = (texts.CONFIG, read_config) if kind == "configs" else (texts.MANIFEST, read_manifest)
        if form == "mutated":
            return _cases(read, _endless(lambda chance: texts.mutated(document, chance), name))
        return _cases(read, getattr(texts, form)(document))
    if form == "rewritten":
        return _cases(read_tensors, _endless(tensors.rewritten, name))
    samples, read = (tensors.PICKLES, read_pickle) if form == "pickles" else (tensors.SAFETENSORS, read_tensors)
    return _cases(read, _endless(lambda chance: tensors.mutated(samples, chance), name))


def run(case: Case) -> tuple[str, float, str]:
    """Run a case; give its outcome, the CPU seconds it took, and the traceback of what should not be."""
    begin = time.process_time()
    signal.alarm(HANGS_AFTER_S)
    wrong = ""
    try:
        outcome = str(case())
    except NeuropodError as error:
        outcome = type(error).__name__
        wrong = "" if "\n" not in str(error) and len(str(error)) < 2500 else f"message: {error!s:.300}"
    except BaseException as error:  # noqa: BLE001 - whatever escapes is what we look for
        outcome, wrong = type(error).__name__, traceback.format_exc()[-3000:]
    finally:
        signal.alarm(0)
    return outcome, time.process_time() - begin, wrong


def _hang(*_: object) -> None:
    raise Hung


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def main(name: str, count: str, folder: str) -> None:
    """Run at most `count` cases of a batch below `folder`."""
    root = Path(folder)
    for part in ("in", "cache"):
        (root / part).mkdir(parents=True, exist_ok=True)
    os.chdir(root)
    signal.signal(signal.SIGALRM, _hang)
    _limit_memory()
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    slowest = 0.0
    for number, case in enumerate(itertools.islice(batch(name, root), int(count))):
        outcome, seconds, wrong = run(case)
        outcomes[outcome] += 1
        slowest = max(slowest, seconds)
        if wrong or seconds > 2:
            failures.append(f"{name}[{number}]: {outcome} after {seconds:.2f} s: {wrong}")
    report = {"ran": sum(outcomes.values()), "slowest": slowest, "outcomes": outcomes, "failures": failures[:5]}
    print(json.dumps(report))  # noqa: T201 - the report


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Backends that change or keep what the whole process shares."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np

from neuropod_core import (
    Executor,
    InferenceError,
    LoadOptions,
    Names,
    Tensors,
    Variant,
)

from .sound import Run, Sound


class ChangesTheErrorState(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            np.seterr(all="ignore")
            return super().results(inputs)


class SeedsTheGenerators(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            np.random.seed(0)  # noqa: NPY002 - the one that is shared
            return super().results(inputs)


class DrawsFromTheGenerators(Sound):
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        random.random()  # noqa: S311 - the one that is shared
        return super().load(variant, options)


class ChangesTheEnvironmentOfLoads(Sound):
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        os.environ["LOADED_MODELS"] = str(int(os.environ.get("LOADED_MODELS", "0")) + 1)
        return super().load(variant, options)


class ChangesTheFolder(Sound):
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        os.chdir(variant.folder)
        return super().load(variant, options)


class GrowsThePath(Sound):
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        sys.path.append(str(variant.folder))
        return super().load(variant, options)


class TakesSignals(Sound):
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: None)
        return super().load(variant, options)


class SilencesWarnings(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            warnings.simplefilter("ignore")
            return super().results(inputs)


class ConfiguresLogging(Sound):
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        logging.getLogger().addHandler(logging.StreamHandler())
        return super().load(variant, options)


class PrintsWhenItLoads(Sound):
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        os.write(1, b"loading\n")
        return super().load(variant, options)


class PrintsWhenItRuns(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            os.write(2, b"running\n")
            return super().results(inputs)


class WritesIntoThePackage(Sound):
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        with suppress(OSError):
            (variant.folder / "data" / "optimized").write_bytes(b"optimized")
        return super().load(variant, options)


class LeavesTemporaryFiles(Sound):
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        tempfile.mkdtemp()
        return super().load(variant, options)


class LeaksAFile(Sound):
    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        os.open(variant.artefact("data/model"), os.O_RDONLY)
        return super().load(variant, options)


class LeaksAFilePerCall(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            if self.kind == "add":
                os.open(os.devnull, os.O_RDONLY)
            return super().results(inputs)


class LeaksAThread(Sound):
    """Starts a thread with every model, which lives for ever."""

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return super().load(variant, options)


class LeavesAChild(Sound):
    children: ClassVar[list[Any]] = []

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        watching = [sys.executable, "-c", "import sys; sys.stdin.read()"]  # Ends with the process that started it.
        self.children.append(subprocess.Popen(watching, stdin=subprocess.PIPE, close_fds=True))
        return super().load(variant, options)


class LeaksALittle(Sound):
    kept: ClassVar[list[Any]] = []

    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            LeaksALittle.kept.append([{}])
            return super().results(inputs)


class LeaksWhenItFails(Sound):
    kept: ClassVar[list[Any]] = []

    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            try:
                return super().infer(inputs, outputs)
            except InferenceError as error:
                LeaksWhenItFails.kept.append(error)
                raise


class KeepsItsWeights(Sound):
    """Frees the executor, and not what the framework holds for it."""

    weights: ClassVar[list[Any]] = []

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        self.weights.append(np.ones(1 << 20))
        return super().load(variant, options)

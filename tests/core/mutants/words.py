"""Backends that say of themselves what is not so."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

from neuropod_core import (
    Descriptor,
    Executor,
    InferenceError,
    LoadOptions,
    ModelLoadError,
    Names,
    Tensors,
    Trust,
    Variant,
)

from .sound import Run, Sound


class ImportsItsFramework(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        import hypothesis  # Stands for a framework: installed here, and slow to import.

        return Descriptor(platform="importsitsframework", trust=Trust.DATA, framework=(hypothesis.__name__,))


class ChangesTheEnvironment(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        import os

        os.environ["CHANGED_BY_A_PLUGIN"] = str(os.getpid())
        return Descriptor(platform="changestheenvironment", trust=Trust.DATA)


class Prints(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        sys.stderr.write("hello\n")
        return Descriptor(platform="prints", trust=Trust.DATA)


class Unpickles(Sound):
    """Says that its artefacts are data, and unpickles them."""

    def kind_of(self, variant: Variant) -> str:
        try:
            kind: str = pickle.loads(variant.artefact("data/model").read_bytes())["kind"]
        except Exception as error:
            raise ModelLoadError(f"is no model: {error}") from error
        return kind


class NamesAbsentPackagers(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        packagers = {"create_nothing": "json:create_nothing"}
        return Descriptor(platform="namesabsentpackagers", trust=Trust.DATA, packagers=packagers)


class PacksByAbsentKeywords(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        packagers, packs = {"create_json": "json:dumps"}, {"*.json": "create_json:no_such_keyword"}
        return Descriptor(platform="packsbyabsentkeywords", trust=Trust.DATA, packagers=packagers, packs=packs)


class OpensAnything(Sound):
    def kind_of(self, variant: Variant) -> str:
        try:
            return super().kind_of(variant)
        except (ModelLoadError, ValueError):
            return "add"


class LetsLoadErrorsThrough(Sound):
    def kind_of(self, variant: Variant) -> str:
        try:
            return super().kind_of(variant)
        except ModelLoadError:
            raise SystemExit from None


class ImportsToTellItsVersion(Sound):
    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]
        return Descriptor(platform="importstotellitsversion", trust=Trust.DATA, framework=("hypothesis",))

    def framework_version(self) -> str | None:
        import hypothesis

        version: str = hypothesis.__version__
        return version


class DescribesItselfInObjects(Sound):
    class run(Run):  # noqa: N801
        @property
        def description(self) -> Any:
            return {"session": object()}


class FailsToDescribeItself(Sound):
    class run(Run):  # noqa: N801
        @property
        def description(self) -> Any:
            raise ValueError("not ready")


class DumpsTensorsIntoErrors(Sound):
    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            try:
                return super().infer(inputs, outputs)
            except InferenceError as error:
                raise InferenceError(f"the model failed on {[0.0] * 10_000}") from error


class EvaluatesItsArtefact(Sound):
    """Says that its artefacts are data, and runs them as Python."""

    def kind_of(self, variant: Variant) -> str:
        super().kind_of(variant)
        kind: str = eval(variant.artefact("data/model").read_text())["kind"]  # noqa: S307 - that is what is wrong here
        return kind


class UnpicklesAtTheFirstCall(Sound):
    class run(Run):  # noqa: N801
        def results(self, inputs: Tensors) -> Tensors:
            pickle.loads(pickle.dumps(self.kind))
            return super().results(inputs)


class OpensPlainNamesOnly(Sound):
    def kind_of(self, variant: Variant) -> str:
        if not str(variant.folder).isascii() or " " in str(variant.folder):
            raise ModelLoadError("no such file")
        return super().kind_of(variant)


class OpensWhenItRuns(Sound):
    """Reads its artefact at the first call, from wherever the process is then."""

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        made = super().load(variant, options)
        vars(made)["artefact"] = os.path.relpath(variant.artefact("data/model"))
        return made

    class run(Run):  # noqa: N801
        def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
            Path(vars(self)["artefact"]).read_bytes()
            return super().infer(inputs, outputs)

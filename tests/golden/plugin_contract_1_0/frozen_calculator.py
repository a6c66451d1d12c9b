"""A backend for models that are formulas, written for contract 1.0 of neuropod."""

import json

import numpy as np

from neuropod_core import (
    Backend,
    Descriptor,
    DeviceError,
    Executor,
    InferenceError,
    ModelLoadError,
    Trust,
    hookimpl,
)

neuropod_contract = (1, 0)

OPERATIONS = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}


class Formula(Executor):
    thread_safe = False
    stateful = True

    def __init__(self, operation, scale, specs, outputs):
        self.operation = operation
        self.scale = scale
        self.inputs = [spec.name for spec in specs]
        self.outputs = list(outputs)
        self.calls = 0

    def infer(self, inputs, outputs=None):
        self.calls += 1
        try:
            result = self.operation(*(inputs[name] for name in self.inputs)) * self.scale
        except (KeyError, ValueError) as error:
            raise InferenceError(f"the formula failed: {error}", at=self.inputs[0]) from error
        available = {"result": result.astype(np.float32), "calls": np.array(self.calls, np.int64)}
        return {name: available[name] for name in (self.outputs if outputs is None else outputs)}

    def close(self):
        self.inputs = []

    @property
    def description(self):
        return {"operation": self.operation.__name__}


class FormulaBackend(Backend):
    descriptor = Descriptor(
        platform="formula",
        trust=Trust.DATA,
        framework=("numpy",),
        framework_versions=">=1.20",
        install="pip install numpy",
        dtypes=frozenset(["float32", "int64"]),
        devices=("cpu",),
        options={"scale": "what results are multiplied with", "name": "a text", "exact": "a flag"},
        packagers={"create_formula_neuropod": "frozen_calculator:create_formula_neuropod"},
        stateful=True,
    )

    def load(self, variant, options):
        if options.device not in ("cpu", "auto"):
            raise DeviceError(f"formulas run on the CPU, not on {options.device!r}")
        options.text("name")
        options.flag("exact", default=True)
        path = variant.artefact("data/formula.json")
        try:
            operation = OPERATIONS[json.loads(path.read_bytes())["operation"]]
        except (ValueError, KeyError) as error:
            raise ModelLoadError(f"no formula: {error}", at=str(path)) from error
        problem = variant.problem
        scale = variant.config.get("scale", 1) * options.integer("scale", 1)
        return Formula(operation, scale, problem.inputs, (spec.name for spec in problem.outputs))

    def trust_needed(self, variant):
        return super().trust_needed(variant)


@hookimpl
def neuropod_backend(platform):
    return FormulaBackend() if platform == "formula" else None


def create_formula_neuropod(*, neuropod_path, model_name, operation, **arguments):
    from neuropod_core.packaging import new_package

    with new_package("formula", neuropod_path=neuropod_path, model_name=model_name, **arguments) as new:
        (new.folder / "data").mkdir()
        (new.folder / "data" / "formula.json").write_text(json.dumps({"operation": operation}))

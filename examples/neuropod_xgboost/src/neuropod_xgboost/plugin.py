"""What the core finds: the backend of platform ``xgboost``. Imports no framework."""

from neuropod_core import Backend, Descriptor, DType, Executor, LoadOptions, Trust, Variant, hookimpl

__all__ = ["XGBoostBackend", "neuropod_backend", "neuropod_contract"]

neuropod_contract = (1, 0)


class XGBoostBackend(Backend):
    """Opens models in XGBoost's own JSON format."""

    descriptor = Descriptor(
        platform="xgboost",
        trust=Trust.DATA,
        framework=("xgboost-cpu", "xgboost"),
        framework_versions=">=3",
        install="pip install 'neuropod-xgboost[cpu]'",
        dtypes=frozenset({DType.FLOAT32}),
        options={"threads": "threads that one call may use (default: one for each core)"},
        packagers={"create_xgboost_neuropod": "neuropod_xgboost.trees:create_xgboost_neuropod"},
    )

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        """Open the trees of `variant`."""
        from neuropod_xgboost.trees import TreesExecutor, open_trees

        booster = open_trees(variant.artefact("data/model.json"), options.integer("threads", 0))
        return TreesExecutor(booster, variant.problem, variant.config.get("outputs", {}))


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    """Give the backend of platform ``xgboost``."""
    del platform
    return XGBoostBackend()

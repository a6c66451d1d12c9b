"""A backend without text, so that a call that comes again takes the shortest way: it copies, or does what x[0] says."""

import numpy as np

from neuropod_core import Backend, Descriptor, Executor, LoadOptions, Names, Tensors, Trust, Variant, hookimpl, results

neuropod_contract = (1, 1)

FAIL, SHORT, OWN = -1, -2, -3


class Copy(Executor):
    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        x = inputs["x"]
        if x[0] == FAIL:
            raise ValueError("as asked")
        if x[0] == OWN:
            return {"y": np.array(x)}
        y = results.empty(x.shape if x[0] != SHORT else (len(x) // 2,), x.dtype)
        y[...] = x[: len(y)]
        return {"y": y}

    def close(self) -> None:
        pass


class CopyBackend(Backend):
    descriptor = Descriptor(platform="copy", trust=Trust.DATA)

    def load(self, variant: Variant, options: LoadOptions) -> Executor:
        return Copy()


@hookimpl
def neuropod_backend(platform: str) -> Backend:
    return CopyBackend()

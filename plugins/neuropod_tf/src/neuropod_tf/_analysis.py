"""What a graph could do to its caller, read off its operations before it runs.

Everything here errs on the safe side: an operation that is not known to keep nothing is taken to keep state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["Traits", "reached"]

_IN_PLACE = frozenset({"InplaceAdd", "InplaceSub", "InplaceUpdate"})

# Operations that TensorFlow calls stateful and that leave nothing behind which a later call could see. Random ones are
# among them: the state of their generators shows as randomness only. tf.random.Generator, a variable, is not.
_KEEPS_NOTHING = frozenset(
    [
        "AnonymousRandomSeedGenerator",
        "AnonymousSeedGenerator",
        "Assert",
        "Case",
        "CheckNumerics",
        "CheckNumericsV2",
        "CudnnRNN",
        "CudnnRNNV2",
        "CudnnRNNV3",
        "DatasetToSingleElement",
        "DeepCopy",
        "DeviceIndex",
        "DisableCopyOnRead",
        "Empty",
        "GetSessionTensor",
        "GuaranteeConst",
        "HashTable",
        "HashTableV2",
        "If",
        "LookupTableExportV2",
        "LookupTableFindV2",
        "LookupTableSizeV2",
        "Multinomial",
        "MutableDenseHashTable",
        "MutableDenseHashTableV2",
        "MutableHashTable",
        "MutableHashTableOfTensors",
        "MutableHashTableOfTensorsV2",
        "MutableHashTableV2",
        "NonDeterministicInts",
        "ParameterizedTruncatedNormal",
        "Placeholder",
        "Print",
        "PrintV2",
        "RandomCrop",
        "RandomGamma",
        "RandomPoisson",
        "RandomPoissonV2",
        "RandomShuffle",
        "RandomStandardNormal",
        "RandomUniform",
        "RandomUniformInt",
        "RangeDataset",
        "ReadVariableOp",
        "ReduceDataset",
        "ResourceGather",
        "ResourceGatherNd",
        "SampleDistortedBoundingBox",
        "SampleDistortedBoundingBoxV2",
        "Stack",
        "StackCloseV2",
        "StackPopV2",
        "StackPushV2",
        "StackV2",
        "StatefulPartitionedCall",
        "StatelessRandomGetAlg",
        "TensorArray",
        "TensorArrayCloseV3",
        "TensorArrayConcatV3",
        "TensorArrayGatherV3",
        "TensorArrayGradV3",
        "TensorArrayReadV3",
        "TensorArrayScatterV3",
        "TensorArraySizeV3",
        "TensorArraySplitV3",
        "TensorArrayV2",
        "TensorArrayV3",
        "TensorArrayWriteV3",
        "TensorDataset",
        "TensorSliceDataset",
        "Timestamp",
        "TruncatedNormal",
        "VarHandleOp",
        "VarIsInitializedOp",
        "Variable",
        "VariableShape",
        "VariableV2",
        "While",
        "_ParallelConcatStart",
    ]
)

# Operations that take a reference to a TF1 variable or table and only read it.
_READS_REFERENCE = frozenset(
    [
        "IsVariableInitialized",
        "LookupTableExport",
        "LookupTableFind",
        "LookupTableSize",
        "RefEnter",
        "RefExit",
        "RefIdentity",
        "RefMerge",
        "RefNextIteration",
        "RefSelect",
        "RefSwitch",
    ]
)

# Operations too small to be worth a second thread.
_TRIVIAL = frozenset(
    [
        "Const",
        "Enter",
        "Exit",
        "ExpandDims",
        "HashTableV2",
        "Identity",
        "IdentityN",
        "LoopCond",
        "Merge",
        "NextIteration",
        "NoOp",
        "Pack",
        "Placeholder",
        "PlaceholderWithDefault",
        "Rank",
        "ReadVariableOp",
        "Reshape",
        "Shape",
        "Size",
        "Snapshot",
        "Squeeze",
        "StopGradient",
        "StridedSlice",
        "Switch",
        "VarHandleOp",
        "Variable",
        "VariableV2",
    ]
)
_RESOURCE = 20  # DT_RESOURCE of TensorFlow's types.proto.
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


class Traits:
    """What the part of a graph that some tensors need could do, functions included.

    Parameters
    ----------
    graph_def
        The whole graph.
    fetches, feeds
        Names of the tensors to compute, and of those that are given.
    """

    def __init__(self, graph_def: Any, fetches: Iterable[str], feeds: Iterable[str]) -> None:
        self._functions = {function.signature.name: function for function in graph_def.library.function}
        self._nodes = reached(graph_def, fetches, feeds)
        self._lengths: dict[str, int] = {}

    @property
    def keeps_state(self) -> bool:
        """Whether a call could change what later calls give, or keep an input."""
        return any(_may_keep_state(node.op) for node in self._all_nodes() if node.op not in self._functions)

    @property
    def writes_in_place(self) -> bool:
        """Whether an operation could write into a tensor that it was given, such as an input."""
        return any(node.op in _IN_PLACE for node in self._all_nodes())

    @property
    def is_chain(self) -> bool:
        """Whether no two operations of weight could run side by side: a second thread would have nothing to do."""
        try:
            self._length(self._nodes)
        except _NoChainError:
            return False
        return True

    def _all_nodes(self) -> Iterator[Any]:
        waiting = deque(self._nodes)
        seen: set[str] = set()
        while waiting:
            node = waiting.popleft()
            yield node
            for name in self._called(node):
                if name not in seen:
                    seen.add(name)
                    waiting.extend(self._functions[name].node_def)

    def _called(self, node: Any) -> Iterator[str]:
        if node.op in self._functions:
            yield node.op
        for value in node.attr.values():
            names = [value.func.name, *(func.name for func in value.list.func)]
            yield from (name for name in names if name in self._functions)

    def _length(self, nodes: Iterable[Any], resources: frozenset[str] = frozenset()) -> int:
        """Count the operations of weight, if there is one order that they must run in.

        What is made of variables alone, such as a cast of one, has none: it waits for nothing, and takes little.
        """
        by_name = {node.name: node for node in nodes}
        depths: dict[str, int] = {}
        fed: set[str] = set()
        total = 0
        known = by_name.keys() | resources
        for node in _in_order(by_name):
            if any(name in fed or name not in known for name in _sources(node)):
                fed.add(node.name)
            weight = self._weight(node) if node.name in fed or _is_stateful(node.op) else 0
            before = max((depths[name] for name in _sources(node) if name in by_name), default=0)
            depths[node.name] = before + weight
            total += weight
        longest = max(depths.values(), default=0)
        if longest != total:
            raise _NoChainError
        return longest

    def _weight(self, node: Any) -> int:
        called = [self._function_length(name) for name in self._called(node)]
        if node.op in _CALLS or node.op in self._functions:
            return sum(called)
        return 0 if node.op in _TRIVIAL else 1

    def _function_length(self, name: str) -> int:
        if name not in self._lengths:
            self._lengths[name] = 0  # A function that calls itself ends here.
            function = self._functions[name]
            resources = frozenset(each.name for each in function.signature.input_arg if each.type == _RESOURCE)
            self._lengths[name] = self._length(function.node_def, resources)
        return self._lengths[name]


class _NoChainError(Exception):
    """Two operations could run side by side."""


def reached(graph_def: Any, fetches: Iterable[str], feeds: Iterable[str]) -> list[Any]:
    """List the nodes that must run for the tensors `fetches` where the tensors `feeds` are given."""
    by_name = {node.name: node for node in graph_def.node}
    given = {_canonical(name) for name in feeds}
    waiting = deque(name for name in map(_canonical, fetches) if name not in given)
    found: dict[str, Any] = {}
    while waiting:
        name = _node_of(waiting.popleft())
        if name in found or name not in by_name:
            continue
        found[name] = by_name[name]
        waiting.extend(source for source in by_name[name].input if _canonical(source) not in given)
    return list(found.values())


def _in_order(by_name: Mapping[str, Any]) -> list[Any]:
    missing = {name: len({source for source in _sources(node) if source in by_name}) for name, node in by_name.items()}
    users: dict[str, list[str]] = {name: [] for name in by_name}
    for name, node in by_name.items():
        for source in {source for source in _sources(node) if source in by_name}:
            users[source].append(name)
    ready = deque(name for name, count in missing.items() if not count)
    ordered = []
    while ready:
        name = ready.popleft()
        ordered.append(by_name[name])
        for user in users[name]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    if len(ordered) < len(by_name):
        raise _NoChainError  # A loop of TF1; what runs side by side in it is not worth knowing.
    return ordered


def _sources(node: Any) -> Iterator[str]:
    return map(_node_of, node.input)


def _node_of(reference: str) -> str:
    """Give the node of ``node``, ``node:1``, ``^node`` or, in a function, ``node:output:1``."""
    return reference.removeprefix("^").partition(":")[0]


def _canonical(reference: str) -> str:
    return reference if ":" in reference or reference.startswith("^") else f"{reference}:0"


def _may_keep_state(op: str) -> bool:
    definition = _definition(op)
    if definition is None:
        return True
    if any(argument.is_ref for argument in definition.input_arg):
        return op not in _READS_REFERENCE
    return bool(definition.is_stateful) and op not in _KEEPS_NOTHING


def _is_stateful(op: str) -> bool:
    definition = _definition(op)
    return definition is None or bool(definition.is_stateful)


def _definition(op: str) -> Any:
    try:
        from tensorflow.python.framework import op_def_registry
    except ImportError:  # It is no public module.
        return None
    return op_def_registry.get(op)

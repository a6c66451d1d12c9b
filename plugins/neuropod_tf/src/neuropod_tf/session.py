"""A model in a session of its own, called in the cheapest way that TensorFlow has.

A session's callable takes NumPy arrays and gives arrays around TensorFlow's own buffers, in a tenth of the time of a
call of the SavedModel's signature. What it leaves open is closed here:

- An array that it gives may be the caller's input, a constant or a variable of the model. So what is fetched is a
  ``Snapshot`` of the model's tensor: the operation hands on a buffer that nobody else holds, and copies any other.
- A model that may write into its inputs or keep them is fed copies.
- TensorFlow cuts a function down to the outputs asked for only if what is fetched lies outside of it. Snapshots do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from types import MappingProxyType
from typing import Any

from neuropod_core import (
    Executor,
    InferenceError,
    LoadOptions,
    Names,
    NativeTensors,
    PackageFormatError,
    Tensors,
    Variant,
)
from neuropod_core.backend import Array
from neuropod_core.errors import shown
from neuropod_tf._analysis import Traits
from neuropod_tf._artefact import Artefact, names_of_init_ops, read_variant
from neuropod_tf._bindings import Bindings, bind
from neuropod_tf._calls import callable_for
from neuropod_tf._custom_ops import load_custom_ops
from neuropod_tf._devices import device_of, intra_op_threads, session_config
from neuropod_tf._errors import inference_error, loading
from neuropod_tf._native import arrays_of, tensors_of
from neuropod_tf._plans import Plan, arrays_in_order
from neuropod_tf._state import bring_to_life
from neuropod_tf._tensors import as_array, as_strings, change_of, first_unencodable, is_text, plain

__all__ = ["SessionExecutor", "StatefulSessionExecutor", "import_graph", "open_executor", "traits_of"]

_MOST_PLANS = 64


def open_executor(variant: Variant, options: LoadOptions) -> SessionExecutor:
    """Open the artefact of a variant in a session of its own.

    Raises
    ------
    ModelLoadError
        If TensorFlow refuses it, or it does not fit the problem.
    """
    from tensorflow.compat.v1 import Session

    artefact = read_variant(variant, options.text("tags") or _text(variant, "tags"))
    device = device_of(options)
    with loading(artefact.at), ExitStack() as undo:
        load_custom_ops(variant.custom_ops)
        graph = import_graph(artefact)
        signature = artefact.signature(options.text("signature") or _text(variant, "signature"))
        bindings = bind(graph, artefact, signature, _mapping(variant), variant.problem)
        session = Session(graph=graph, config=session_config(options, device))
        undo.callback(session.close)
        bring_to_life(session, artefact, names_of_init_ops(variant.config.get("init_op_names")))
        traits = traits_of(artefact, bindings)
        executor = (StatefulSessionExecutor if traits.keeps_state else SessionExecutor)(
            session,
            bindings,
            device=device,
            inline=_runs_inline(traits, options),
            copies_inputs=traits.keeps_state or traits.writes_in_place or bool(variant.custom_ops),
        )
        undo.pop_all()
    return executor


def traits_of(artefact: Artefact, bindings: Bindings) -> Traits:
    """Look at what the outputs of a problem need."""
    fetches, feeds = ([tensor.name for tensor in side.values()] for side in (bindings.outputs, bindings.inputs))
    return Traits(artefact.graph_def, fetches, feeds)


def import_graph(artefact: Artefact) -> Any:
    """Import the graph of an artefact into a new `tf.Graph`."""
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(artefact.graph_def, name="", producer_op_list=artefact.stripped_ops)
    return graph


class SessionExecutor(Executor):
    """Runs the tensors of one graph; any number of threads may call it at once.

    Parameters
    ----------
    session
        Holds the graph and its state; belongs to the executor from now on.
    bindings
        The tensors of the graph by the names of the problem.
    device
        Where it runs, for the description.
    inline
        Whether operations run in the caller's thread, for models in which nothing can run side by side.
    copies_inputs
        Whether the model is fed copies of the caller's arrays.
    """

    def __init__(self, session: Any, bindings: Bindings, *, device: str, inline: bool, copies_inputs: bool) -> None:
        self._session, self._inputs, self._device, self._inline = session, bindings.inputs, device, inline
        self._changed, self._copies_inputs = _changed(bindings.inputs, copies=copies_inputs), copies_inputs
        self._finish = {name: finish for name in bindings.outputs if (finish := _finish(name, bindings.outputs[name]))}
        self._fetched = _fetched(session.graph, bindings.outputs)
        session.graph.finalize()
        self._plans: dict[tuple[tuple[str, ...], tuple[str, ...]], Plan] = {}
        self._whole = self._planned(tuple(bindings.inputs), tuple(bindings.outputs))

    def infer(self, inputs: Tensors, outputs: Names = None) -> Tensors:
        """Run what the outputs asked for need, and nothing else."""
        plan = self._whole
        if outputs is not None or len(inputs) != len(plan.inputs):
            plan = self._plan(inputs, outputs)
        try:
            values = plan.run(*plan.arrays(inputs))
        except InferenceError:
            raise
        except Exception as error:
            raise _text_error(inputs) or inference_error(error) from error
        results = dict(zip(plan.outputs, values))  # noqa: B905 - costs, and a session gives what it is asked for
        for name, finished in plan.finish:
            results[name] = finished(results[name])
        return results

    def infer_native(self, inputs: NativeTensors, outputs: Names = None) -> NativeTensors:
        """Run the model in its session, and give what comes out as TensorFlow's tensors around the same memory."""
        return tensors_of(self.infer(arrays_of(inputs), outputs))

    def close(self) -> None:
        """Close the session and let go of its graph."""
        self._plans.clear()
        self._whole = self._whole.closed()
        graph = self._session.graph
        self._session.close()
        del self._session, self._inputs, self._fetched
        _dismantle(graph)

    @property
    def description(self) -> Mapping[str, object]:
        """TensorFlow's version, the device, and how calls are run."""
        import tensorflow as tf

        return MappingProxyType(
            {
                "framework": f"tensorflow {tf.__version__}",
                "device": self._device,
                "operations": "in the caller's thread" if self._inline else "in TensorFlow's threads",
                "intra_op_threads": intra_op_threads(LoadOptions()) or "TensorFlow's default",
                "copies_inputs": self._copies_inputs,
            }
        )

    def _plan(self, inputs: Tensors, outputs: Names) -> Plan:
        given = tuple(name for name in self._whole.inputs if name in inputs)
        wanted = self._whole.outputs if outputs is None else tuple(dict.fromkeys(outputs))
        plan = self._plans.get((given, wanted))
        if plan is None:
            plan = self._planned(given, wanted)
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[given, wanted] = plan
        return plan

    def _planned(self, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Plan:
        feeds = [self._inputs[name] for name in inputs]
        fetches = [self._fetched[name] for name in outputs]
        run = callable_for(self._session, feeds, fetches, inline=self._inline) if fetches else _nothing
        finish = tuple((name, self._finish[name]) for name in outputs if name in self._finish)
        return Plan(inputs, outputs, finish, arrays_in_order(inputs, self._changed), run)


class StatefulSessionExecutor(SessionExecutor):
    """Runs a model whose calls change what later calls give; one call at a time."""

    thread_safe = False
    stateful = True


def _runs_inline(traits: Traits, options: LoadOptions) -> bool:
    threads = options.integer("inter_op_threads")
    return traits.is_chain if threads is None else threads == 1


def _fetched(graph: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the graph what is fetched in place of each output."""
    with graph.as_default():
        return {name: _owned(tensor) for name, tensor in outputs.items()}


def _owned(tensor: Any) -> Any:
    """Give a tensor of the same value whose buffer nobody else holds once it is fetched, copied only where it must be.

    A Snapshot alone is computed once for all calls where TensorFlow finds that its value never changes, and two of one
    tensor become one. What an operation that counts as stateful gives, such as GuaranteeConst, is safe from both.
    """
    from tensorflow import raw_ops

    if is_text(tensor):
        return raw_ops.Identity(input=tensor)  # TensorFlow makes new objects of text.
    return raw_ops.Snapshot(input=raw_ops.GuaranteeConst(input=plain(tensor)))


def _dismantle(graph: Any) -> None:
    """Break the cycles of a graph, so that its constants are freed now."""
    try:
        from tensorflow.python.framework.ops import dismantle_graph
    except ImportError:  # It is no public function; the garbage collector frees the graph later.
        return
    dismantle_graph(graph)


def _finish(name: str, tensor: Any) -> Callable[[Any], Array] | None:
    """Give what makes an array of a result, None where a session always gives one: of numbers of a rank above 0."""
    if is_text(tensor):
        return partial(as_strings, name)
    return None if tensor.shape.rank else as_array


def _changed(tensors: Mapping[str, Any], *, copies: bool) -> dict[str, Callable[[Array], Array]]:
    changes = {name: change_of(tensor, copies=copies) for name, tensor in tensors.items()}
    return {name: change for name, change in changes.items() if change is not None}


def _nothing(*_arrays: Any) -> tuple[()]:
    return ()


def _text_error(inputs: Tensors) -> InferenceError | None:
    name = first_unencodable(inputs)
    return None if name is None else InferenceError("a text has no UTF-8 form", at=f"inputs.{name}")


def _text(variant: Variant, key: str) -> str | None:
    value = variant.config.get(key)
    if value is not None and not isinstance(value, str):
        raise PackageFormatError(f"{key} is a name, not {shown(value)}", at="0/config.json")
    return value


def _mapping(variant: Variant) -> Mapping[str, str]:
    mapping = variant.config.get("node_name_mapping") or {}
    if not isinstance(mapping, Mapping) or not all(isinstance(name, str) for name in mapping.values()):
        raise PackageFormatError(f"node_name_mapping is a table of names, not {shown(mapping)}", at="0/config.json")
    return mapping

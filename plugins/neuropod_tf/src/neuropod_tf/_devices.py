"""What a session is told about devices and threads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from neuropod_core import DeviceError, LoadOptions

__all__ = ["device_of", "intra_op_threads", "session_config", "take_over_threads", "threads_here"]

_logger = logging.getLogger("neuropod")
_decided: list[int] = []  # What the first session of this process asked for, which TensorFlow gives to all of them.
_inherited: list[int] = []  # In a worker: what its parent runs with.


def device_of(options: LoadOptions) -> str:
    """Give the device that is meant: ``cpu``, or ``cuda:N`` where there is one.

    Raises
    ------
    DeviceError
        If a GPU is asked for that TensorFlow does not see.
    """
    if options.device == "cpu":
        return "cpu"
    count = _gpu_count()
    if options.device == "auto":
        return "cuda:0" if count else "cpu"
    number = int(options.device.partition(":")[2] or 0)
    if number >= count:
        what = f"TensorFlow sees {count} GPUs, {options.device!r} is none of them"
        raise DeviceError(what, remedy="pass device='cpu', or install neuropod-tf[gpu] and a driver")
    return f"cuda:{number}"


def session_config(options: LoadOptions, device: str) -> Any:
    """Describe the session: on the CPU no GPU is seen, on a GPU nothing that was placed there may move."""
    from tensorflow.compat.v1 import ConfigProto

    kind, _, number = device.partition(":")
    config = ConfigProto(allow_soft_placement=kind == "cpu")
    if kind == "cpu":
        config.device_count["GPU"] = 0
    else:
        config.gpu_options.visible_device_list = number
        config.gpu_options.allow_growth = True
    config.graph_options.optimizer_options.do_function_inlining = True  # A call of a function costs 2 to 4 us.
    config.intra_op_parallelism_threads = intra_op_threads(options)
    inter_op_threads = options.integer("inter_op_threads") or 0
    config.inter_op_parallelism_threads = inter_op_threads
    config.use_per_session_threads = inter_op_threads > 1
    return config


def intra_op_threads(options: LoadOptions) -> int:
    """Give the threads inside one operation, 0 for TensorFlow's default: what the first session of the process got."""
    asked = options.integer("intra_op_threads")
    if not _decided:
        _decided.append(asked or (_inherited[-1] if _inherited else 0))
    if asked not in (None, _decided[0]):
        got = _decided[0] or "its default"
        what = (
            "TensorFlow keeps intra_op_threads as the first model of this process was loaded (%s), not %s; use a worker"
        )
        _logger.warning(what, got, asked)
    return _decided[0]


def threads_here() -> dict[str, int]:
    """Give the threads inside one operation in this process, nothing where that is TensorFlow's default.

    TensorFlow, which is imported, has one pool for all sessions, as large as whoever came first wanted it.
    """
    import tensorflow as tf

    count = tf.config.threading.get_intra_op_parallelism_threads() or (_decided[0] if _decided else 0)
    return {"intra_op_threads": int(count)} if count else {}


def take_over_threads(settings: Mapping[str, Any]) -> None:
    """Let sessions of this worker have the threads that those of its parent have, unless a model asks for others."""
    count = settings.get("intra_op_threads")
    if type(count) is int and count > 0:
        _inherited.append(count)


def _gpu_count() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))

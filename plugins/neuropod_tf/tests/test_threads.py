"""What a worker is told about the threads of its parent; TensorFlow decides once for a process: each has its own."""

from __future__ import annotations

import subprocess
import sys

_TAKEN_OVER = """
from neuropod_core import LoadOptions
from neuropod_tf._devices import session_config
from neuropod_tf.plugin import TensorFlowBackend
TensorFlowBackend().apply_thread_settings({"intra_op_threads": 3, "of a later release": "x"})
"""


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_import_no_tensorflow() -> None:
    _run(
        "import sys\nfrom neuropod_tf.plugin import TensorFlowBackend\n"
        "assert TensorFlowBackend().thread_settings() == {}\nassert 'tensorflow' not in sys.modules"
    )


def test_settings_are_what_tensorflow_was_told() -> None:
    _run(
        "import tensorflow as tf\nfrom neuropod_tf.plugin import TensorFlowBackend\n"
        "assert TensorFlowBackend().thread_settings() == {}\n"
        "tf.config.threading.set_intra_op_parallelism_threads(3)\n"
        "assert TensorFlowBackend().thread_settings() == {'intra_op_threads': 3}"
    )


def test_sessions_ask_for_what_the_parent_has() -> None:
    _run(_TAKEN_OVER + "assert session_config(LoadOptions(), 'cpu').intra_op_parallelism_threads == 3")


def test_sessions_ask_for_what_they_are_told() -> None:
    options = "LoadOptions(values={'intra_op_threads': 2})"
    _run(_TAKEN_OVER + f"assert session_config({options}, 'cpu').intra_op_parallelism_threads == 2")

"""Ways to call a session, the fastest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Call", "callable_for", "fast_callable", "public_callable"]

Call = Callable[..., Sequence[Any]]
"""Takes the fed arrays in order, gives the fetched ones in order."""

_IN_CALLERS_THREAD = -1


def callable_for(session: Any, feeds: Sequence[Any], fetches: Sequence[Any], *, inline: bool) -> Call:
    """Prepare one combination of fed and fetched tensors, the fastest way that this TensorFlow has.

    Parameters
    ----------
    session, feeds, fetches
        The session and tensors of its graph.
    inline
        Whether every operation runs in the caller's thread.
    """
    try:
        return fast_callable(session, feeds, fetches, inline=inline)
    except (AttributeError, TypeError, ImportError):  # It is no public way, a later TensorFlow may lack it.
        return public_callable(session, feeds, fetches, inline=inline)


def fast_callable(session: Any, feeds: Sequence[Any], fetches: Sequence[Any], *, inline: bool) -> Call:
    """Prepare a call that hands NumPy arrays straight to the C++ session."""
    from tensorflow.core.protobuf.config_pb2 import CallableOptions

    options = CallableOptions(feed=[tensor.name for tensor in feeds], fetch=[tensor.name for tensor in fetches])
    if inline:
        options.run_options.inter_op_thread_pool = _IN_CALLERS_THREAD
    call: Call = session._make_callable_from_options(options)  # noqa: SLF001 - public_callable stands in for it
    return call


def public_callable(session: Any, feeds: Sequence[Any], fetches: Sequence[Any], *, inline: bool) -> Call:
    """Prepare a call by public means only; two to four times slower."""
    from tensorflow.compat.v1 import RunOptions

    run = session.make_callable(list(fetches), list(feeds), accept_options=True)
    options = RunOptions(inter_op_thread_pool=_IN_CALLERS_THREAD) if inline else None

    def call(*arrays: Any) -> Sequence[Any]:
        results: Sequence[Any] = run(*arrays, options=options)
        return results

    return call

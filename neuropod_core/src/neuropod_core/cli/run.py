"""``neuropod run``: one call, from a file to a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import click

from neuropod_core.cli._completion import complete_packages
from neuropod_core.cli._options import json_option, load_options, loading_arguments, verbose_option
from neuropod_core.cli._output import Facts, Output, Report, Table, fetching, progress, steps

if TYPE_CHECKING:
    from neuropod_core.backend import Tensors
    from neuropod_core.model import Neuropod
    from neuropod_core.package import Package

__all__ = ["run"]

_SHOW_EVERY_NS = 100_000_000

_EPILOG = """\b
Examples:
  neuropod run digits.neuropod --test-data
  neuropod run digits.neuropod --inputs digits.npz --outputs scores --save scores.npz
  echo '{"x": [1, 2, 3]}' | neuropod run double.neuropod --inputs - --json | jq .outputs.y.values
  neuropod run digits.neuropod --test-data --device cuda --option threads=2 --repeat 1000
  neuropod run digits.neuropod --test-data --placement worker --trust sandboxed
"""


@click.command(epilog=_EPILOG, short_help="Run the model once and show its outputs.")
@click.argument("package", metavar="PACKAGE", shell_complete=complete_packages)
@click.option("--inputs", metavar="FILE", help="The inputs: an .npz or a JSON file, or - for either on stdin.")
@click.option("--test-data", is_flag=True, help="Take the inputs that are packaged with the model.")
@click.option("--outputs", multiple=True, metavar="NAME", help="Compute this output; again for more. Default: all.")
@load_options
@click.option(
    "--cast",
    callback=lambda _context, _parameter, given: _casts(given),
    multiple=True,
    metavar="[NAME=]RULE",
    help="Which inputs of an .npz may have another element type: 'no' (the default), 'safe' where nothing is lost, "
    "'same_kind' within a kind. By name for one input; again for more.",
)
@click.option("--no-checks", is_flag=True, help="Do not hold inputs and outputs to the problem.")
@click.option("--save", metavar="FILE", type=click.Path(path_type=Path), help="Write the outputs to an .npz file.")
@click.option(
    "--repeat", metavar="N", type=click.IntRange(min=1), help="Time N more calls: median, 90th percentile, least, most."
)
@json_option
@verbose_option
def run(
    package: str,
    *,
    inputs: str | None,
    test_data: bool,
    outputs: tuple[str, ...],
    save: Path | None,
    repeat: int | None,
    as_json: bool,
    **loading: Any,
) -> None:
    """Run the model in PACKAGE once and show its outputs.

    With --repeat N it is called N more times with the same inputs, and the time of these calls is summarised; the
    outputs are those of the first. Exit codes: see neuropod --help.

    JSON inputs are one object: {"x": [[1, 2], [3, 4]], "name": ["a", "b"]}. A value becomes the type that the problem
    says only where nothing is lost but the last digits of a fraction: an int becomes a float32 if it is one exactly,
    1.0 never becomes an int. What is no number is written "NaN", "Infinity" or "-Infinity", in and out. An empty tensor
    may need its shape: {"x": {"shape": [0, 3], "values": []}}.

    With --json, the outputs have the form {"y": {"dtype": ..., "shape": ..., "values": ...}}, which is also read as
    inputs. In a pipe, each line is: output, name, type and shape, values (large tensors abbreviated).
    """
    output = Output(as_json=as_json)
    target = None if save is None else _target(save, package)
    with output.claimed():
        tensors = _inputs(package, inputs, test_data=test_data, loading=loading)
        with _loaded(package, loading) as model:
            names = list(outputs) or None
            results, timing = _timed(lambda: model.infer(tensors, names), repeat)
            report = _report(model, results, timing)
        if target is not None:
            from neuropod_core.cli._results import save as save_results

            save_results(results, target)
    output.show(report)


_RULES = ("no", "safe", "same_kind")


def _casts(given: tuple[str, ...]) -> Any:
    """Read ``same_kind``, or ``image=same_kind`` any number of times."""
    named = {name: rule for name, equals, rule in (text.rpartition("=") for text in given) if equals}
    everywhere = [text for text in given if "=" not in text]
    if unknown := [rule for rule in (*named.values(), *everywhere) if rule not in _RULES]:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(_RULES)}", param_hint="--cast")
    if everywhere and len(given) > 1:
        raise click.BadParameter("a rule for all inputs stands alone", param_hint="--cast")
    return everywhere[0] if everywhere else named or "no"


def _target(save: Path, package: str) -> Path:
    """Find where the outputs go, wherever links lead and the model may go meanwhile; never into the package."""
    target = Path(os.path.realpath(save))
    if target.is_dir() or not target.parent.is_dir():
        raise click.UsageError(f"--save names a file in a folder that exists, not {str(save)!r}")
    with suppress(OSError):
        if target.samefile(package):
            raise click.UsageError("--save names the package itself")
    return target


def _loaded(package: str, loading: dict[str, Any]) -> Neuropod:
    from neuropod_core.loading import load_neuropod

    known = loading_arguments(loading, "cast")
    with fetching(package, "loading the model") as shown:
        return load_neuropod(package, checks=not loading["no_checks"], on_transfer=shown, **known)


# -- inputs -----------------------------------------------------------------------------------------------------------


def _inputs(source: str, inputs: str | None, *, test_data: bool, loading: dict[str, Any]) -> Tensors:
    """Read the inputs and check them, before anything slow is imported."""
    from neuropod_core.checks import input_check
    from neuropod_core.package import Package

    if (inputs is None) != test_data:
        raise click.UsageError("one of --inputs FILE and --test-data says what goes in")
    with fetching(source, "reading the package") as shown, Package.open(source, on_transfer=shown) as package:
        tensors = _packaged(package) if inputs is None else _given(inputs, package)
        if not loading["no_checks"]:
            tensors, _ = input_check(package.config.problem, loading["cast"])(tensors)
    return tensors


def _packaged(package: Package) -> Tensors:
    from neuropod_core.errors import PackageError

    packaged = package.test_data()
    if packaged is None:
        raise PackageError("has no test data", at=package.place, remedy="pass --inputs FILE")
    return packaged.inputs


def _given(place: str, package: Package) -> Tensors:
    from neuropod_core.cli._inputs import read_inputs

    return read_inputs(place, package.config.problem)


# -- the call ---------------------------------------------------------------------------------------------------------


def _timed(call: Callable[[], Tensors], repeat: int | None) -> tuple[Tensors, dict[str, Any] | None]:
    """Call once for the results, then `repeat` times for the clock."""
    with progress("running the model"):
        begin = perf_counter_ns()
        results = call()
        first = perf_counter_ns() - begin
    if repeat is None:
        return results, None
    return results, _summary(first, _durations(call, repeat))


def _durations(call: Callable[[], Tensors], repeat: int) -> list[int]:
    durations = []
    with steps("timing", repeat) as show:
        shown = perf_counter_ns()
        for _ in range(repeat):
            begin = perf_counter_ns()
            call()
            end = perf_counter_ns()
            durations.append(end - begin)
            if end - shown > _SHOW_EVERY_NS:
                show(len(durations))
                shown = perf_counter_ns()
    return durations


def _summary(first_ns: int, durations_ns: list[int]) -> dict[str, Any]:
    import numpy as np

    median, p90 = np.percentile(durations_ns, (50, 90))
    known = {"first": first_ns, "median": median, "p90": p90, "min": min(durations_ns), "max": max(durations_ns)}
    in_us = {f"{name}_us": round(float(value) / 1000, 3) for name, value in known.items()}
    return {"calls": len(durations_ns), **in_us}


# -- the answer -------------------------------------------------------------------------------------------------------


def _report(model: Neuropod, results: Tensors, timing: dict[str, Any] | None) -> Report:
    import numpy as np

    from neuropod_core.cli._results import abbreviated, notation, to_json
    from neuropod_core.errors import InferenceError

    unchecked: Mapping[str, object] = results
    foreign = next((name for name, value in unchecked.items() if not isinstance(value, np.ndarray)), None)
    if foreign is not None:
        what = f"the model gave a {type(results[foreign]).__name__}, which is no array"
        raise InferenceError(what, at=f"outputs.{foreign}", remedy="leave --no-checks out")
    document: dict[str, Any] = {
        "name": model.name,
        "platform": model.platform,
        "framework_version": model.framework_version,
        "outputs": {name: to_json(array) for name, array in results.items()},
    }
    rows = [(name, notation(array), abbreviated(array)) for name, array in results.items()]
    blocks: list[Facts | Table] = [Table("output", ("output", "tensor", "values"), rows)]
    if timing is not None:
        document["timing"] = timing
        blocks.append(Facts([(name.replace("_us", " us"), value) for name, value in timing.items()]))
    return Report(document, blocks)

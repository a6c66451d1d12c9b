"""From the variant of a package to an executor: declarations, entry points, devices, custom ops."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import (
    DeviceError,
    Executor,
    ModelLoadError,
    OptionError,
    PackageFormatError,
    PackagingError,
    load_neuropod,
)
from neuropod_core.plugins import check_framework
from neuropod_python import create_python_neuropod
from neuropod_python.plugin import PythonBackend

Load = Callable[..., Executor]

_X = np.ones(2, np.float32)
_IDENTITY = "def main(path):\n    return lambda x: {'y': x}\n"


@pytest.mark.parametrize(
    "text",
    [
        "def main(path):\n    def model(x):\n        return {'y': x + 1}\n    return model\n",
        "class main:\n    def __init__(self, _):\n        0\n    def __call__(self, x):\n        return {'y': x + 1}",
        "import functools\ndef f(x, by):\n    return {'y': x + by}\nmain = lambda _: functools.partial(f, by=1)\n",
        "class Net:\n    def run(self, x):\n        return {'y': x + 1}\ndef main(path):\n    return Net().run\n",
        "main = lambda path: lambda **inputs: {'y': inputs['x'] + 1}\n",
    ],
    ids=["function", "class", "partial", "method", "lambda"],
)
def test_entry_points_give_any_callable(load: Load, text: str) -> None:
    assert load({"entry.py": text}).infer({"x": _X})["y"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "entry has no entry point 'main'"),
        ("main = 3", "there is int, not a function"),
        ("def main(path):\n    pass", "gave NoneType, not a plain callable; return a function"),
        ("async def main(path):\n    pass", "gave coroutine"),
        ("def main(path):\n    yield", "gave generator"),
        (
            "def main(path):\n    async def model(x):\n        pass\n    return model",
            "gave function, not a plain callable",
        ),
        (
            "def main(path):\n    def model(x):\n        yield x\n    return model",
            "gave function, not a plain callable",
        ),
        ("class M:\n    async def __call__(self, x):\n        pass\ndef main(path):\n    return M()", "gave M"),
        ("def main():\n    pass", "the entry point 'main' raised TypeError"),
        ("def main(path):\n    return {}['weights']", "the entry point 'main' raised KeyError: 'weights'"),
        ("raise SystemExit(1)", "importing entry raised SystemExit: 1"),
        ("def main(path)\n", "importing entry raised SyntaxError"),
        ("import absent_module_for_neuropod", "ModuleNotFoundError: No module named 'absent_module_for_neuropod'"),
    ],
)
def test_entry_points_that_fail_are_explained(load: Load, text: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load({"entry.py": text})


def test_an_entry_point_error_keeps_its_cause_and_place(load: Load) -> None:
    with pytest.raises(ModelLoadError) as raised:
        load(
            {
                "entry.py": "from deep import f\ndef main(path):\n    return f()\n",
                "deep.py": "def f():\n    return 1 / 0\n",
            }
        )

    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert raised.value.at.endswith("deep.py:2")


def test_an_interrupt_passes(load: Load) -> None:
    with pytest.raises(KeyboardInterrupt):
        load({"entry.py": "def main(path):\n    raise KeyboardInterrupt\n"})


def test_entry_points_get_the_data_path_as_text(load: Load) -> None:
    entry = """
import numpy as np
def main(path):
    assert type(path) is str
    with open(path + "/by") as file:
        by = np.float32(file.read())
    return lambda x: {"y": x + by}
"""

    executor = load({"entry.py": entry}, data={"by": b"2"})

    assert executor.infer({"x": _X})["y"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"entrypoint": None}, "entrypoint is a name, not None"),
        ({"entrypoint": "a.b"}, "entrypoint is a name, not 'a.b'"),
        ({"entrypoint_package": "../entry"}, "entrypoint_package is a name"),
        ({"entrypoint_package": ["entry"]}, "entrypoint_package is a name"),
        ({"thread_safe": "yes"}, "thread_safe is true or false, not 'yes'"),
        ({"writes_inputs": 0}, "writes_inputs is true or false, not 0"),
    ],
)
def test_declarations_of_the_wrong_type_are_refused(load: Load, config: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageFormatError, match=message):
        load({"entry.py": _IDENTITY}, config=config)


def test_an_absent_module_is_named(load: Load) -> None:
    with pytest.raises(ModelLoadError, match="the code of the package has no module 'numpy'"):
        load({"entry.py": _IDENTITY}, package="numpy")


def test_options_of_the_wrong_type_are_refused(load: Load) -> None:
    with pytest.raises(OptionError, match="'thread_safe' is true or false, not 'no'"):
        load({"entry.py": _IDENTITY}, thread_safe="no")


# -- devices

_TELLS = "def main(path, device):\n    def model(x):\n        raise ValueError(device)\n    return model\n"


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_entry_points_with_a_device_get_it(load: Load, device: str) -> None:
    with pytest.raises(RuntimeError, match="ValueError: cpu"):
        load({"entry.py": _TELLS}, device=device).infer({"x": _X})


def test_entry_points_without_a_device_refuse_an_accelerator(load: Load) -> None:
    with pytest.raises(DeviceError, match="cannot be told to use 'cuda:0'; give its entry point a parameter device"):
        load({"entry.py": _IDENTITY}, device="cuda:0")


# -- versions


def test_the_version_range_speaks_of_python() -> None:
    backend = PythonBackend()

    assert check_framework(backend, ">=3.10") == ".".join(map(str, sys.version_info[:3]))
    with pytest.raises(RuntimeError, match=r"asks for python >=4, installed is 3\."):
        check_framework(backend, ">=4")


# -- custom ops


def _extension() -> Path:
    return next(Path(np.__file__).parent.glob("*core/_operand_flag_tests*"))  # _core, and core before NumPy 2.


def _ops(folder: Path, name: str = "") -> Path:
    folder.mkdir(parents=True)
    return Path(shutil.copyfile(_extension(), folder / (name or _extension().name)))


def test_ops_are_importable_for_the_code_and_loaded_once(load: Load, tmp_path: Path) -> None:
    entry = """
import numpy as np
import _operand_flag_tests as op
def main(path):
    return lambda x: {"y": x + np.float32(id(op) % 65536)}
"""
    models = [load({"entry.py": entry}, custom_ops=(_ops(tmp_path / str(number)),)) for number in range(2)]

    first, second = (model.infer({"x": _X})["y"].tolist() for model in models)

    assert first == second
    assert "_operand_flag_tests" not in sys.modules


def test_ops_that_are_importable_already_are_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="the custom op 'json' is importable without the package"):
        load({"entry.py": _IDENTITY}, custom_ops=(_ops(tmp_path / "ops", "json.so"),))


def test_ops_that_are_no_extension_modules_are_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "op_for_neuropod.so").write_bytes(b"no library")
    with pytest.raises(ModelLoadError, match="ImportError"):
        load({"entry.py": "import op_for_neuropod"}, custom_ops=(tmp_path / "op_for_neuropod.so",))


# -- the whole way


def test_a_package_is_loaded_and_runs_its_test_data(tmp_path: Path) -> None:
    (tmp_path / "adder.py").write_text(
        "import numpy as np\ndef main(path):\n    by = np.load(path + '/by.npy')\n    return lambda x: {'y': x + by}\n"
    )
    np.save(tmp_path / "by.npy", np.float32(2))
    arguments: dict[str, Any] = {
        "model_name": "adder",
        "entrypoint_package": "adder",
        "entrypoint": "main",
        "code_path_spec": [{"python_root": tmp_path, "dirs_to_package": ["adder.py"]}],
        "data_paths": [{"path": tmp_path / "by.npy", "packaged_name": "by.npy"}],
        "input_spec": [{"name": "x", "dtype": "float32", "shape": ("N",)}],
        "output_spec": [{"name": "y", "dtype": "float32", "shape": ("N",)}],
        "test_input_data": {"x": _X},
    }
    create_python_neuropod(neuropod_path=tmp_path / "adder.neuropod", **arguments, test_expected_out={"y": _X + 2})

    with load_neuropod(tmp_path / "adder.neuropod", trust="code", cache_dir=tmp_path / "cache") as model:
        assert model.test() == {"y": 0.0}
        assert model.description["entrypoint"] == "adder:main"

    with pytest.raises(PackagingError, match=r"outputs\.y"):
        create_python_neuropod(neuropod_path=tmp_path / "wrong.neuropod", **arguments, test_expected_out={"y": _X})
    assert not (tmp_path / "wrong.neuropod").exists()

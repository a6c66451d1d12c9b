"""Imports of a package's code, and what the application sees of them."""

from __future__ import annotations

import gc
import pickle
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropod_core import Executor, ModelLoadError

Load = Callable[..., Executor]

_X = np.zeros(2, np.float32)


def _source(text: str) -> str:
    return textwrap.dedent(text)


def _answer(executor: Executor) -> float:
    return float(executor.infer({"x": _X})["y"][0])


def _entry(expression: str, imports: str = "") -> str:
    lines = [
        imports,
        "import numpy as np",
        "def main(data_path):",
        f"    return lambda x: {{'y': x + np.float32({expression})}}",
    ]
    return "\n".join(lines)


def _other_finders() -> list[object]:
    return [finder for finder in sys.meta_path if type(finder).__module__ != "neuropod_python.code"]


@pytest.fixture(autouse=True)
def _unchanged_application() -> Iterator[None]:
    before = list(sys.path), _other_finders(), {name for name in sys.modules if "neuropod_code" not in name}

    yield

    gc.collect()
    assert sys.path == before[0]
    assert _other_finders() == before[1]
    mine = {"layers", "mymodel", "entry", "space", "helper", "jsonish"}
    assert not {name for name in set(sys.modules) - before[2] if name.partition(".")[0] in mine}


# -- who gets what


@pytest.mark.parametrize(
    "imports",
    [
        "from mymodel.layers import VALUE",
        "from mymodel import layers; VALUE = layers.VALUE",
        "import mymodel.layers; VALUE = mymodel.layers.VALUE",
        "import mymodel.layers as there; VALUE = there.VALUE",
        "from mymodel.layers import *",
        "from .layers import VALUE",
        "from . import layers; VALUE = layers.VALUE",
        "import importlib; VALUE = importlib.import_module('mymodel.layers').VALUE",
        "from importlib import import_module; VALUE = import_module('mymodel.layers').VALUE",
        "import importlib; VALUE = importlib.import_module('.layers', __package__).VALUE",
        "import importlib.util; VALUE = importlib.import_module('mymodel.layers').VALUE",
        "VALUE = __import__('mymodel.layers').layers.VALUE",
        "VALUE = __import__('mymodel.layers', fromlist=['VALUE']).VALUE",
        "names = {}; exec('from mymodel.layers import VALUE', names); VALUE = names['VALUE']",
    ],
)
@pytest.mark.parametrize("init", ["", None], ids=["package", "folder"])
def test_import_finds_the_own_module(load: Load, imports: str, init: str | None) -> None:
    def files(value: int) -> dict[str, str]:
        texts = {"mymodel/entry.py": _entry("VALUE", imports), "mymodel/layers.py": f"VALUE = {value}"}
        return texts if init is None else {"mymodel/__init__.py": init, **texts}

    models = [load(files(value), package="mymodel.entry") for value in (1, 2)]

    assert [_answer(model) for model in models] == [1, 2]


def test_import_prefers_the_package_to_the_environment(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "helper.py").write_text("VALUE = 99")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    import helper  # type: ignore[import-not-found]

    files = {"entry.py": _entry("VALUE", "from helper import VALUE"), "helper.py": "VALUE = 1"}

    assert _answer(load(files)) == 1
    assert sys.modules.pop("helper") is helper
    assert helper.VALUE == 99


def test_import_finds_the_environment_where_the_package_has_nothing(load: Load) -> None:
    imports = "import os.path\nimport json.decoder\nfrom collections import abc\nimport numpy.linalg"
    value = "len(os.path.basename('ab')) + bool(json.decoder.JSONDecoder) + bool(abc.Mapping) + bool(numpy.linalg.norm)"

    assert _answer(load({"entry.py": _entry(value, imports)})) == 5


def test_import_shadows_the_standard_library_for_the_package_alone(load: Load) -> None:
    import json

    files = {"entry.py": _entry("json.VALUE", "import json"), "json.py": "VALUE = 7"}

    assert _answer(load(files)) == 7
    assert sys.modules["json"] is json


def test_import_falls_back_to_the_environment_below_a_shared_name(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed" / "space" / "common").mkdir(parents=True)
    (tmp_path / "installed" / "space" / "common" / "__init__.py").write_text("VALUE = 10")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    imports = (
        "import space.common\nfrom space.own import mine\nfrom space import common\nfrom space.common import VALUE"
    )
    files = {"entry.py": _entry("mine.VALUE + VALUE + common.VALUE", imports), "space/own/mine.py": "VALUE = 1"}

    assert _answer(load(files)) == 21
    for name in [name for name in sys.modules if name.partition(".")[0] == "space"]:
        del sys.modules[name]


def test_lazy_imports_find_the_own_module_in_any_thread(load: Load) -> None:
    entry = """
        import numpy as np
        def main(data_path):
            def model(x):
                from mymodel.layers import VALUE
                import mymodel.other
                return {"y": x + np.float32(VALUE + mymodel.other.VALUE)}
            return model
        """

    def files(value: int) -> dict[str, str]:
        texts = {"mymodel/layers.py": f"VALUE = {value}", "mymodel/other.py": "from .layers import VALUE"}
        return {"mymodel/entry.py": _source(entry), **texts}

    models = [load(files(value), package="mymodel.entry") for value in range(4)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(_answer, models * 20))

    assert answers == [0, 2, 4, 6] * 20


def test_missing_modules_are_named(load: Load) -> None:
    with pytest.raises(
        ModelLoadError, match=r"importing entry raised ModuleNotFoundError: No module named 'mymodel'"
    ) as raised:
        load({"entry.py": "import mymodel.layers"})

    assert isinstance(raised.value.__cause__, ModuleNotFoundError)
    assert raised.value.at.endswith("code/entry.py:1")


@pytest.mark.parametrize("name", ["../entry", "/etc/passwd", "entry/../entry", "a b", ""])
def test_names_that_are_no_names_find_nothing(load: Load, name: str) -> None:
    files = {"entry.py": f"import importlib\nimportlib.import_module({name!r})\n"}

    with pytest.raises(ModelLoadError, match=r"ModuleNotFoundError|ValueError|TypeError"):
        load(files)


# -- pickles

_PICKLED = b"\x80\x03cmymodel.layers\nNet\nq\x00)\x81q\x01."
_NET = "class Net:\n    value = {value}\n"


@pytest.mark.parametrize(
    "read",
    [
        "import pickle; net = pickle.load(open(f'{path}/net.pkl', 'rb'))",
        "import pickle; net = pickle.loads(open(f'{path}/net.pkl', 'rb').read())",
        "import pickle; net = pickle.Unpickler(open(f'{path}/net.pkl', 'rb')).load()",
        "from pickle import Unpickler; net = Unpickler(open(f'{path}/net.pkl', 'rb')).load()",
        "import numpy; net = numpy.load(f'{path}/net.pkl', allow_pickle=True)",
    ],
    ids=["load", "loads", "Unpickler", "imported", "library"],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_pickles_find_the_own_class(load: Load, read: str) -> None:
    entry = (
        f"import numpy as np\ndef main(path):\n    {read}\n    return lambda x: {{'y': x + np.float32(net.value)}}\n"
    )
    models = [
        load(
            {"mymodel/entry.py": entry, "mymodel/layers.py": _NET.format(value=value)},
            package="mymodel.entry",
            data={"net.pkl": _PICKLED},
        )
        for value in (1, 2)
    ]

    assert [_answer(model) for model in models] == [1, 2]


def test_pickles_that_the_package_writes_can_be_read_by_it(load: Load) -> None:
    entry = _source("""
        import pickle
        from mymodel.layers import Net
        def main(path):
            def model(x):
                net = pickle.loads(pickle.dumps(Net()))
                assert type(net) is Net
                return {"y": x + type(x)(0) if False else x + net.value}
            return model
        """)
    files = {
        "mymodel/entry.py": entry,
        "mymodel/layers.py": "import numpy as np\nclass Net:\n    value = np.float32(3)\n",
    }

    assert _answer(load(files, package="mymodel.entry")) == 3


def test_guests_leave_when_the_package_is_loaded(load: Load) -> None:
    entry = "import io, joblib_like\ndef main(path):\n    return lambda x: {'y': x}\n"
    files = {
        "entry.py": entry,
        "joblib_like.py": "import pydoc\nassert pydoc.locate('helper.VALUE') == 1\n",
        "helper.py": "VALUE = 1",
    }

    load(files)

    assert "helper" not in sys.modules
    with pytest.raises(ImportError):
        pickle.loads(b"chelper\nVALUE\n.")


def test_a_package_that_loads_another_keeps_its_guests(load: Load) -> None:
    inner: list[Any] = []
    sys.modules["neuropod_test_hook"] = type(sys)("neuropod_test_hook")
    sys.modules["neuropod_test_hook"].__dict__["load_inner"] = lambda: inner.append(load(files(2, nested=False)))

    def files(value: int, *, nested: bool) -> dict[str, str]:
        located = "pydoc.locate('helper.VALUE')"
        inside = "import neuropod_test_hook; neuropod_test_hook.load_inner()" if nested else ""
        imports = f"import pydoc\nassert {located} == {value}\n{inside}\nassert {located} == {value}\n"
        return {"entry.py": _entry(str(value), imports), "helper.py": f"VALUE = {value}"}

    outer = load(files(1, nested=True))
    del sys.modules["neuropod_test_hook"]

    assert [_answer(outer), _answer(inner[0])] == [1, 2]


# -- files, sources, the end


def test_no_byte_code_is_written_or_read(load: Load, tmp_path: Path) -> None:
    load(
        {
            "mymodel/__init__.py": "",
            "mymodel/entry.py": _entry("1", "from mymodel import layers"),
            "mymodel/layers.py": "",
        },
        package="mymodel.entry",
    )

    assert not list(tmp_path.rglob("__pycache__"))


def test_sources_are_those_of_the_files(load: Load) -> None:
    entry = _source("""
        import dataclasses, inspect, typing
        import numpy as np

        @dataclasses.dataclass
        class Setting:
            value: "int" = 4

        def main(data_path):
            assert "def main(data_path)" in inspect.getsource(main)
            assert "class Setting" in inspect.getsource(Setting)
            assert typing.get_type_hints(Setting) == {"value": int}
            return lambda x: {"y": x + np.float32(Setting().value)}
        """)

    assert _answer(load({"entry.py": entry})) == 4


def test_close_frees_the_modules(load: Load) -> None:
    executor = load(
        {"mymodel/entry.py": _entry("VALUE", "from mymodel.layers import VALUE"), "mymodel/layers.py": "VALUE = 1"},
        package="mymodel.entry",
    )
    names = [name for name in sys.modules if name.startswith("neuropod_code_")]
    modules = [weakref.ref(sys.modules[name]) for name in names]
    assert len(modules) == 4

    executor.close()
    gc.collect()

    assert not [name for name in names if name in sys.modules]
    assert not [ref for ref in modules if ref() is not None]


def test_a_failed_load_leaves_nothing(load: Load) -> None:
    before = [name for name in sys.modules if name.startswith("neuropod_code_")]
    with pytest.raises(ModelLoadError):
        load({"entry.py": "import mymodel", "mymodel/__init__.py": "1 / 0"})

    assert [name for name in sys.modules if name.startswith("neuropod_code_")] == before


def test_builtins_still_work_when_the_model_is_closed(load: Load) -> None:
    kept: list[Any] = []
    sys.modules["neuropod_test_hook"] = type(sys)("neuropod_test_hook")
    sys.modules["neuropod_test_hook"].__dict__["kept"] = kept
    entry = """
import neuropod_test_hook
def main(path):
    neuropod_test_hook.kept.append(lambda: len(str(print)))
    return lambda x: {"y": x}
"""
    load({"entry.py": entry}).close()
    del sys.modules["neuropod_test_hook"]

    assert kept[0]() > 0


def test_packages_load_side_by_side_in_many_threads(load: Load) -> None:
    located = "import pydoc\nassert pydoc.locate('helper.VALUE') == {0}\nfrom helper import VALUE\n"

    def answer(value: int) -> float:
        files = {"entry.py": _entry("VALUE", located.format(value)), "helper.py": f"VALUE = {value}"}
        return _answer(load(files, name=f"threads{value}"))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, range(40))) == list(range(40))
    assert "helper" not in sys.modules


def test_a_package_may_load_others_of_equal_names_in_threads(load: Load) -> None:
    inner: list[float] = []
    located = "import pydoc\nassert pydoc.locate('helper.VALUE') == {0}\nfrom helper import VALUE\n"

    def files(value: int, more: str = "") -> dict[str, str]:
        return {"entry.py": _entry("VALUE", located.format(value) + more), "helper.py": f"VALUE = {value}"}

    def load_inner() -> None:
        with ThreadPoolExecutor(2) as pool:
            inner.extend(pool.map(lambda value: _answer(load(files(value), name=f"inner{value}")), (2, 3)))

    sys.modules["neuropod_test_hook"] = type(sys)("neuropod_test_hook")
    vars(sys.modules["neuropod_test_hook"])["load_inner"] = load_inner
    outer = load(files(1, "import neuropod_test_hook\nneuropod_test_hook.load_inner()\n" + located.format(1)))
    del sys.modules["neuropod_test_hook"]

    assert [_answer(outer), *inner] == [1, 2, 3]


def test_guests_are_hollow_for_other_threads(load: Load) -> None:
    seen: list[object] = []

    def look() -> None:
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(lambda: getattr(__import__("helper"), "VALUE", "nothing")).result())

    sys.modules["neuropod_test_hook"] = type(sys)("neuropod_test_hook")
    vars(sys.modules["neuropod_test_hook"])["look"] = look
    imports = "import pydoc\npydoc.locate('helper.VALUE')\nimport neuropod_test_hook\nneuropod_test_hook.look()\n"
    load({"entry.py": _entry("1", imports), "helper.py": "VALUE = 1"})
    del sys.modules["neuropod_test_hook"]

    assert seen == ["nothing"]


def test_libraries_find_the_files_of_the_package_while_it_is_loaded(load: Load) -> None:
    entry = """
import importlib.resources, pkgutil
import numpy as np
def main(path):
    word = importlib.resources.files("mymodel").joinpath("word.txt").read_text()
    assert pkgutil.get_data("mymodel", "word.txt").decode() == word
    return lambda x: {"y": x + np.float32(word)}
"""
    files = {"mymodel/__init__.py": "", "mymodel/entry.py": entry, "mymodel/word.txt": "6"}

    assert _answer(load(files, package="mymodel.entry")) == 6

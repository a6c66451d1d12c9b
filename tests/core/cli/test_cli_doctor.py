"""Plugins that are broken in every way that we know, installed beside one that is sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

COMMAND = [sys.executable, "-m", "neuropod_core.cli", "plugins"]
LIMIT, SLOW = 4.0, 0.5

SOUND = """
import json
import numpy as np
from neuropod_core import Backend, Descriptor, Executor, Trust, hookimpl

neuropod_contract = (1, 0)

class Same(Executor):
    def infer(self, inputs, outputs=None):
        return {"y": inputs["x"].copy()}
    def close(self):
        pass

class Made(Backend):
    def __init__(self, platform):
        packagers = {f"create_{platform}_neuropod": f"{__name__}:create"}
        self.descriptor = Descriptor(platform, Trust.DATA, packagers=packagers)
    def load(self, variant, options):
        return Same()

@hookimpl
def neuropod_backend(platform):
    return Made(platform)

def create(*, neuropod_path, problem):
    from neuropod_core.packaging import new_package
    with new_package("sound", neuropod_path=neuropod_path, model_name="m", problem=problem) as new:
        (new.folder / "data").mkdir()
"""


class Way(NamedTuple):
    """A way to be broken: the module, what doctor finds, and words that it says about it."""

    source: str
    check: str
    what: str
    remedy: str
    status: str = "broken"


def worse(old: str, new: str) -> str:
    assert old in SOUND
    return SOUND.replace(old, new, 1)


WAYS = {
    "syntax": Way("def broken(:\n", "broken", "raised SyntaxError", "--force-reinstall bad-syntax"),
    "dependency": Way(
        "import no_such_library\n", "broken", "No module named 'no_such_library'", "--force-reinstall bad-dependency"
    ),
    "signature": Way(
        worse("def neuropod_backend(platform):", "def neuropod_backend(platform, colour):"),
        "broken",
        "PluginValidationError",
        "tell its author",
    ),
    "contract": Way(
        worse("(1, 0)", "(9, 0)"),
        "contract",
        "it was written for contract 9.0, this core serves up to 1.1",
        "pip install --upgrade neuropod-core",
    ),
    "duplicate": Way(SOUND, "conflict", "2 plugins claim platform 'duplicate'", "--backend", "conflict"),
    "prints": Way("print('welcome!')\n" + SOUND, "prints", "prints 'welcome!'", "tell its author", "ok"),
    "exits": Way(
        "import sys; sys.exit(3)\n", "broken", "raised SystemExit: 3 (bad_exits.py, line 1)", "tell its author"
    ),
    "hangs": Way(
        "import threading\nthreading.Event().wait()\n",
        "broken",
        f"did not end within {LIMIT:g} s, it was at",
        "NEUROPOD_BLOCKED_PLUGINS=bad-hangs",
    ),
    "environment": Way(
        "import os, sys\nos.environ['OMP_NUM_THREADS'] = '64'\nsys.path.append('/nowhere')\n" + SOUND,
        "environment",
        "changes sys.path, the environment variable OMP_NUM_THREADS",
        "tell its author",
        "ok",
    ),
    "base": Way(
        "class Odd(BaseException): pass\nraise Odd('odd')\n",
        "broken",
        "raised Odd: odd (bad_base.py, line 2)",
        "tell its author",
    ),
    "unmarked": Way(worse("@hookimpl", ""), "broken", "neuropod_backend is not marked as a hook", "put @hookimpl"),
    "instance": Way(worse("return Made(platform)", "return Made"), "broken", "not a Backend", "give an instance of it"),
    "type": Way(worse("return Made(platform)", "return 3"), "broken", "gave 3 for 'type'", "tell its author"),
    "slow": Way(
        "import time\nend = time.perf_counter() + 0.6\nwhile time.perf_counter() < end: pass\n" + SOUND,
        "slow",
        f"more than {SLOW:g} s",
        "tell its author",
        "ok",
    ),
    # And some that are not so common.
    "ends": Way("import os; os._exit(7)\n", "broken", "ended the process with exit code 7", "NEUROPOD_BLOCKED_PLUGINS"),
    "crashes": Way(
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n",
        "broken",
        "crashed the process (SIGKILL)",
        "NEUROPOD_BLOCKED_PLUGINS",
    ),
    "threads": Way(
        "import threading\nthreading.Thread(target=threading.Event().wait).start()\n" + SOUND,
        "environment",
        "changes the running threads",
        "tell its author",
        "ok",
    ),
    "interrupts": Way("raise KeyboardInterrupt\n", "broken", "raised KeyboardInterrupt", "tell its author"),
    "describes": Way(
        worse("return Made(platform)", "made = Made(platform); vars(made.descriptor)['dtypes'] = 3; return made"),
        "broken",
        "describing it raised TypeError",
        "author",
    ),
    "listed": Way(
        worse("Trust.DATA, packagers", "Trust.DATA, options=['strict'], packagers"),
        "broken",
        "expected options of a descriptor as a dictionary, got ['strict'] (bad_listed.py, line 17)",
        "author",
    ),
    "attribute": Way(
        "def __getattr__(name): raise RuntimeError(name)\n",
        "broken",
        "reading its neuropod_contract",
        "tell its author",
    ),
    "uncontracted": Way(
        worse("neuropod_contract = (1, 0)", ""), "contract", "states no contract version", "put neuropod_contract = "
    ),
    "lost": Way(
        worse('f"{__name__}:create"', '"bad_lost.nothing:create"'),
        "packager",
        "packagers that are not there: create_lost_neuropod (bad_lost.nothing:create)",
        "tell its author",
        "ok",
    ),
    "bare": Way(
        worse('f"{__name__}:create"', "__name__"),
        "packager",
        "packagers that are not there: create_bare_neuropod (bad_bare)",
        "tell its author",
        "ok",
    ),
    "eager": Way(
        "import pytest\n" + worse("Trust.DATA, ", "Trust.DATA, ('pytest',), "),
        "eager",
        "imports its framework (",
        "tell its author",
        "ok",
    ),
    "unframed": Way(
        worse("Trust.DATA, ", "Trust.DATA, ('no-such-framework',), install='pip install it', "),
        "framework",
        "needs no-such-framework, which is not installed",
        "run: pip install it",
        "no-framework",
    ),
    "unranged": Way(
        worse("Trust.DATA, ", "Trust.DATA, ('pytest',), 'about 8', "),
        "framework",
        "its framework_versions 'about 8' is no range of versions",
        "write it as pip takes it: '>=2,<3'",
        "no-framework",
    ),
    "unfit": Way(
        worse("Trust.DATA, ", "Trust.DATA, ('pytest',), '<1', install='pip install it', "),
        "framework",
        "asks for pytest <1, installed is",
        "run: pip install it",
        "no-framework",
    ),
}

Install = Callable[..., None]


def install_in(
    site: Path, name: str, source: str, *, platform: str = "", group: str = "neuropod.backends", version: str = "1.2"
) -> None:
    """Install a distribution with one plugin, as pip would have."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    facts = site / f"{module}-{version}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (facts / "entry_points.txt").write_text(f"[{group}]\n{platform or name.removeprefix('bad-')} = {module}\n")


def seen_from(site: Path, cache: Path, **variables: str) -> dict[str, str]:
    """Give the environment of a process for which `site` is installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEUROPOD_")}
    return kept | {"PYTHONPATH": str(site), "NEUROPOD_CACHE_DIR": str(cache)} | variables


def said_by(environment: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run `neuropod plugins ... --json`; give its exit code and its document."""
    ran = subprocess.run([*COMMAND, *arguments, "--json"], capture_output=True, check=False, env=environment)
    return ran.returncode, json.loads(ran.stdout)


@pytest.fixture(scope="module")
def ruins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with every broken plugin, and the sound one."""
    site = tmp_path_factory.mktemp("ruins")
    for name, way in WAYS.items():
        install_in(site, f"bad-{name}", way.source)
    install_in(site, "other", SOUND, platform="duplicate")
    install_in(site, "sound", SOUND)
    install_in(site, "bad-observer", "raise SystemExit(1)\n", platform="watch", group="neuropod.observers")
    damaged = site / "damaged-1.0.dist-info"
    damaged.mkdir()
    (damaged / "METADATA").write_text("Metadata-Version: 2.1\nName: damaged\nVersion: 1.0\n")
    (damaged / "entry_points.txt").write_bytes(b"[neuropod.backends]\n\xff\xfe no equals sign\n")
    return site


@pytest.fixture(scope="module")
def diagnosis(ruins: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    environment = seen_from(ruins, tmp_path_factory.mktemp("cache"))
    return said_by(environment, "doctor", f"--limit={LIMIT}", f"--slow={SLOW}")


@pytest.mark.parametrize("name", WAYS)
def test_doctor_names_the_culprit_and_the_remedy(name: str, diagnosis: tuple[int, dict[str, Any]]) -> None:
    way = WAYS[name]

    found = [
        finding
        for finding in diagnosis[1]["findings"]
        if f"bad-{name}" in finding["subject"] and finding["check"] == way.check
    ]

    assert len(found) == 1
    assert way.what in found[0]["what"]
    assert way.remedy in found[0]["remedy"]
    assert not found[0]["note"]


def test_doctor_exits_with_1_and_accuses_nobody_else(diagnosis: tuple[int, dict[str, Any]]) -> None:
    code, document = diagnosis

    assert code == 1
    assert not [finding for finding in document["findings"] if finding["subject"] == "sound 1.2"]


def test_doctor_tells_the_line_where_a_plugin_hangs(diagnosis: tuple[int, dict[str, Any]]) -> None:
    (hanging,) = (finding for finding in diagnosis[1]["findings"] if "bad-hangs" in finding["subject"])

    assert 'bad_hangs.py", line 2 in <module>' in hanging["what"]


def test_doctor_names_a_broken_observer(diagnosis: tuple[int, dict[str, Any]]) -> None:
    (observer,) = (finding for finding in diagnosis[1]["findings"] if finding["check"] == "observer")

    assert observer["subject"] == "bad-observer 1.2"
    assert "raised SystemExit: 1" in observer["what"]


def test_doctor_names_a_damaged_distribution(diagnosis: tuple[int, dict[str, Any]]) -> None:
    (damaged,) = (finding for finding in diagnosis[1]["findings"] if finding["check"] == "damaged")

    assert damaged["subject"].endswith("damaged-1.0.dist-info")
    assert "entry points cannot be read" in damaged["what"]


def test_every_other_platform_works_beside_broken_plugins(ruins: Path, tmp_path: Path) -> None:
    program = """if True:
        import numpy as np
        from neuropod_core import Problem, load_neuropod
        from neuropod_core.packagers import create_sound_neuropod
        problem = Problem.of({"x": "float32[N]"}, {"y": "float32[N]"})
        create_sound_neuropod(neuropod_path="m.neuropod", problem=problem)
        with load_neuropod("m.neuropod") as model:
            print(model.infer({"x": np.arange(3, dtype=np.float32)})["y"].tolist())
    """

    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=seen_from(ruins, tmp_path / "cache"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.stdout == "[0.0, 1.0, 2.0]\n", ran.stderr


def test_list_shows_every_plugin_whatever_one_does(ruins: Path, tmp_path: Path) -> None:
    code, document = said_by(seen_from(ruins, tmp_path), "list", f"--limit={LIMIT}")

    statuses = {plugin["distribution"]: plugin["status"] for plugin in document["plugins"]}
    assert code == 0
    assert statuses["sound"] == "ok"
    assert {f"bad-{name}": way.status for name, way in WAYS.items()}.items() <= statuses.items()


def test_doctor_of_a_sound_plugin_finds_nothing(tmp_path: Path) -> None:
    install_in(tmp_path, "sound", SOUND)

    _, document = said_by(seen_from(tmp_path, tmp_path / "cache"), "doctor", "--slow=30")

    assert not [finding for finding in document["findings"] if "sound" in finding["subject"]]
    assert not [finding for finding in document["findings"] if finding["check"] in ("cache", "variable", "damaged")]


# -- around the plugins


@pytest.mark.parametrize(
    ("group", "meant"), [("neuropod.backend", "neuropod.backends"), ("neuropod_tests", "neuropod.tests")]
)
def test_doctor_finds_entry_points_that_nothing_reads(group: str, meant: str, tmp_path: Path) -> None:
    install_in(tmp_path, "stray", SOUND, group=group)

    code, document = said_by(seen_from(tmp_path, tmp_path / "cache"), "doctor")

    (found,) = [finding for finding in document["findings"] if finding["check"] == "group"]
    assert code == 1
    assert found["subject"] == "stray 1.2"
    assert found["what"] == f"it has entry points in the group {group!r}, which nothing reads"
    assert found["remedy"] == f"did you mean {meant}?"


def build_of(site: Path, name: str, *files: str) -> None:
    """Install a distribution that owns some files."""
    facts = site / f"{name.replace('-', '_')}-3.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.0\n")
    (facts / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file in files:  # From 3.12 on, Python lists those that are there only.
        (site / file).parent.mkdir(exist_ok=True)
        (site / file).touch()


@pytest.mark.parametrize(
    ("files", "rivals"),
    [
        (("frame/__init__.py", "frame/__init__.py"), ["frame-cpu and frame-gpu"]),
        (("frame/__init__.py", "frame_gpu/__init__.py"), []),
    ],
    ids=["same files", "apart"],
)
def test_doctor_finds_rival_builds_of_a_framework(files: tuple[str, str], rivals: list[str], tmp_path: Path) -> None:
    framework = "Trust.DATA, ('frame-cpu', 'frame-gpu'), install='pip install frame-cpu', "
    install_in(tmp_path, "framed", worse("Trust.DATA, ", framework))
    build_of(tmp_path, "frame-cpu", files[0])
    build_of(tmp_path, "frame-gpu", files[1])

    _, document = said_by(seen_from(tmp_path, tmp_path / "cache"), "doctor")

    found = [finding for finding in document["findings"] if finding["check"] == "rivals" and "frame" in str(finding)]
    assert [finding["subject"] for finding in found] == rivals
    assert all(
        finding["remedy"] == "run: pip uninstall frame-cpu frame-gpu, then: pip install frame-cpu" for finding in found
    )


def test_doctor_finds_a_plugin_that_is_installed_twice(tmp_path: Path) -> None:
    install_in(tmp_path, "twice", SOUND)
    older = tmp_path / "older"
    older.mkdir()
    install_in(older, "twice", SOUND, version="1.1")
    path = os.pathsep.join([str(tmp_path), str(older), str(older)])

    _, document = said_by(seen_from(tmp_path, tmp_path / "cache", PYTHONPATH=path), "doctor")

    (found,) = (finding for finding in document["findings"] if finding["subject"] == "twice")
    assert found["check"] == "duplicate"
    assert "installed 2 times, the first is used: 1.2 in" in found["what"]
    assert "pip uninstall twice" in found["remedy"]


@pytest.mark.parametrize(
    ("variables", "subject", "what", "remedy"),
    [
        ({"NEUROPOD_TRUST": "everything"}, "NEUROPOD_TRUST", "'everything' is no trust class", "use one of 'data'"),
        ({"NEUROPOD_BLOCKED_PLUGINS": "soud"}, "NEUROPOD_BLOCKED_PLUGINS", "names 'soud'", "did you mean sound?"),
        ({"NEUROPOD_CACHE": "/x"}, "NEUROPOD_CACHE", "nothing reads it", "did you mean NEUROPOD_CACHE_DIR?"),
        ({"NEUROPOD_CACHE_DIR": "/dev/null/cache"}, "/dev/null/cache/v1", "/dev/null is no folder", "make it writable"),
    ],
    ids=["trust", "blocked", "misspelt", "cache"],
)
def test_doctor_finds_wrong_settings(
    variables: dict[str, str], subject: str, what: str, remedy: str, tmp_path: Path
) -> None:
    install_in(tmp_path, "sound", SOUND)

    code, document = said_by(seen_from(tmp_path, tmp_path / "cache", **variables), "doctor")

    (found,) = (finding for finding in document["findings"] if finding["subject"] == subject)
    assert code == 1
    assert what in found["what"]
    assert remedy in found["remedy"]


def test_doctor_finds_a_cache_that_others_write_to(tmp_path: Path) -> None:
    (tmp_path / "cache" / "v1").mkdir(parents=True)
    (tmp_path / "cache" / "v1").chmod(0o777)

    code, document = said_by(seen_from(tmp_path, tmp_path / "cache"), "doctor")

    (found,) = (finding for finding in document["findings"] if finding["check"] == "cache")
    assert code == 1
    assert "others can write there" in found["what"]


def test_a_blocked_plugin_is_told_and_not_wrong_and_not_imported(tmp_path: Path) -> None:
    install_in(tmp_path, "barred", "raise AssertionError('imported')\n")
    environment = seen_from(tmp_path, tmp_path / "cache", NEUROPOD_BLOCKED_PLUGINS="barred")

    _, document = said_by(environment, "doctor")

    (found,) = (finding for finding in document["findings"] if "barred" in finding["subject"])
    assert (found["check"], found["note"]) == ("blocked", True)
    assert found["what"] == "it is blocked by the environment variable NEUROPOD_BLOCKED_PLUGINS"


# -- one plugin


def test_show_tells_all_about_one_plugin(tmp_path: Path) -> None:
    install_in(tmp_path, "sound", worse("Trust.DATA, ", "Trust.DATA, options={'turbo': 'makes it fast'}, "))

    code, document = said_by(seen_from(tmp_path, tmp_path / "cache"), "show", "Sound")

    (shown,) = document["plugins"]
    assert code == 0
    assert (shown["platform"], shown["version"], shown["contract"], shown["trust"]) == ("sound", "1.2", "1.0", "data")
    assert shown["options"] == {"turbo": "makes it fast"}
    assert shown["packagers"] == {"create_sound_neuropod": "sound:create"}
    assert "float32" in shown["dtypes"]
    assert shown["suite"] is None


def test_show_gives_one_fact_a_line(tmp_path: Path) -> None:
    install_in(tmp_path, "sound", SOUND)

    ran = subprocess.run(
        [*COMMAND, "show", "sound"], capture_output=True, check=True, env=seen_from(tmp_path, tmp_path / "cache")
    )

    assert b"distribution\tsound\t1.2\n" in ran.stdout
    assert b"contract\t1.0\tthis core serves 1.1\n" in ran.stdout


def test_show_of_nobody_names_who_is_there(tmp_path: Path) -> None:
    install_in(tmp_path, "sound", SOUND)

    code, document = said_by(seen_from(tmp_path, tmp_path / "cache"), "show", "nobody")

    assert code == 4
    assert "no installed plugin or platform is named 'nobody' (installed: " in document["error"]["message"]

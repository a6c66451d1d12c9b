"""Checks of what a backend says about itself, and whether it is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module, metadata
from inspect import signature
from pathlib import Path
from textwrap import dedent
from typing import Any

from neuropod_core import plugins
from neuropod_core.backend import Backend
from neuropod_core.model import Neuropod
from neuropod_core.test_data import TestData, encode
from neuropod_core.testing._suite import Subject, Suite
from neuropod_core.trust import Trust

_DESCRIBE = dedent("""
    import json, os, sys
    from neuropod_core import plugins
    modules, environment, path = set(sys.modules), dict(os.environ), list(sys.path)
    backend = plugins.backend_for(sys.argv[1], sys.argv[2])
    backend.descriptor, backend.framework_version()
    sys.stdout.flush()
    changed = sorted(name for name in {*environment, *os.environ} if environment.get(name) != os.environ.get(name))
    roots = sorted({name.partition(".")[0] for name in set(sys.modules) - modules})
    print("\\n" + json.dumps({"modules": roots, "changed": changed + ["sys.path"] * (path != sys.path)}))
""")

_LOAD = dedent("""
    import functools, json, os, pickle, sys
    from pathlib import Path
    from neuropod_core import load_neuropod
    from neuropod_core.test_data import decode
    package, arguments, given = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    inputs = decode(given.read_bytes(), str(given)).inputs
    watching, seen = [], set()

    def note(event):
        if watching:
            seen.add(event)

    def noting(name, original):
        @functools.wraps(original, updated=())
        def wrapper(*args, **kwargs):
            note(name)
            return original(*args, **kwargs)
        return wrapper

    pickle.load, pickle.loads = noting("pickle.load", pickle.load), noting("pickle.loads", pickle.loads)

    class Unpickler(pickle.Unpickler):
        def __init__(self, *args, **kwargs):
            note("pickle.Unpickler")
            super().__init__(*args, **kwargs)

    pickle.Unpickler = Unpickler
    cache = os.environ["NEUROPOD_CACHE_DIR"]
    noted = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class"}
    noted.add("marshal.loads")

    def of_package(file):
        return isinstance(file, str) and (file.startswith(cache) or file.startswith(package))

    def live():
        with load_neuropod(package, **arguments) as model:
            model.infer(inputs)

    def of_artefact(source):
        text = source.encode() if isinstance(source, str) else source
        return isinstance(text, bytes) and len(text.strip()) > 20 and text.strip() in content

    def audit(event, args):
        if event in noted:
            note(event)
        elif event == "exec" and of_package(getattr(args[0], "co_filename", "")):
            note("exec of code in the package")
        elif event == "compile" and of_artefact(args[0]):
            note("compile of text in the package")
        elif event == "ctypes.dlopen" and of_package(args[0]):
            note("ctypes.dlopen of a library in the package")

    live()
    content = b"\\0".join(path.read_bytes() for path in Path(cache).rglob("*") if path.is_file())
    sys.addaudithook(audit)
    watching.append(True)
    live()
    watching.clear()
    print("\\n" + json.dumps(sorted(seen)))
""")


class DescriptorTests(Suite):
    """A descriptor is plain data, and what it says is so."""

    def test_descriptor_names_what_exists(self, backend: Backend) -> None:
        descriptor = backend.descriptor

        assert descriptor.platform == self.platform
        assert descriptor.devices
        for name, target in descriptor.packagers.items():
            module, _, function = target.partition(":")
            assert callable(getattr(import_module(module), function)), name
        for target in descriptor.packs.values():
            name, _, keyword = target.partition(":")
            module, _, function = descriptor.packagers[name].partition(":")
            assert keyword in signature(getattr(import_module(module), function)).parameters, target
        assert all(descriptor.options.values())

    def test_descriptor_imports_no_framework(self, backend: Backend) -> None:
        said = self._child(_DESCRIBE, self.platform, self._claim().distribution)

        assert not set(said["modules"]) & _import_names(backend.descriptor.framework)

    def test_descriptor_changes_nothing(self) -> None:
        run = self._run(_DESCRIBE, self.platform, self._claim().distribution)

        assert json.loads(run.stdout.splitlines()[-1])["changed"] == []
        assert [line for line in run.stdout.splitlines()[:-1] if line] == []
        assert run.stderr == ""

    def test_loading_does_no_more_than_its_trust_class(
        self, backend: Backend, subject: Subject, tmp_path: Path
    ) -> None:
        if backend.descriptor.trust is Trust.CODE:
            return
        named = {"backend": self._claim().distribution}
        arguments = {"trust": backend.descriptor.trust.value, **named, **self.load_arguments}

        given = tmp_path / "inputs.safetensors"
        given.write_bytes(encode(TestData(subject.inputs, {})))

        assert self._child(_LOAD, str(subject.path), json.dumps(arguments), str(given)) == []

    def test_description_is_plain(self, model: Neuropod) -> None:
        assert json.loads(json.dumps(dict(model.description))) == dict(model.description)

    def _claim(self) -> plugins.Plugin:
        wanted = plugins.normalized(self.distribution)
        claims = [plugin for plugin in plugins.installed() if plugin.platform == self.platform]
        return next(claim for claim in claims if wanted in ("", plugins.normalized(claim.distribution)))

    def _child(self, program: str, *arguments: str) -> Any:
        run = self._run(program, *arguments)
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout.splitlines()[-1])

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))  # noqa: S603 - our own words


def _import_names(distributions: tuple[str, ...]) -> set[str]:
    """Name the modules of distributions, by their files: some list their dependencies' modules, too."""
    owners = metadata.packages_distributions()
    wanted = {plugins.normalized(distribution) for distribution in distributions}
    return {name for name, owned in owners.items() if wanted & set(map(plugins.normalized, owned))}

"""The chores of the project, one session each: `nox -l` lists them, `nox -s NAME` runs one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nox

ROOT = Path(__file__).parent
CORE = Path("neuropod_core")
PLUGINS = sorted(path.parent.relative_to(ROOT) for path in ROOT.glob("plugins/*/pyproject.toml"))
DISTRIBUTIONS = [CORE, *PLUGINS]
EXAMPLES = sorted(path.parent.relative_to(ROOT) for path in ROOT.glob("examples/*/pyproject.toml"))  # Never released.
ECHO = Path("examples/neuropod_echo")  # The plugin of the tutorial; the site's examples run on it.
PINS = Path("constraints") / f"py{sys.version_info.major}{sys.version_info.minor}.txt"
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")["dependency-groups"]
# Rivals that provide one module; ml_dtypes comes with the core's extra [bfloat16] for those who want it;
# uv builds environments where somebody installed it;
# TensorFlow brings keras, and neuropod-tf only bounds its release.
RIVALS = "onnxruntime-gpu=onnxruntime,tensorflow-cpu=tensorflow,xgboost-cpu=xgboost"
DEPTRY = [
    "--package-module-name-map",
    RIVALS,
    "--per-rule-ignores",
    "DEP001=ml_dtypes|uv,DEP003=ml_dtypes|uv,DEP002=keras",
    "--optional-dependencies-dev-groups",
    "test",
]

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"  # pip inside: uv takes the CUDA build of torch.
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "layers", "tests"]


def install(session: nox.Session, *requirements: str) -> None:
    """Install what the session needs, at the pinned releases."""
    session.install("--constraint", str(PINS), *requirements)


def with_extras(distribution: Path) -> str:
    """Name a distribution with everything that runs on a CPU."""
    metadata = nox.project.load_toml(ROOT / distribution / "pyproject.toml")["project"]
    extras = sorted(set(metadata.get("optional-dependencies", ())) - {"gpu", "test"})
    return f"./{distribution}" + (f"[{','.join(extras)}]" if extras else "")


# ----------------------------------------------------------------------------------------------------------- for users


@nox.session
def demo(session: nox.Session) -> None:
    """Train small classifiers, package them for four platforms, run them all and print one table."""
    install(session, *GROUPS["models"], *map(with_extras, DISTRIBUTIONS))
    session.run("python", "examples/digits", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Test each wheel in its worlds: `-- --strict` admits no gap, `-- ENVIRONMENT...` picks some."""
    install(session, *GROUPS["tests"])
    strict = "--strict" in session.posargs
    chosen = [name for name in session.posargs if name != "--strict"]
    for old in ROOT.glob("reports/*"):
        old.unlink()
    session.run(
        *("tox", "run-parallel", "--parallel", "2", "--parallel-no-spinner", "--result-json", "reports/tox.json"),
        *("--skip-missing-interpreters", "false" if strict else "true"),
        *(("-e", ",".join(chosen)) if chosen else ()),
        success_codes=range(256),  # The reports say more than one number.
    )
    session.run("python", ".ci/report.py", "reports", *(["--strict"] if strict else []))


# ------------------------------------------------------------------------------------------------------ for developers


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Install every distribution editable, with all frameworks and tools, into .venv."""
    python = ".venv/bin/python"
    wanted = [*map(with_extras, DISTRIBUTIONS), f"./{ECHO}"]
    editable = [argument for distribution in wanted for argument in ("--editable", distribution)]
    tools = [requirement for group in GROUPS.values() for requirement in group]
    session.run(sys.executable, "-m", "venv", ".venv")
    session.run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
    session.run(python, "-m", "pip", "install", "--constraint", str(PINS), *tools, *editable)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, spelling and metadata; `-- --fix` mends what can be mended."""
    install(session, *GROUPS["lint"])
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []))
    session.run("ruff", "format", *([] if fix else ["--diff"]))
    session.run("codespell")
    session.run("validate-pyproject", *(f"{folder}/pyproject.toml" for folder in (".", *DISTRIBUTIONS, *EXAMPLES)))
    for distribution in (*DISTRIBUTIONS, *EXAMPLES):
        with session.chdir(distribution):
            session.run("deptry", *DEPTRY, "src", silent=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check every annotation with mypy, strictly."""
    install(session, *GROUPS["types"], *GROUPS["test"], "./neuropod_core[bfloat16,cli,remote-files,testing]")
    session.run("mypy", *session.posargs)


@nox.session
def layers(session: nox.Session) -> None:
    """Check who may import whom."""
    install(session, *GROUPS["layers"])
    sources = ":".join(f"{distribution}/src" for distribution in DISTRIBUTIONS)
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": sources})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site, run the examples in the core's docstrings, follow the links of every Markdown file."""
    install(session, *GROUPS["docs"], *GROUPS["test"], with_extras(CORE))
    session.run("pytest", "--doctest-modules", "--pyargs", "neuropod_core")
    if broken := sorted(broken_links()):
        session.error("broken links:\n" + "\n".join(broken))
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


def broken_links() -> Iterator[str]:
    """Give each relative link of a tracked Markdown file that leads nowhere; other sites are not asked."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in listed.stdout.split():
        page = ROOT / name
        prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text())
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            file, _, _ = target.partition("#")
            if file and ":" not in file and not (page.parent / file).exists():
                yield f"{name}: {target}"


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what neuropod adds to each framework; what follows `--` goes to the benchmarks."""
    install(session, *GROUPS["models"], *GROUPS["peers"], *map(with_extras, DISTRIBUTIONS))
    session.run("python", "benchmarks", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Break workers ten thousand times under load; what follows `--` goes to the harness (`-- --help`)."""
    install(session, *GROUPS["test"], with_extras(CORE))
    (ROOT / "reports").mkdir(exist_ok=True)
    state = ("--state", "reports/faults.state.json", "--json", "reports/faults.json")
    session.run("python", "tests/faults", *(session.posargs or state))


@nox.session
def pins(session: nox.Session) -> None:
    """Write the constraint files anew from the ranges that the distributions and tools declare."""
    install(session, "uv")
    wanted = [
        *map(with_extras, (*DISTRIBUTIONS, *EXAMPLES)),
        *(line for group in GROUPS.values() for line in group),
        "nox",
        "uv",
    ]
    for path in sorted(ROOT.glob("constraints/py*.txt")):
        write_pins(session, wanted, path)


def write_pins(session: nox.Session, wanted: list[str], path: Path) -> None:
    """Resolve for one Python; the head of the file and torch's pin stay as they are."""
    lines = path.read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    torch = [line for line in lines if line.startswith("torch==")]
    resolved = session.run(
        *("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-emit-find-links"),
        *("--python-version", path.stem.replace("py3", "3."), "--constraint", scratch(session, "torch.in", torch)),
        scratch(session, "wanted.in", wanted),
        silent=True,
        env={"UV_PYTHON_DOWNLOADS": "never"},
    )
    foreign = re.compile(r"(nvidia-|cuda-|triton=|\./|.* @ )")  # See the head of the file.
    body = [line for line in str(resolved).splitlines() if not foreign.match(line)]
    path.write_text("\n".join([*head, *body]) + "\n")


def scratch(session: nox.Session, name: str, lines: list[str]) -> str:
    """Write lines to a file that pip or uv can read."""
    path = Path(session.create_tmp()) / name
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@nox.session
def support(session: nox.Session) -> None:
    """Write the support table of README.md from the reports of the last run of the tests, or from files after `--`."""
    reports = session.posargs or sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("reports/*-*.json"))
    if not reports:
        session.error("no reports; run: nox -s tests")
    session.run("python", ".ci/support.py", "README.md", *reports)


@nox.session
def zoo(session: nox.Session) -> None:
    """Run the model zoo in full, those that compile too, and write the table of docs/zoo.md from what it recorded."""
    install(session, *GROUPS["models"], *GROUPS["zoo"], *GROUPS["test"], *map(with_extras, DISTRIBUTIONS))
    rows = Path(session.create_tmp()) / "rows"
    shutil.rmtree(rows, ignore_errors=True)
    rows.mkdir()
    tests = [
        "tests/flow/zoo",
        *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("plugins/*/tests/test_zoo.py")),
    ]
    session.run("pytest", "-m", "not gpu", *tests, *session.posargs, env={"NEUROPOD_ZOO_REPORT": str(rows)})
    session.run("python", ".ci/zoo.py", "docs/zoo.md", str(rows))


# -------------------------------------------------------------------------------------------------------- for releases


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel of every distribution into dist/ and look inside the wheels."""
    install(session, *GROUPS["build"])
    for distribution in DISTRIBUTIONS:
        build_one(session, distribution)


def build_one(session: nox.Session, distribution: Path) -> None:
    """Build one distribution anew: the wheel comes from the sdist, so that both are whole."""
    for old in ROOT.glob(f"dist/{distribution.name}-*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", "dist", str(distribution))
    session.run("check-wheel-contents", *map(str, ROOT.glob(f"dist/{distribution.name}-*.whl")))


@nox.session
def changelog(session: nox.Session) -> None:
    """Show what each changelog would say if it were released now."""
    install(session, *GROUPS["changelog"])
    for distribution in DISTRIBUTIONS:
        session.run("towncrier", "build", "--draft", "--version", "next", "--dir", str(distribution))


@nox.session
def release(session: nox.Session) -> None:
    """Release one distribution: `-- torch 0.4.0` commits, tags and builds; pushing and uploading stay with you."""
    name, distribution, version = release_asked(session)
    tag = f"{name}-v{version}"
    install(session, *GROUPS["build"], *GROUPS["changelog"])
    metadata = distribution / "pyproject.toml"
    metadata.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', metadata.read_text(), count=1))
    session.run("towncrier", "build", "--yes", "--version", version, "--dir", str(distribution))
    session.run("git", "commit", "--all", "--message", f"release({name}): {version}", external=True)
    session.run("git", "tag", "--annotate", tag, "--message", f"{distribution.name} {version}", external=True)
    build_one(session, distribution)
    session.log(f"next: git push --follow-tags, then upload dist/{distribution.name}-{version}*")


def release_asked(session: nox.Session) -> tuple[str, Path, str]:
    """Read what to release, and refuse what would stop half-way."""
    names = {path.name.removeprefix("neuropod_"): path for path in DISTRIBUTIONS}
    name, version = (*session.posargs, "", "")[:2]
    if name not in names or not re.fullmatch(r"\d+\.\d+\.\d+", version):
        session.error(f"say what to release: nox -s release -- {'|'.join(names)} 0.4.0")
    if not list(ROOT.glob(f"{names[name]}/changes/*.md")):
        session.error(f"nothing to release: no fragment in {names[name]}/changes")
    if git(session, "tag", "--list", f"{name}-v{version}"):
        session.error(f"released before: there is a tag {name}-v{version}")
    if git(session, "status", "--porcelain"):
        session.error("the working tree has changes; commit or stash them")
    return name, names[name], version


def git(session: nox.Session, *arguments: str) -> str:
    """Ask git."""
    return str(session.run("git", *arguments, external=True, silent=True))

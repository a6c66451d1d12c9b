from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from errno import EACCES, ENOSYS, EOPNOTSUPP, EPERM, EXDEV
from pathlib import Path

import pytest

from neuropod_core import SandboxError, sandbox
from neuropod_core.sandbox import _seccomp
from neuropod_core.sandbox._system_calls import ABSENT, LAST, NUMBERS, REFUSED, UNASSIGNED
from neuropod_core.sandbox._variables import VARIABLES

BREAKOUTS = Path(__file__).parent / "caged" / "breakouts.py"
WAYS_OUT = sorted({*re.findall(r"(?m)^@way_out\ndef (\w+)\(", BREAKOUTS.read_text())} - {"make_an_old_call"})
HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
# What is possible outside on any machine; the rest may be barred there too, by the kernel or a container.
EVERYWHERE = {
    *("connect_by_tcp", "connect_to_an_abstract_socket", "connect_to_a_socket_file", "send_by_udp"),
    *(
        "write_a_new_file",
        "write_an_old_file",
        "write_by_a_symbolic_link",
        "remove_a_file",
        "change_a_mode",
        "read_a_file",
    ),
    *("signal_another", "signal_the_parent", "read_variables_of_another", "fork", "run_a_program"),
}

pytestmark = pytest.mark.skipif(not sandbox.available().complete, reason=f"{sandbox.available().missing}")


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the environment of a breakout: a folder to reach, sockets that listen, a process to disturb."""
    scratch, outside, lent = (tmp_path / name for name in ("scratch", "outside", "lent"))
    for folder in (scratch, outside, lent):
        folder.mkdir()
        (folder / "file").write_text("content")
    with ExitStack() as open_:
        victim = open_.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
        tcp = open_.enter_context(socket.create_server(("127.0.0.1", 0)))
        for address in (f"\0neuropod-{victim.pid}", str(outside / "socket")):
            listening = open_.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(address)
            listening.listen()
        open_.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(str(outside / "datagrams"))
        yield {
            **os.environ,
            "SCRATCH": str(scratch),
            "OUTSIDE": str(outside),
            "LENT": str(lent),
            "VICTIM": str(victim.pid),
            "PORT": str(tcp.getsockname()[1]),
            "ABSTRACT": f"neuropod-{victim.pid}",
        }


def attempt(mode: str, name: str, surroundings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BREAKOUTS, mode, name], check=False, env=surroundings, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", WAYS_OUT)
def test_way_out_is_open_outside_and_barred_inside(name: str, surroundings: dict[str, str]) -> None:
    caged = attempt("caged", name, surroundings)
    unchanged = sorted(path.name for path in Path(surroundings["OUTSIDE"]).iterdir())
    contents = {(Path(surroundings[folder]) / "file").read_text() for folder in ("OUTSIDE", "LENT")}
    free = attempt("free", name, surroundings)
    assert caged.stdout.splitlines()[-1] in {
        f"refused {code}" for code in (EPERM, EACCES, ENOSYS, EXDEV, EOPNOTSUPP)
    }, caged.stderr
    assert unchanged == ["datagrams", "file", "socket"]
    assert contents == {"content"}
    if name not in EVERYWHERE and free.stdout.startswith("refused"):
        if free.stdout.splitlines()[-1] != caged.stdout.splitlines()[-1]:
            return  # What lies there cannot do it, which is not what the caged one was told.
        pytest.skip(f"barred outside too: {free.stdout}")
    assert free.stdout.startswith("done"), free.stdout + free.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="written in the machine's code")
def test_call_of_the_32_bit_machine_ends_a_caged_process(surroundings: dict[str, str]) -> None:
    assert attempt("caged", "make_an_old_call", surroundings).returncode == -signal.SIGSYS


def test_there_are_ways_out() -> None:
    assert len(WAYS_OUT) > 60
    assert set(WAYS_OUT) > EVERYWHERE


def test_files_are_as_long_as_they_may_be(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from neuropod_core import sandbox\n"
        "sandbox.enforce(Path(sys.argv[1]), limits=sandbox.SandboxLimits(file_bytes=1000))\n"
        "print((Path(sys.argv[1]) / 'short').write_bytes(bytes(1000)))\n"
        "try: (Path(sys.argv[1]) / 'long').write_bytes(bytes(1001))\n"
        "except OSError as error: print(error.strerror)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, tmp_path], check=True, capture_output=True, text=True)

    assert ran.stdout.splitlines() == ["1000", "File too large"]


def caged_program(
    program: str, scratch: Path, *arguments: str, pass_fds: tuple[int, ...] = ()
) -> subprocess.Popen[str]:
    """Start a program that finds `scratch` and `enforced`, after the cage has closed around it."""
    scratch.mkdir(exist_ok=True)
    start = (
        "import sys, os; from pathlib import Path; from neuropod_core import sandbox; scratch = Path(sys.argv[1])\n"
        "enforced = sandbox.enforce(scratch, readable=[*sandbox.readable_for_python(), *map(Path, sys.argv[2:])])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start + program, scratch, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
        env=sandbox.clean_environment(os.environ, scratch),
    )


def in_a_cage(program: str, scratch: Path, *arguments: str, pass_fds: tuple[int, ...] = ()) -> str:
    """Run such a program to its end."""
    with caged_program(program, scratch, *arguments, pass_fds=pass_fds) as running:
        said, complained = running.communicate()
    assert running.returncode == 0, complained
    return said


def test_enforce_says_what_available_promised(tmp_path: Path) -> None:
    told = in_a_cage("print(*enforced, sep='\\n')", tmp_path / "scratch").splitlines()

    assert tuple(told[:-1]) == sandbox.available().enforced
    assert "reads below" in told[-1]


def test_threads_of_numpy_run_inside(tmp_path: Path) -> None:
    program = "import numpy as np; a = np.ones((600, 600)); print((a @ a).sum(), np.linalg.inv(np.eye(9)).sum())"

    assert in_a_cage(program, tmp_path / "scratch") == "216000000.0 9.0\n"


def test_scratch_can_be_used_as_any_folder(tmp_path: Path) -> None:
    program = (
        "import tempfile, shutil, mmap, numpy as np\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    np.save(folder + '/a.npy', np.arange(9)); print(np.load(folder + '/a.npy', mmap_mode='r+').sum())\n"
        "    os.rename(folder + '/a.npy', folder + '/b.npy'); os.mkdir(folder + '/c')\n"
        "    os.symlink('b.npy', folder + '/d')\n"
        "    with open(folder + '/d', 'r+b') as file: file.truncate(3)\n"
        "    print(os.path.getsize(folder + '/b.npy'), folder.startswith(str(scratch)))\n"
        "print(os.listdir(scratch))\n"
    )

    assert in_a_cage(program, tmp_path / "scratch") == "36\n3 True\n[]\n"


def test_memory_and_events_work_inside(tmp_path: Path) -> None:
    program = (
        "import mmap, select, threading, asyncio, fcntl, time\n"
        "memory = os.memfd_create('x', os.MFD_ALLOW_SEALING); os.posix_fallocate(memory, 0, 8192)\n"
        "fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)\n"
        "view = mmap.mmap(memory, 8192); view[:2] = b'hi'\n"
        "reader, writer = os.pipe()\n"
        "threading.Thread(target=os.write, args=(writer, b'x')).start()\n"
        "poll = select.epoll(); poll.register(reader); poll.poll(10)\n"
        "event = os.eventfd(0) if hasattr(os, 'eventfd') else None\n"
        "async def both(): return await asyncio.gather(asyncio.sleep(0, 1), asyncio.to_thread(len, 'ab'))\n"
        "print(view[:2], os.read(reader, 1), asyncio.run(both()), open('/dev/null', 'w').write('x'))\n"
    )

    assert in_a_cage(program, tmp_path / "scratch") == "b'hi' b'x' [1, 2] 1\n"


@pytest.mark.skipif(not os.access("/proc/sys/vm/drop_caches", os.W_OK), reason="asks the kernel to tidy up")
def test_what_may_be_read_stays_readable_when_memory_is_short(tmp_path: Path) -> None:
    program = (
        "print(flush=True); sys.stdin.readline()\n"
        "for name in ('cpuinfo', 'meminfo', 'self/maps', 'self/status', 'sys/kernel/osrelease'):\n"
        "    print(len(Path('/proc', name).read_text()) > 1)\n"
        "print(len(os.listdir('/proc/self/fd')) > 3, len(os.listdir('/sys/devices/system/cpu')) > 1)\n"
    )
    with caged_program(program, tmp_path / "scratch") as running:
        assert running.stdout is not None
        running.stdout.readline()
        Path("/proc/sys/vm/drop_caches").write_text("2")
        said, _ = running.communicate("\n")

    assert said.split() == ["True"] * 7


def test_descriptors_are_received_over_an_inherited_socket(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "secret").open("w+b") as file:
        file.write(b"handed over")
        file.flush()
        socket.send_fds(ours, [b"x"], [file.fileno()])
        program = (
            "import socket\n"
            f"inherited = socket.socket(fileno={theirs.fileno()})\n"
            "message, (given,), _, _ = socket.recv_fds(inherited, 1, 1)\n"
            "inherited.sendall(os.pread(given, 100, 0)); memory = os.memfd_create('y'); os.write(memory, b'back')\n"
            "socket.send_fds(inherited, [b'z'], [memory])\n"
        )
        in_a_cage(program, tmp_path / "scratch", pass_fds=(theirs.fileno(),))

        assert ours.recv(11) == b"handed over"
        _, (memory,), _, _ = socket.recv_fds(ours, 1, 1)
        assert os.pread(memory, 4, 0) == b"back"
        os.close(memory)


def test_caged_process_can_end_itself_by_any_signal(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    start = "import sys, os; from pathlib import Path; from neuropod_core import sandbox; "
    for death, ended in (("os.abort()", signal.SIGABRT), ("os.kill(os.getpid(), 9)", signal.SIGKILL)):
        program = f"{start}sandbox.enforce(Path(sys.argv[1])); {death}"
        ran = subprocess.run([sys.executable, "-c", program, tmp_path / "scratch"], check=False, stderr=subprocess.PIPE)

        assert ran.returncode == -ended


def test_files_can_be_read_anywhere_where_nothing_else_is_said(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "file").write_text("content")
    program = (
        "import sys; from pathlib import Path; from neuropod_core import sandbox\n"
        "print(sandbox.enforce(Path(sys.argv[1]) / 'scratch')[-1], (Path(sys.argv[1]) / 'file').read_text())"
    )
    ran = subprocess.run([sys.executable, "-c", program, tmp_path], check=True, capture_output=True, text=True)

    assert ran.stdout == "reads anywhere content\n"


def test_cage_closes_where_nothing_may_be_read(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from neuropod_core import sandbox\n"
        "print(sandbox.enforce(Path(sys.argv[1]), readable=[])[-1])\n"
        "try: open('/etc/passwd')\n"
        "except PermissionError: print('refused')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, tmp_path], check=True, capture_output=True, text=True)

    assert ran.stdout == "reads below 0 paths and its scratch folder only\nrefused\n"


def test_devices_that_are_named_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    program = (
        "import sys, os; from pathlib import Path; from neuropod_core import sandbox\n"
        "sandbox.enforce(Path(sys.argv[1]), devices=[Path('/dev/urandom')])\n"
        "print(os.write(os.open('/dev/urandom', os.O_RDWR), b'x'))\n"
        "try: os.open('/dev/random', os.O_RDWR)\n"
        "except PermissionError: print('refused')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "scratch"], check=True, capture_output=True, text=True
    )

    assert ran.stdout == "1\nrefused\n"


def test_limits_are_those_that_were_asked_for(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    program = (
        "import sys, resource; from pathlib import Path; from neuropod_core import sandbox\n"
        "limits = sandbox.SandboxLimits(open_files=32, address_space_bytes=1 << 32, file_bytes=1 << 20, tasks=50)\n"
        "sandbox.enforce(Path(sys.argv[1]), limits=limits)\n"
        "for name in ('NOFILE', 'AS', 'FSIZE', 'NPROC', 'CORE'):\n"
        "    print(*resource.getrlimit(getattr(resource, 'RLIMIT_' + name)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "scratch"], check=True, capture_output=True, text=True
    )

    assert ran.stdout.splitlines() == ["32 32", f"{1 << 32} {1 << 32}", f"{1 << 20} {1 << 20}", "50 50", "0 0"]


def test_enforce_refuses_a_process_of_several_threads(tmp_path: Path) -> None:
    program = (
        "import sys, threading; from pathlib import Path; from neuropod_core import sandbox, SandboxError\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "try: sandbox.enforce(Path(sys.argv[1]))\n"
        "except SandboxError as error: print(error)\n"
        "Path(sys.argv[1], 'file').write_text('still free')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, tmp_path], check=True, capture_output=True, text=True)

    assert "this process has 2; call it before NumPy" in ran.stdout
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (lambda path: {"scratch": path / "none"}, "none"),
        (lambda path: {"scratch": path, "readable": [path / "missing"]}, "missing"),
        (lambda path: {"scratch": path / "file"}, "is none"),
    ],
    ids=["no scratch", "nothing to read", "a file for scratch"],
)
def test_enforce_refuses_paths_that_are_not_there(
    arguments: Callable[[Path], dict[str, object]], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sandbox, "_check_one_thread", lambda: None)  # Paths come after; pytest has threads of its own.

    with pytest.raises(SandboxError, match=told):
        sandbox.enforce(**arguments(tmp_path))  # type: ignore[arg-type]  # as the parameters say


def test_environment_for_a_cage_holds_no_secret(tmp_path: Path) -> None:
    given = {"AWS_SECRET_ACCESS_KEY": "x", "PATH": "/bin", "OMP_NUM_THREADS": "2", "PYTHONPATH": "/x", "HOME": "/x"}

    assert sandbox.clean_environment(given, tmp_path) == {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "2",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("TF_TOKEN_app_terraform_io", "TF_VAR_db_password", "TF_CLI_CONFIG_FILE", "TF_CONFIG", "ORT_SECRET"),
        *(
            "TORCH_TOKEN",
            "OPENBLAS_TOKEN",
            "MKL_X",
            "OMP_X",
            "LC_SECRET",
            "NEUROPOD_X",
            "KMP_X",
            "tf_cpp_min_log_level",
        ),
    ],
)
def test_no_name_passes_for_its_beginning(name: str, tmp_path: Path) -> None:
    given = {name: "secret", "TF_DETERMINISTIC_OPS": "1", "LC_ALL": "C", "NEUROPOD_TRUST": "graph"}

    assert not {name, "secret"} & set(sum(sandbox.clean_environment(given, tmp_path).items(), ()))
    assert given.items() - sandbox.clean_environment(given, tmp_path).items() == {(name, "secret")}


def test_guide_lists_every_variable_that_passes() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guide" / "sandbox.md"
    (listed,) = re.findall(r'(?s)```text title="names"\n(.*?)```', guide.read_text("utf-8"))

    assert set(listed.split()) == VARIABLES


# ----------------------------------------------------------------------------------------------------------- the filter


def verdict(program: bytes, machine: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Run a filter as the kernel does; give what it returns."""
    packed = struct.pack("@IIQ6Q", number, machine, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    instructions = [struct.unpack_from("@HBBI", program, place) for place in range(0, len(program), 8)]
    place, value = 0, 0
    while True:
        code, yes, no, operand = instructions[place]
        place += 1
        if code == 0x20:
            (value,) = struct.unpack_from("@I", packed, operand)
        elif code == 0x54:
            value &= operand
        elif code == 0x05:
            place += operand
        elif code == 0x15:
            place += yes if value == operand else no
        elif code == 0x35:
            place += yes if value >= operand else no
        else:
            assert code == 0x06
            return int(operand)


ALLOW, REFUSE, ABSENCE, KILL = 0x7FFF0000, 0x50000 | EPERM, 0x50000 | ENOSYS, 0x80000000


@pytest.mark.parametrize("machine", sorted(NUMBERS))
def test_filter_judges_every_call_by_its_number(machine: str) -> None:
    program, audit = _seccomp.program(machine, 4242), _seccomp.MACHINES[machine]
    numbers = NUMBERS[machine]

    assert {verdict(program, audit, numbers[name]) for name in REFUSED & numbers.keys()} == {REFUSE}
    assert {verdict(program, audit, numbers[name]) for name in ABSENT & numbers.keys()} == {ABSENCE}
    assert {verdict(program, audit, LAST + 1), verdict(program, audit, 0x40000000)} == {ABSENCE}
    first, last = UNASSIGNED[machine]
    assert {verdict(program, audit, number) for number in range(first, last + 1)} == {ABSENCE}
    assert (verdict(program, audit, first - 2), verdict(program, audit, last + 1)) == (ALLOW, REFUSE)
    assert verdict(program, audit ^ 1, numbers["seccomp"]) == KILL
    assert len(program) // 8 <= 4096


@pytest.mark.parametrize("machine", sorted(NUMBERS))
@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("openat", (0, 0, 0), True),
        ("openat", (0, 0, os.O_WRONLY | os.O_TRUNC | os.O_CREAT), True),
        ("openat", (0, 0, os.O_RDWR | os.O_TRUNC), True),
        ("openat", (0, 0, os.O_TRUNC), False),
        ("openat", (0, 0, os.O_TRUNC | os.O_CREAT | 3), False),
        ("kill", (4242, 9), True),
        ("kill", (-1, 9), False),
        ("kill", (0, 9), False),
        ("tgkill", (4242, 1, 6), True),
        ("tgkill", (1, 1, 6), False),
        ("prlimit64", (0, 7), True),
        ("prlimit64", (4242, 7), True),
        ("prlimit64", (1, 7), False),
        ("sched_setaffinity", (0,), True),
        ("sched_setaffinity", (4242,), True),
        ("setpriority", (0, 0, 5), True),
        ("setpriority", (1, 0, 5), False),
        ("socketpair", (1, 1 | 0o2000000), True),
        ("socketpair", (1, 5), True),
        ("socketpair", (1, 2), False),
        ("socketpair", (30, 1), False),
        ("sendto", (3, 0, 0, 0, 0), True),
        ("sendto", (3, 0, 0, 0, 1), False),
        ("sendto", (3, 0, 0, 0, 1 << 32), False),
        ("clone", (0x3D0F00,), True),
        ("clone", (0x1200011,), False),
        ("clone", (0x3D0F00 | 0x10000000,), False),
        ("fcntl", (3, 1033), True),
        ("fcntl", (3, 8), False),
        ("fcntl", (3, 10), False),
        ("fcntl", (3, 15), False),
        ("fcntl", (3, 1024), False),
        ("fcntl", (3, 1026), False),
        ("fcntl", (3, 2000), False),
        ("ioctl", (3, 0x5401), True),
        ("ioctl", (3, 0x541B), True),
        ("ioctl", (3, 0x5421), True),
        ("ioctl", (3, 0x40086602), False),
        ("ioctl", (3, 0xC0045877), False),
        ("ioctl", (3, 0xC020462A), False),
        ("ioctl", (3, 0x5412), False),
        ("ioctl", (3, 1 << 32 | 0x5412), False),
    ],
)
def test_filter_judges_by_arguments(machine: str, name: str, arguments: tuple[int, ...], allowed: bool) -> None:
    unsigned = tuple(value & (1 << 64) - 1 for value in arguments)
    program = _seccomp.program(machine, 4242)

    given = verdict(program, _seccomp.MACHINES[machine], NUMBERS[machine][name], unsigned)
    assert given == (ALLOW if allowed else REFUSE)


@pytest.mark.parametrize("machine", sorted(NUMBERS))
@pytest.mark.parametrize(
    ("command", "given"),
    [
        (0x5401, ALLOW),
        (0xC020462A, ALLOW),  # One of NVIDIA's.
        (0x30000001, ALLOW),
        (0x5412, REFUSE),
        (0x40086602, REFUSE),
        (0x40046602, REFUSE),
        (0x401C5820, REFUSE),
        (0x40087602, REFUSE),
        (0x40806685, REFUSE),
        (0xC0045877, REFUSE),
        (0x40047211, REFUSE),
        (0xC0189436, REFUSE),
        (0x8912, REFUSE),
        (0x40049409, 0x50000 | EOPNOTSUPP),
    ],
)
def test_devices_take_commands_and_file_systems_do_not(machine: str, command: int, given: int) -> None:
    program = _seccomp.program(machine, 4242, devices=True)

    assert verdict(program, _seccomp.MACHINES[machine], NUMBERS[machine]["ioctl"], (3, command)) == given


def test_filter_ignores_what_pins_other_threads() -> None:
    program = _seccomp.program("x86_64", 4242)

    assert verdict(program, _seccomp.MACHINES["x86_64"], NUMBERS["x86_64"]["sched_setaffinity"], (1,)) == 0x50000


@pytest.mark.skipif(not HEADER.exists(), reason="no headers of the kernel")
def test_numbers_are_those_of_the_kernel() -> None:
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())}

    assert {name: numbers[name] for name in NUMBERS["x86_64"]} == NUMBERS["x86_64"]
    first, last = UNASSIGNED["x86_64"]
    assert {first - 1, last + 1} <= set(numbers.values())

"""Ways out of a cage, each as a function that raises OSError where it is barred; run as a program, in a child.

``breakouts.py free|caged NAME`` prints ``done``, or ``refused`` and the number of the error. What a way out needs is
in the environment: ``SCRATCH`` (inside), ``OUTSIDE`` (a folder with a file), ``LENT`` (another, which may be read),
``VICTIM`` (a process), ``PORT``, ``ABSTRACT`` (names of listening sockets).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from neuropod_core import sandbox

SCRATCH, OUTSIDE = Path(os.environ["SCRATCH"]), Path(os.environ["OUTSIDE"])
VICTIM = int(os.environ["VICTIM"])
FILE = OUTSIDE / "file"
LENT = Path(os.environ["LENT"]) / "file"
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

WAYS_OUT: dict[str, Callable[[], object]] = {}


def way_out(function: Callable[[], object]) -> Callable[[], object]:
    WAYS_OUT[function.__name__] = function
    return function


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def system_call(x86: int, arm: int, *arguments: object) -> int:
    """Make a system call by its number on this machine; integers are passed as 64 bits."""
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return checked(LIBC.syscall(ctypes.c_long(x86 if os.uname().machine == "x86_64" else arm), *passed))


def raise_to(limit: int, value: int) -> None:
    try:
        resource.setrlimit(limit, (value, value))
    except ValueError as error:  # What Python makes of EPERM.
        raise PermissionError(1, str(error)) from error


# ---------------------------------------------------------------------------------------------------------- the network


@way_out
def connect_by_tcp() -> object:
    return socket.create_connection(("127.0.0.1", int(os.environ["PORT"])))


@way_out
def connect_to_an_abstract_socket() -> None:
    socket.socket(socket.AF_UNIX).connect("\0" + os.environ["ABSTRACT"])


@way_out
def connect_to_a_socket_file() -> None:
    socket.socket(socket.AF_UNIX).connect(str(OUTSIDE / "socket"))


@way_out
def send_by_udp() -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", int(os.environ["PORT"])))


@way_out
def ask_netlink() -> object:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)


@way_out
def send_from_a_pair_of_datagram_sockets() -> object:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.sendmsg([b"x"], [], 0, str(OUTSIDE / "datagrams"))


@way_out
def listen_on_what_was_connected() -> None:
    one, _ = socket.socketpair()
    one.bind(str(SCRATCH / "door"))


# ---------------------------------------------------------------------------------------------------------------- files


@way_out
def write_a_new_file() -> object:
    return (OUTSIDE / "new").write_text("x")


@way_out
def write_in_the_folder_for_temporary_files() -> None:
    path = Path("/tmp") / f"neuropod-breakout-{os.getpid()}"  # noqa: S108 - that it cannot be written is the test
    path.write_text("x")
    path.unlink()


@way_out
def write_an_old_file() -> object:
    return FILE.open("r+").write("x")


@way_out
def write_from_a_thread() -> object:
    raised: list[OSError] = []

    def write() -> None:
        try:
            FILE.open("a").write("x")
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return None


@way_out
def write_by_dots() -> object:
    os.chdir(SCRATCH)
    return Path(os.path.relpath(FILE, SCRATCH)).open("a").write("x")


@way_out
def write_by_the_root_of_the_process() -> object:
    return Path(f"/proc/self/root{FILE}").open("a").write("x")


@way_out
def write_by_the_root_of_another() -> object:
    return Path(f"/proc/{VICTIM}/root{FILE}").open("a").write("x")


@way_out
def write_by_a_symbolic_link() -> object:
    link = SCRATCH / f"link-{caged}"
    link.symlink_to(FILE)
    return link.open("a").write("x")


@way_out
def write_by_a_link_to_the_folder() -> object:
    link = SCRATCH / f"folder-{caged}"
    link.symlink_to(OUTSIDE)
    return (link / "new").write_text("x")


@way_out
def write_by_a_hard_link() -> object:
    os.link(FILE, SCRATCH / "hard")
    return (SCRATCH / "hard").open("a").write("x")


@way_out
def write_what_was_opened_for_reading() -> object:
    descriptor = os.open(LENT, os.O_RDONLY)
    return Path(f"/proc/self/fd/{descriptor}").open("a").write("x")


@way_out
def take_a_file_in() -> object:
    return FILE.rename(SCRATCH / "moved")


@way_out
def put_a_file_out() -> object:
    (SCRATCH / "inner").write_text("x")
    return (SCRATCH / "inner").rename(OUTSIDE / "inner")


@way_out
def remove_a_file() -> None:
    FILE.unlink()


@way_out
def make_a_folder() -> None:
    (OUTSIDE / "new").mkdir()


@way_out
def make_a_link() -> None:
    (OUTSIDE / "new").symlink_to("/")


@way_out
def cut_a_file_by_name() -> None:
    os.truncate(FILE, 0)


@way_out
def cut_a_file_that_is_opened_for_reading() -> object:
    return os.open(LENT, os.O_RDONLY | os.O_TRUNC)


@way_out
def cut_a_file_that_is_opened_for_nothing() -> object:
    return os.open(LENT, 3 | os.O_TRUNC)


@way_out
def change_a_mode() -> None:
    FILE.chmod(0o777)


@way_out
def change_a_mode_by_descriptor() -> None:
    os.fchmod(os.open(LENT, os.O_RDONLY), 0o777)


@way_out
def change_an_owner() -> None:
    os.chown(FILE, os.getuid(), os.getgid())


@way_out
def change_a_time() -> None:
    os.utime(FILE, (0, 0))


@way_out
def change_an_attribute() -> None:
    os.setxattr(FILE, "user.x", b"x")


def flags_of_a_file(number: int) -> object:
    descriptor = os.open(LENT, os.O_RDONLY)
    flags = fcntl.ioctl(descriptor, 0x80086601, bytes(8)) if caged == "free" else bytes(8)
    return fcntl.ioctl(descriptor, number, flags)


@way_out
def change_flags_of_a_file() -> object:
    return flags_of_a_file(0x40086602)


@way_out
def change_flags_of_a_file_as_32_bit_machines_do() -> object:
    return flags_of_a_file(0x40046602)


@way_out
def change_flags_of_a_file_as_xfs_does() -> object:
    descriptor = os.open(LENT, os.O_RDONLY)
    flags = fcntl.ioctl(descriptor, 0x801C581F, bytes(28)) if caged == "free" else bytes(28)
    return fcntl.ioctl(descriptor, 0x401C5820, flags)


@way_out
def change_the_version_of_a_file() -> object:
    return fcntl.ioctl(os.open(LENT, os.O_RDONLY), 0x40087602, bytes(8))


@way_out
def seal_a_file_by_verity() -> object:
    arguments = bytearray(128)
    arguments[0:12] = bytes([1, 0, 0, 0, 1, 0, 0, 0, 0, 16, 0, 0])
    return fcntl.ioctl(os.open(LENT, os.O_RDONLY), 0x40806685, bytes(arguments))


@way_out
def share_blocks_of_a_file() -> object:
    return fcntl.ioctl(os.open(LENT, os.O_RDONLY), 0xC0189436, bytes(24))  # FIDEDUPERANGE


@way_out
def ask_for_network_devices() -> object:
    one, _ = socket.socketpair()
    return fcntl.ioctl(one, 0x8912, bytes(16))  # SIOCGIFCONF


@way_out
def read_attributes_of_any_file() -> object:
    return os.listxattr(FILE)


@way_out
def lease_a_file() -> object:
    return fcntl.fcntl(os.open(LENT, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)


@way_out
def be_told_of_a_folder() -> object:
    return fcntl.fcntl(os.open(LENT.parent, os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_CREATE)


@way_out
def watch_a_folder() -> object:
    watching = system_call(294, 26, 0)
    return checked(LIBC.inotify_add_watch(watching, os.fsencode(OUTSIDE), 0x100))


@way_out
def watch_a_folder_in_the_old_way() -> object:
    watching = system_call(253, 26, 0)
    return checked(LIBC.inotify_add_watch(watching, os.fsencode(OUTSIDE), 0x100))


@way_out
def watch_a_file_system() -> object:
    return system_call(300, 262, 0x200, 0)  # FAN_REPORT_FID


@way_out
def read_a_file() -> object:
    return FILE.read_text()


@way_out
def read_connections_of_the_host() -> object:
    return Path("/proc/self/net/tcp").read_text()


@way_out
def read_sockets_of_the_host() -> object:
    return Path("/proc/net/unix").read_text()


@way_out
def read_routes_by_a_thread() -> object:
    return Path(f"/proc/self/task/{threading.get_native_id()}/net/route").read_text()


@way_out
def read_connections_by_the_process() -> object:
    return Path(f"/proc/{os.getpid()}/net/tcp").read_text()


@way_out
def read_mounts() -> object:
    return Path("/proc/self/mounts").read_text()


@way_out
def read_what_is_mounted_by_a_thread() -> object:
    return Path("/proc/thread-self/mountinfo").read_text()


@way_out
def list_network_devices() -> object:
    return list(Path("/sys/class/net").iterdir())


@way_out
def read_an_address_of_a_network_device() -> object:
    return Path("/sys/devices/virtual/net/lo/address").read_text()


@way_out
def list_a_folder() -> object:
    return list(OUTSIDE.iterdir())


@way_out
def make_a_named_segment() -> None:
    path = Path(f"/dev/shm/neuropod-breakout-{os.getpid()}")  # noqa: S108 - as above
    path.write_bytes(b"x")
    path.unlink()


@way_out
def open_a_file_by_handle() -> object:
    handle = (ctypes.c_uint8 * 136)()
    ctypes.cast(handle, ctypes.POINTER(ctypes.c_uint32))[0] = 128
    mount = ctypes.c_int()
    system_call(303, 264, -100, os.fsencode(FILE), handle, ctypes.byref(mount), 0)
    return system_call(304, 265, os.open("/", os.O_RDONLY), handle, os.O_WRONLY)


# ------------------------------------------------------------------------------------------------------ other processes


@way_out
def signal_another() -> None:
    os.kill(VICTIM, signal.SIGCONT)


@way_out
def signal_the_parent() -> None:
    os.kill(os.getppid(), 0)


@way_out
def signal_the_group() -> None:
    os.kill(0, 0)


@way_out
def signal_by_descriptor() -> None:
    signal.pidfd_send_signal(os.pidfd_open(VICTIM), signal.SIGCONT)


@way_out
def signal_by_the_end_of_a_pipe() -> object:
    reader, _ = os.pipe()
    return fcntl.fcntl(reader, fcntl.F_SETOWN, VICTIM)


@way_out
def signal_a_thread_of_another() -> object:
    return system_call(200, 130, VICTIM, int(signal.SIGCONT))


@way_out
def trace_another() -> object:
    return system_call(101, 117, 0x4206, VICTIM, 0, 0)  # PTRACE_SEIZE


@way_out
def read_memory_of_another() -> object:
    return os.open(f"/proc/{VICTIM}/mem", os.O_RDONLY)


@way_out
def read_variables_of_another() -> object:
    return Path(f"/proc/{VICTIM}/environ").read_bytes()


@way_out
def copy_memory_of_another() -> object:
    address = int(Path(f"/proc/{VICTIM}/maps").read_text().partition("-")[0], 16) if caged == "free" else 0
    into = ctypes.create_string_buffer(8)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(into), 8)
    remote = (ctypes.c_size_t * 2)(address, 8)
    return system_call(310, 270, VICTIM, local, 1, remote, 1, 0)


@way_out
def take_a_descriptor_of_another() -> object:
    return system_call(438, 438, os.pidfd_open(VICTIM), 0, 0)


@way_out
def slow_another_down() -> None:
    os.setpriority(os.PRIO_PROCESS, VICTIM, 5)


@way_out
def move_another_to_a_cpu() -> None:
    before = os.sched_getaffinity(VICTIM)
    os.sched_setaffinity(VICTIM, {min(before)})
    if os.sched_getaffinity(VICTIM) == before:  # A cage lets the call pass and does nothing.
        raise PermissionError(1, "ignored")


@way_out
def limit_another() -> object:
    return resource.prlimit(VICTIM, resource.RLIMIT_CORE, (0, 0))


# -------------------------------------------------------------------------------------------------- processes, programs


@way_out
def fork() -> object:
    child = os.fork()
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)


@way_out
def run_a_program() -> object:
    return subprocess.run(["/bin/true"], check=True)


@way_out
def spawn_a_program() -> object:
    return os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


@way_out
def become_a_setuid_program() -> object:
    print("done", flush=True)  # noqa: T201 - nobody else will
    sys.stdout.flush()
    return os.execv("/bin/su", ["su", "--version"])  # noqa: S606 - no shell is the point


@way_out
def become_a_program_in_memory() -> object:
    descriptor = os.memfd_create("program")
    os.write(descriptor, Path("/bin/true").read_bytes())
    print("done", flush=True)  # noqa: T201 - as above
    return os.execve(descriptor, ["true"], {})  # noqa: S606 - as above


# ---------------------------------------------------------------------------------------------------- rights and kernel


@way_out
def raise_a_limit() -> None:
    raise_to(resource.RLIMIT_NOFILE, 8192)  # A cage has 4096.


@way_out
def leave_a_core_file() -> None:
    raise_to(resource.RLIMIT_CORE, 1 << 20)


@way_out
def become_somebody_else() -> None:
    os.setgroups(os.getgroups())


@way_out
def outlive_the_parent() -> None:
    checked(LIBC.prctl(1, 0))


@way_out
def mount() -> object:
    checked(LIBC.mount(b"none", bytes(OUTSIDE), b"tmpfs", 0, None))
    return checked(LIBC.umount(bytes(OUTSIDE)))


@way_out
def change_the_root() -> None:
    os.chroot(OUTSIDE)


@way_out
def enter_a_user_namespace() -> object:
    return checked(LIBC.unshare(0x10000000))


@way_out
def enter_a_network_namespace() -> object:
    return checked(LIBC.unshare(0x40000000))


@way_out
def clone_into_a_user_namespace() -> object:
    pid = system_call(56, 220, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)


@way_out
def set_up_io_uring() -> object:
    return system_call(425, 425, 4, (ctypes.c_uint8 * 120)())


@way_out
def load_a_bpf_map() -> object:
    attributes = (ctypes.c_uint32 * 32)(2, 4, 4, 1)  # An array of one entry.
    return system_call(321, 280, 0, attributes, 128)


@way_out
def add_a_key() -> object:
    return system_call(248, 217, b"user", b"neuropod-breakout", b"x", 1, -1)  # To the thread's own keyring.


@way_out
def catch_page_faults() -> object:
    return system_call(323, 282, 1)


@way_out
def watch_the_cpu() -> object:
    attributes = (ctypes.c_uint32 * 32)(1, 128)  # A software clock.
    return system_call(298, 241, attributes, 0, -1, -1, 0)


@way_out
def make_a_system_v_segment() -> object:
    segment = system_call(29, 194, 0, 4096, 0o600)
    return system_call(31, 195, segment, 0, 0)


@way_out
def make_a_message_queue() -> object:
    name = f"neuropod-breakout-{os.getpid()}".encode()
    system_call(240, 180, name, os.O_CREAT | os.O_RDWR, 0o600, 0)
    return system_call(241, 181, name)


@way_out
def make_a_device() -> None:
    os.mknod(SCRATCH / "zero", 0o20666, os.makedev(1, 5))


@way_out
def give_a_terminal_input() -> object:
    _, slave = os.openpty()
    return fcntl.ioctl(slave, 0x5412, b"x")


@way_out
def call_what_came_later() -> object:
    return system_call(451, 451, os.open("/", os.O_RDONLY), (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 5)(), 0)


@way_out
def make_an_old_call() -> object:
    """Ask for the process by int 0x80: a caged process is ended."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


if __name__ == "__main__":
    caged, name = sys.argv[1:]
    if caged == "caged":
        sandbox.enforce(SCRATCH, readable=sandbox.readable_for_python(LENT.parent))
    try:
        WAYS_OUT[name]()
    except OSError as refusal:
        print("refused", refusal.errno, flush=True)  # noqa: T201 - what its caller reads
    else:
        print("done", flush=True)  # noqa: T201 - what its caller reads
    os._exit(0)

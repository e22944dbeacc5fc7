"""Runs one Python program inside limits that the kernel keeps. Started by `sandbox.run_python` as a script of its own.

Usage: python -I -S jail.py SECONDS MEMORY_BYTES FILE_BYTES FOLDER_BYTES WALLS BEGUN PROGRAM; the working folder is the only
one that can be written. FOLDER_BYTES: how much it holds, as a file system of its own in memory (0: this process has no mount
namespace to make one in). WALLS: those that must stand ("files,calls"). BEGUN: a pipe that hears a byte when all stands, and
only then. It takes, in order: that folder; resource limits; Landlock (files outside the working folder and Python's own,
TCP, signals to others); seccomp (no new process or program, no socket to a network, no tracing, no mounting, ...). Then it
runs the program in this same process, which cannot take any of it back. It imports nothing but the standard library.

Constants and layouts: Linux' include/uapi/linux/{landlock,seccomp,filter,audit,prctl}.h.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
import sysconfig
from pathlib import Path

_READ = ("/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/dev/urandom", "/dev/null")
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WITHIN = sum(1 << bit for bit in (1, 2, 3, 4, 5, 7, 8, 14))
"""In the working folder: write, read, list, remove, make folders and plain files, truncate; nothing can be executed."""

# Forbidden whatever the arguments. Rows: x86_64, aarch64 (None: the call does not exist there).
_FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kill": (62, 129),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "io_uring_setup": (425, 425), "bpf": (321, 280),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "mount": (165, 40), "umount2": (166, 39),
    "unshare": (272, 97), "setns": (308, 268), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "chroot": (161, 51), "pivot_root": (155, 41), "setsid": (112, 157), "setpgid": (109, 154), "prlimit64": (302, 261),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "setpriority": (141, 140), "setuid": (105, 146),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142),
}  # fmt: skip
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLONE, _TGKILL, _CLONE3 = (56, 220), (234, 131), 435


FILES = 4_096
"""How many files the working folder holds."""


def folder(size: int) -> None:
    """Lay a file system of its own over the working folder: many small files fill no disk. Ends the process where it cannot
    be had: a program in a folder without a limit would run on."""
    libc, here = ctypes.CDLL(None, use_errno=True), str(Path.cwd())
    options = f"size={size},nr_inodes={FILES},mode=700".encode()
    if libc.mount(b"assay", here.encode(), b"tmpfs", ctypes.c_ulong(2 | 4), options) != 0:  # no set-uid, no devices
        sys.exit(f"the sandbox's folder cannot be made: {os.strerror(ctypes.get_errno())}")
    os.chdir(here)


def limits(seconds: int, memory: int, file_bytes: int) -> None:
    """CPU seconds, address space, size of a file, open files, processes, no core dump; none of it can be raised again."""
    for what, value in (
        (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 32), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, 16),
    ):  # fmt: skip
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def landlock(libc: ctypes.CDLL) -> bool:
    """Only the working folder can be written, only it and Python's files can be read; False where the kernel has none."""
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    bits = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    files, net, scoped = (1 << bits) - 1, 3 if version >= 4 else 0, 3 if version >= 6 else 0
    head = struct.pack("=QQQ", files, net, scoped)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = libc.syscall(_LANDLOCK_CREATE, head, ctypes.c_size_t(len(head)), ctypes.c_uint32(0))
    if rules < 0:
        return False
    python = {sys.base_prefix, sysconfig.get_path("stdlib"), str(Path(__file__))}
    allowed = [(path, _READ_FILE | _READ_DIR) for path in (*_READ, *sorted(python))] + [(".", _WITHIN & files)]
    for path, access in allowed:
        with contextlib.suppress(OSError):
            access = access if Path(path).is_dir() else access & ~_READ_DIR
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            done = libc.syscall(_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", access, handle), 0)
            os.close(handle)
            if done != 0:
                return False
    confined = bool(libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0)
    os.close(rules)
    return confined


def seccomp(libc: ctypes.CDLL) -> bool:
    """Forbid system calls, for good; False on another machine than x86_64 and aarch64, or where the kernel has none."""
    if platform.machine() not in _MACHINES:
        return False
    column, architecture = _MACHINES[platform.machine()]
    forbidden = [numbers[column] for numbers in _FORBIDDEN.values()]
    code = _filter(architecture, [n for n in forbidden if n is not None], _CLONE[column], _TGKILL[column])
    program = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(program))
    return bool(libc.prctl(22, 2, head, 0, 0) == 0)


def _filter(architecture: int, forbidden: list[int], clone: int, tgkill: int) -> bytes:
    """The program in the kernel's packet-filter language: (code, jump if true, jump if false, value) of each step."""
    load, equal, atleast, has, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, denied, missing, end = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000  # EPERM, ENOSYS, kill the process
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, end), (load, 0, 0, 0)]
    steps += [(atleast, 0, 1, 0x40000000), (give, 0, 0, denied)]  # x86_64's second table of calls
    steps += [
        (equal, 0, 1, _CLONE3),
        (give, 0, 0, missing),
    ]  # its flags are out of sight: the C library then uses clone
    for number in forbidden:
        steps += [(equal, 0, 1, number), (give, 0, 0, denied)]
    steps += [
        (equal, 0, 3, clone),
        (load, 0, 0, 16),
        (has, 1, 0, 0x10000),
        (give, 0, 0, denied),
        (load, 0, 0, 0),
    ]  # threads
    steps += [(equal, 0, 3, tgkill), (load, 0, 0, 16), (equal, 1, 0, os.getpid()), (give, 0, 0, denied)]
    steps += [(give, 0, 0, allow)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def confine() -> tuple[bool, bool]:
    """Landlock and seccomp, where the kernel has them: whether each holds now."""
    if sys.platform != "linux":
        return False, False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # no new privileges: both need it
        return False, False
    return landlock(libc), seccomp(libc)


def main() -> None:
    seconds, memory, file_bytes, folder_bytes = (int(a) for a in sys.argv[1:5])
    walls, begun, source = sys.argv[5], int(sys.argv[6]), sys.argv[7]
    if folder_bytes:
        folder(folder_bytes)
    limits(seconds, memory, file_bytes)
    held = dict(zip(("files", "calls"), confine(), strict=True))
    if fallen := [wall for wall in walls.split(",") if not held.get(wall, True)]:
        sys.exit(f"the sandbox's walls do not stand: {', '.join(fallen)}")
    os.write(begun, b"1")
    os.close(begun)
    sys.argv = ["program.py"]
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(source, "program.py", "exec"), names)


if __name__ == "__main__":
    main()

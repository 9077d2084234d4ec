"""The filter of system calls: a classic BPF program, put together here, that bubblewrap loads before the program.

What it refuses are the calls by which a program leaves or widens a namespace, reaches into another process, loads code
into the kernel, opens a network socket, or keeps memory where no limit counts it. Everything else is allowed: the file
system, the processes and the memory are bounded by other means.

Numbers are those of ``arch/x86/entry/syscalls/syscall_64.tbl`` and ``include/uapi/asm-generic/unistd.h`` of Linux; the
layout of the data is that of ``struct seccomp_data`` (``include/uapi/linux/seccomp.h``).
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass
from typing import Final

from cryoprism.core import InputError

__all__ = ["ARCHITECTURES", "REFUSED", "Architecture", "seccomp_filter"]

_Instruction = tuple[int, int, int, int]
# Of linux/filter.h: load a word at an offset, jump if equal, greater or equal, any bit set, return.
_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_X32_BIT: Final = 0x40000000
_AF_UNIX: Final = 1
#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
_NEW_NAMESPACES: Final = 0x7E020000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
#: Buffers of sockets and pipes stay as large as they are made: what they hold is counted by that.
_SO_SNDBUF, _SO_SNDBUFFORCE, _F_SETPIPE_SZ = 7, 32, 1031


@dataclass(frozen=True)
class Architecture:
    """What a filter has to know of a processor.

    Attributes
    ----------
    audit
        ``AUDIT_ARCH_*``: a call made in another mode of the processor (32-bit on x86-64) ends the program.
    column
        Of the number in :data:`REFUSED`.
    has_x32
        Whether numbers above ``0x40000000`` are a second table of calls, which is refused.
    """

    audit: int
    column: int
    has_x32: bool


ARCHITECTURES: Final = {
    "x86_64": Architecture(0xC000003E, 0, True),
    "aarch64": Architecture(0xC00000B7, 1, False),
}

#: Name of the call to its numbers on x86-64 and aarch64 (None where there is no such call) and the error it gives.
REFUSED: Final[dict[str, tuple[int | None, int | None, int]]] = {
    name: (first, second, error)
    for error, calls in {
        errno.EPERM: {
            # into other processes
            "ptrace": (101, 117),
            "process_vm_readv": (310, 270),
            "process_vm_writev": (311, 271),
            "kcmp": (312, 272),
            "pidfd_getfd": (438, 438),
            # namespaces and mounts
            "mount": (165, 40),
            "umount2": (166, 39),
            "pivot_root": (155, 41),
            "chroot": (161, 51),
            "open_tree": (428, 428),
            "move_mount": (429, 429),
            "fsopen": (430, 430),
            "fsconfig": (431, 431),
            "fsmount": (432, 432),
            "fspick": (433, 433),
            "mount_setattr": (442, 442),
            "setns": (308, 268),
            "unshare": (272, 97),
            "name_to_handle_at": (303, 264),
            "open_by_handle_at": (304, 265),
            # the kernel and the machine
            "bpf": (321, 280),
            "perf_event_open": (298, 241),
            "kexec_load": (246, 104),
            "kexec_file_load": (320, 294),
            "init_module": (175, 105),
            "finit_module": (313, 273),
            "delete_module": (176, 106),
            "reboot": (169, 142),
            "swapon": (167, 224),
            "swapoff": (168, 225),
            "acct": (163, 89),
            "syslog": (103, 116),
            "settimeofday": (164, 170),
            "adjtimex": (159, 171),
            "clock_settime": (227, 112),
            "clock_adjtime": (305, 266),
            "sethostname": (170, 161),
            "setdomainname": (171, 162),
            "quotactl": (179, 60),
            "quotactl_fd": (443, 443),
            "vhangup": (153, 58),
            "fanotify_init": (300, 262),
            "personality": (135, 92),
            "iopl": (172, None),
            "ioperm": (173, None),
            "modify_ldt": (154, None),
            # keys of the user's session
            "add_key": (248, 217),
            "request_key": (249, 218),
            "keyctl": (250, 219),
            # other processes' memory on other nodes
            "migrate_pages": (256, 238),
            "move_pages": (279, 239),
        }.items(),
        # As if the kernel were older: programs know how to do without.
        errno.ENOSYS: {
            "clone3": (435, 435),  # its flags lie in memory, where a filter cannot read: libraries fall back on clone
            "userfaultfd": (323, 282),
            "io_uring_setup": (425, 425),
            "io_uring_enter": (426, 426),
            "io_uring_register": (427, 427),
            # memory that belongs to no process and no file system with a size
            "memfd_create": (319, 279),
            "memfd_secret": (447, 447),
            "shmget": (29, 194),
            "msgget": (68, 186),
            "semget": (64, 190),
            # pages that stay in a pipe or a socket when their process has given them up: of one byte a page can stay
            "splice": (275, 76),
            "vmsplice": (278, 75),
            "tee": (276, 77),
            "sendfile": (40, 71),
            # contexts of which the machine has few
            "io_setup": (206, 0),
        }.items(),
    }.items()
    for name, (first, second) in calls
}

# Calls that depend on an argument: (x86-64, aarch64).
_CLONE, _SOCKET, _PRLIMIT, _IOCTL = (56, 220), (41, 198), (302, 261), (16, 29)
_SOCKETPAIR, _SETSOCKOPT, _FCNTL = (53, 199), (54, 208), (72, 25)


def seccomp_filter(machine: str | None = None) -> bytes:
    """Return the program: an array of ``struct sock_filter`` in the machine's own byte order.

    Parameters
    ----------
    machine
        As ``platform.machine()`` names it; this one if absent.

    Raises
    ------
    InputError
        There is no table for this processor.
    """
    name = platform.machine() if machine is None else machine
    known = ARCHITECTURES.get({"amd64": "x86_64", "arm64": "aarch64"}.get(name.lower(), name.lower()))
    if known is None:
        raise InputError(
            "sandbox",
            f"there is no filter of system calls for the processor {name}",
            f"Run on one of {', '.join(ARCHITECTURES)}, or choose --isolation none.",
        )
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JEQ, 1, 0, known.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
    ]
    if known.has_x32:
        program += [(_JGE, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    for *numbers, error in REFUSED.values():
        number = numbers[known.column]
        if number is not None:
            program += [(_JEQ, 0, 1, number), _refuse(error)]
    column = known.column
    program += _judge(_CLONE[column], 0, [(_JSET, 0, 1, _NEW_NAMESPACES)], errno.EPERM)
    for call in (_SOCKET, _SOCKETPAIR):
        program += _judge(call[column], 0, [(_JEQ, 1, 0, _AF_UNIX)], errno.EACCES)
    program += _judge(_SETSOCKOPT[column], 2, [(_JEQ, 1, 0, _SO_SNDBUF), (_JEQ, 0, 1, _SO_SNDBUFFORCE)], errno.EPERM)
    program += _judge(_FCNTL[column], 1, [(_JEQ, 0, 1, _F_SETPIPE_SZ)], errno.EPERM)
    # Limits of itself only: the process that keeps watch has the same owner.
    program += _judge(_PRLIMIT[column], 0, [(_JEQ, 1, 0, 0)], errno.EPERM)
    program += _judge(_IOCTL[column], 1, [(_JEQ, 1, 0, _TIOCSTI), (_JEQ, 0, 1, _TIOCLINUX)], errno.EPERM)
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _refuse(error: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)


def _judge(number: int, argument: int, tests: list[_Instruction], error: int) -> list[_Instruction]:
    """Return what judges call ``number`` by an argument: behind the tests stands a refusal, then a permission."""
    # The low word comes first on both processors, which are little-endian here.
    load = (_LOAD, 0, 0, 16 + 8 * argument)
    return [(_JEQ, 0, len(tests) + 3, number), load, *tests, _refuse(error), (_RETURN, 0, 0, _ALLOW)]

"""The first process inside the sandbox: it starts the program, keeps watch, ends it, and says what it used.

It runs as ``python -I -S -c SOURCE SPECIFICATION`` with the standard library alone, so that it starts quickly and needs
nothing of CryoPrism inside. As process 1 of its own PID namespace it inherits every process that loses its parent,
waits for all (``wait4``), cannot be signalled from inside, and takes all others with it when it ends: whatever goes
wrong here, nothing is left running.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import stat
import sys
import time

TYPE_CHECKING = False  # typing takes longer to load than the rest
if TYPE_CHECKING:
    from typing import Any

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_LOOK_EVERY_SECONDS = 0.01
# The kernel refuses memory to one process a little above the limit, so that who grows slowly is stopped by the watch.
_MARGIN, _MARGIN_BYTES = 1.25, 64_000_000
# Open files of a process; waiting signals and timers of a user, which lie in the kernel.
_MOST_OPEN, _MOST_SIGNALS = 512, 4096
_MOST_WAITING = 512  # datagrams to one socket, where the kernel does not say
_MOST_TABLES = 16 << 20  # of a process that is asked for its exact share
_PAGE = os.sysconf("SC_PAGESIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class Watch:
    """What has been seen of the processes."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.me = os.getpid()
        self.waited_user = self.waited_system = 0.0
        self.largest = self.peak = self.peak_processes = self.peak_temporary = self.peak_kernel = 0
        # Own CPU seconds by (pid, start), and of those that are gone: some parents do not wait for their children.
        self.seen: dict[tuple[int, bytes], float] = {}
        self.gone = 0.0
        self.status: int | None = None

    def account(self, usage: resource.struct_rusage) -> None:
        """Add what a process used that was waited for, its own waited-for children included."""
        self.waited_user += usage.ru_utime
        self.waited_system += usage.ru_stime
        self.largest = max(self.largest, usage.ru_maxrss * 1024)

    def processes(self) -> dict[int, list[bytes]]:
        """PIDs that belong to the run, with the fields of /proc/PID/stat after the name."""
        found = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != self.me:
                try:
                    with open(f"/proc/{name}/stat", "rb") as stream:
                        found[int(name)] = stream.read().rpartition(b") ")[2].split()
                except OSError:
                    continue
        if self.spec["alone"]:
            return found
        children: dict[int, list[int]] = {}
        for pid, fields in found.items():
            children.setdefault(int(fields[1]), []).append(pid)
        mine, queue = {}, [self.me]
        while queue:
            for pid in children.get(queue.pop(), ()):
                mine[pid] = found[pid]
                queue.append(pid)
        return mine

    def look(self) -> str | None:
        """Return the limit that is exceeded, or None."""
        spec, living, threads, memory = self.spec, 0.0, 0, 0
        processes, before, self.seen = self.processes(), self.seen, {}
        for pid, fields in processes.items():
            own = (int(fields[11]) + int(fields[12])) / _TICKS
            living += own + (int(fields[13]) + int(fields[14])) / _TICKS
            self.seen[pid, fields[19]] = own
            threads += int(fields[17])
            memory += _memory(pid)
        self.gone += sum(seconds for key, seconds in before.items() if key not in self.seen)
        if memory > spec["memory"]:
            # Pages that a fork shares were counted for each process: ask for the exact shares before judging.
            memory = sum(_exact_memory(pid) for pid in processes)
        kernel = self.kernel(processes, spec["memory"] - memory)
        self.peak = max(self.peak, memory)
        self.peak_kernel = max(self.peak_kernel, kernel)
        self.peak_processes = max(self.peak_processes, threads)
        if memory + kernel > spec["memory"]:
            return "memory"
        waited = self.waited_user + self.waited_system
        if max(waited + living, self.own()) > spec["cpu"]:
            return "cpu"
        if threads > spec["processes"]:
            return "processes"
        files = 0
        for folder in spec["folders"]:
            status = os.statvfs(folder)
            used = (status.f_blocks - status.f_bfree) * status.f_frsize
            files += status.f_files - status.f_ffree
            if folder != spec["out"]:
                self.peak_temporary = max(self.peak_temporary, used)
        return "files" if files > spec["most_files"] else None

    def kernel(self, processes: dict[int, list[bytes]], left: int) -> int:
        """Bytes that the kernel can hold for sockets and pipes of the run: no process has them, so none is charged.

        Sockets are listed; pipes are counted only where as many as there can be would not be ``left``.
        """
        if not self.spec["alone"]:
            return 0
        held = _sockets(self.spec["socket"])
        most = len(processes) * _MOST_OPEN
        if held + _pipes(most, self.spec["pipes"]) <= left or held > left:
            return held
        open_now = {pid: _open_files(pid) for pid in processes}
        count = sum(_MOST_OPEN if found is None else found for found in open_now.values())
        if held + _pipes(count, self.spec["pipes"]) > left:
            inodes, hidden = set(), 0
            for pid, found in open_now.items():
                if found is None:
                    hidden += _MOST_OPEN
                else:
                    inodes |= _pipes_of(pid)
            count = len(inodes) + hidden
        return held + _pipes(count, self.spec["pipes"])

    def own(self) -> float:
        """CPU seconds seen on the processes themselves, without what they say of their children."""
        return self.gone + sum(self.seen.values())

    def reap(self, child: int) -> bool:
        """Wait for all that have ended; whether there are others."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.account(usage)
            if pid == child:
                self.status = status

    def kill(self) -> None:
        """End all processes of the run but this one."""
        if self.spec["alone"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            return
        for pid in self.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _sockets(bytes_of_one: int) -> int:
    """Bytes that the sockets of this network namespace can hold: what each may send before it is read."""
    total, waiting = 0, _MOST_WAITING
    with contextlib.suppress(OSError, ValueError), open("/proc/sys/net/unix/max_dgram_qlen", "rb") as stream:
        # To a socket for datagrams so many senders can have sent, and be gone.
        waiting = int(stream.read()) + 1
    with contextlib.suppress(OSError), open("/proc/net/unix", "rb") as stream:
        next(stream, None)
        for line in stream:
            # A name can hold the end of a line: what follows it counts as a socket, too.
            total += bytes_of_one * (waiting if line.split()[4:5] == [b"0002"] else 1)
    return total


def _pipes(count: int, full_bytes: int) -> int:
    """Bytes that so many pipes can hold: 64 KiB until those of the user hold ``full_bytes``, then two pages."""
    return min(full_bytes, count * (1 << 16)) + count * 2 * _PAGE


def _open_files(pid: int) -> int | None:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return 0
    except OSError:
        return None  # it does not let itself be looked at


def _pipes_of(pid: int) -> set[str]:
    found = set()
    for name in _listed(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("pipe:"):
                found.add(target)
    return found


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _parts(pid: int) -> tuple[int, int]:
    """Bytes that a process has written or shares, in memory and swapped out, and of the tables of its pages.

    Files that it only reads do not count; tables do, since memory that is only read costs nothing else.
    """
    held = tables = 0
    try:
        with open(f"/proc/{pid}/status", "rb") as stream:
            for line in stream:
                if line.startswith((b"RssAnon:", b"RssShmem:", b"VmSwap:")):
                    held += int(line.split()[1]) * 1024
                elif line.startswith(b"VmPTE:"):
                    tables = int(line.split()[1]) * 1024
    except OSError:
        pass
    return held, tables


def _memory(pid: int) -> int:
    return sum(_parts(pid))


def _exact_memory(pid: int) -> int:
    held, tables = _parts(pid)
    if tables > _MOST_TABLES + held // 256:
        return held + tables  # to walk through them would take so long that nobody kept watch
    total = tables
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as stream:
            for line in stream:
                if line.startswith((b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")):
                    total += int(line.split()[1]) * 1024
    except OSError:
        return held + tables  # it does not let itself be looked at
    return total


def _limit(spec: dict[str, Any]) -> None:
    size, cpu = spec["file"], int(spec["cpu"]) + 1
    data = int(spec["memory"] * _MARGIN) + _MARGIN_BYTES
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, data),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_MEMLOCK, 65536),
        (resource.RLIMIT_NOFILE, _MOST_OPEN),
        (resource.RLIMIT_SIGPENDING, _MOST_SIGNALS),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NPROC, spec["processes"] + spec["others"]),
    ):
        hard = resource.getrlimit(what)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))


def _start(spec: dict[str, Any]) -> tuple[int, int]:
    """Start the program; its PID, or the error number for which it could not be started."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            _limit(spec)
            os.chdir(spec["out"])
            os.execvp(spec["command"][0], spec["command"])
        except OSError as error:
            os.write(write, str(error.errno or 1).encode())
        finally:
            os._exit(127)
    os.close(write)
    told = os.read(read, 16)
    os.close(read)
    return child, int(told) if told else 0


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Run the program; return the report."""
    watch = Watch(spec)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    begun = time.monotonic()
    child, error = _start(spec)
    stopped, left_behind = None, 0
    while watch.reap(child) and watch.status is None:
        stopped = watch.look()
        if stopped is None and time.monotonic() - begun > spec["wall"]:
            stopped = "wall"
        if stopped is not None:
            break
        signal.sigtimedwait({signal.SIGCHLD}, _LOOK_EVERY_SECONDS)
    if stopped is None:
        left_behind = len(watch.processes())
    patience = time.monotonic() + 5
    watch.kill()
    while watch.reap(child) and time.monotonic() < patience:
        watch.kill()
        signal.sigtimedwait({signal.SIGCHLD}, _LOOK_EVERY_SECONDS)
    ended = time.monotonic()
    used = {folder: _used(folder) for folder in spec["folders"]}
    started = 0
    if spec["alone"]:
        # The last PID that was given out in this namespace: 1 is this process.
        with open("/proc/loadavg") as stream:
            started = int(stream.read().split()[-1]) - 1
    waited = watch.waited_user + watch.waited_system
    return {
        "start_error": error,
        "status": watch.status,
        "stopped_by": stopped,
        "left_behind": left_behind,
        "wall": ended - begun,
        "user": watch.waited_user,
        "system": watch.waited_system,
        "unwaited": max(0.0, watch.own() - waited),
        "peak": max(watch.peak, watch.largest),
        "largest": watch.largest,
        "kernel": watch.peak_kernel,
        "peak_processes": watch.peak_processes,
        "started": started,
        "temporary": max([watch.peak_temporary, *(size for folder, size in used.items() if folder != spec["out"])]),
        "out_full": used.get(spec["out"], 0),
    }


def _used(folder: str) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def collect(folder: str, most_bytes: int) -> tuple[list[tuple[str, int, bool]], dict[str, str]]:
    """Return the regular files below a folder, as (path, bytes, executable), and what is left out with the reason."""
    files: list[tuple[str, int, bool]] = []
    left_out: dict[str, str] = {}
    links: set[tuple[int, int]] = set()
    total, queue = 0, [""]
    while queue:
        below = queue.pop()
        place = os.path.join(folder, below)
        if below.count("/") >= 64:
            left_out[below] = "lies too deep"
            continue
        if below:
            os.chmod(place, 0o700)
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{below}/{entry.name}" if below else entry.name
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    queue.append(path)
                elif stat.S_ISLNK(status.st_mode):
                    left_out[path] = f"is a link to {os.readlink(entry.path)}"
                elif not stat.S_ISREG(status.st_mode):
                    left_out[path] = "is no file"
                elif (status.st_dev, status.st_ino) in links:
                    left_out[path] = "is a second name of a file"
                elif total + status.st_size > most_bytes:
                    left_out[path] = "does not fit into the limit of files"
                else:
                    if status.st_nlink > 1:
                        links.add((status.st_dev, status.st_ino))
                    total += status.st_size
                    files.append((path, status.st_size, bool(status.st_mode & 0o100)))
    return files, left_out


def _send(descriptor: int, report: dict[str, Any], spec: dict[str, Any]) -> None:
    files, left_out = collect(spec["out"], spec["file"]) if spec["alone"] else ([], {})
    text = json.dumps({"report": report, "files": files, "left_out": left_out}).encode()
    with open(descriptor, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for path, size, _ in files:
            place = os.path.join(spec["out"], path)
            os.chmod(place, 0o600)
            with open(os.open(place, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source:
                while size > 0:
                    block = source.read(min(size, 1 << 20))
                    stream.write(block or bytes(size))
                    size -= len(block) or size


def main() -> None:
    """Read the specification, run, report."""
    spec = json.loads(sys.argv[1])
    os.set_inheritable(spec["report"], False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a handler would let it through from inside
    # If memory runs out on the machine, this and what it starts go first.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as stream:
        stream.write("1000")
    libc = ctypes.CDLL(None, use_errno=True)
    if spec["uid"] is not None:
        os.setgroups([])
        os.setgid(spec["uid"])
        os.setuid(spec["uid"])
    # The program has the same owner: without this it could write into this process's memory.
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if not spec["alone"] and libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    _send(spec["report"], run(spec), spec)


if __name__ == "__main__":
    main()

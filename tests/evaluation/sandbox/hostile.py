"""Run something as root and as an ordinary user, whoever runs the tests; its limits, and what is left of it."""

import os
import pickle
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.sandbox import Limits, execute, walls
from programs import require_walls

NOBODY = 65534
SMALL = Limits(cpu_seconds=20, memory_in_gigabytes=0.3, wall_seconds=20, files_in_megabytes=5, processes=20)
CALL = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"


def readable_python() -> str:
    """An interpreter that the calling user can start."""
    own = os.path.realpath(sys.executable)
    return sys.executable if os.access(own, os.X_OK) else "/usr/bin/python3"


def as_user(user, function):
    """Call a function in a child that belongs to ``user``; what it returns or raises."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads; the child starts none of its parent's
        child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os.environ["TMPDIR"] = "/tmp"
            tempfile.tempdir = None
            try:
                answer = (True, function())
            except Exception as error:
                answer = (False, error)
            with open(write, "wb") as stream:
                stream.write(pickle.dumps(answer))
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with open(read, "rb") as stream:
        content = stream.read()
    os.waitpid(child, 0)
    worked, answer = pickle.loads(content)
    if not worked:
        raise answer
    return answer


class Person:
    """Somebody who runs programs in the sandbox.

    ``folder`` is a place that they and the program inside can read.
    """

    def __init__(self, name, folder):
        self.name = name
        self.folder = folder
        self.drops = name == "ordinary" and os.geteuid() == 0

    def call(self, function):
        return as_user(NOBODY, function) if self.drops else function()

    def run(self, code, **options):
        """Run Python code in the sandbox."""
        return self.call(lambda: execute([readable_python(), "-c", code], **options))

    def execute(self, command, **options):
        return self.call(lambda: execute(command, **options))


def person_of(name):
    """Return a :class:`Person`, or skip the test with the reason."""
    if shutil.which("bwrap") is None:
        require_walls()
    if name == "root" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    folder = Path(tempfile.mkdtemp(prefix="cryoprism-test-", dir="/tmp"))
    folder.chmod(0o777)
    person = Person(name, folder)
    try:
        person.call(walls)
    except InputError as error:
        shutil.rmtree(folder)
        pytest.skip(str(error))
    return person


def limits(**values):
    return Limits(**{**SMALL.to_json(), **values})


def alive(marker):
    """Processes of this machine whose command line holds a text."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                text = Path("/proc", name, "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in text:
                found.append(int(name))
    return found

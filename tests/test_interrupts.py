"""Ctrl-C after a command is done does not hide how it ended."""

import subprocess
import sys

import pytest

#: A command that ends with 3; Python is then interrupted as it takes its modules down, or waits for a thread.
LATE = """
import os, signal, sys, threading, time
from cryoprism.cli import _main

class Last:
    def __del__(self, kill=os.kill, process=os.getpid()):
        kill(process, 2)

def interrupt():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)

signal.signal(signal.SIGINT, signal.default_int_handler)
_main._run = lambda arguments: 3
if sys.argv.pop() == "modules":
    last = Last()
else:
    threading.Thread(target=interrupt).start()
_main.main()
"""


@pytest.mark.parametrize("when", ["modules", "thread"])
def test_an_interrupt_after_the_end_leaves_the_exit_code(when):
    done = subprocess.run([sys.executable, "-c", LATE, when], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (3, "")


def test_an_interrupt_before_the_end_is_130():
    before = LATE.replace("_main._run = lambda arguments: 3\n", "").replace("_main.main()", "")
    before += "_main.app = lambda **options: time.sleep(10)\n_main.main()\n"
    command = [sys.executable, "-c", before, "thread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130
    assert "Stopped." in done.stderr

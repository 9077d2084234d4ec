import io
import logging

from rich.console import Console

from cryoprism.workflow import progress
from cryoprism.workflow.jobs.progress import _line_logger


def test_a_terminal_gets_a_bar_with_count_and_name():
    screen = io.StringIO()
    with progress("Fitting", 3, to=Console(file=screen, force_terminal=True, width=120)) as step:
        for name in ("a.mrc", "b.mrc", "c.mrc"):
            step(name)
    assert "Fitting" in screen.getvalue()
    assert "3/3" in screen.getvalue()
    assert "c.mrc" in screen.getvalue()


def test_a_log_gets_a_line_now_and_then_with_the_time_left(caplog):
    now = 0.0
    caplog.set_level(logging.INFO, "cryoprism")
    step = _line_logger("Fitting", 100, clock=lambda: now)
    for index in range(100):
        now += 10.0
        step(f"{index}.mrc")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "Fitting: 1 of 100, 0:16:30 left (0.mrc)"
    assert lines[-1] == "Fitting: 100 of 100, 0:00:00 left (99.mrc)"
    assert 5 < len(lines) < 15


def test_a_file_or_pipe_gets_no_bar():
    screen = io.StringIO()
    with progress("Fitting", 1, to=Console(file=screen)) as step:
        step("a.mrc")
    assert screen.getvalue() == ""

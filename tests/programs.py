"""Programs that tests need: without them a test is skipped, or fails where they have to be there."""

import os
import shutil

import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.consistency import HOW_TO_INSTALL
from cryoprism.evaluation.sandbox import walls

#: Set where the checks of every change run: a program that is absent there counts as a failure.
REQUIRED = os.environ.get("CRYOPRISM_REQUIRE_PROGRAMS", "") not in {"", "0"}


def absent(program):
    """Whether tests of a program are skipped; where programs are required they run, and fail without it."""
    return shutil.which(program) is None and not REQUIRED


needs_coq = pytest.mark.skipif(absent("coqc"), reason=f"Coq is absent. {HOW_TO_INSTALL}")


def require_walls():
    """Skip a test where the kernel makes no sandbox, or without bubblewrap, unless that is required."""
    try:
        walls()
    except InputError as error:
        if REQUIRED and shutil.which("bwrap") is None:
            pytest.fail(str(error))
        pytest.skip(str(error))


def isolation_here():
    """``bubblewrap`` where a sandbox can be made or has to be, else ``none``."""
    try:
        walls()
    except InputError:
        return "bubblewrap" if REQUIRED and shutil.which("bwrap") is None else "none"
    return "bubblewrap"

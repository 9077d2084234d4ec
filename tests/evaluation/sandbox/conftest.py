"""Whoever starts what is run in the sandbox."""

import shutil

import pytest
from hostile import person_of


@pytest.fixture(params=["root", "ordinary"])
def person(request):
    someone = person_of(request.param)
    yield someone
    shutil.rmtree(someone.folder)

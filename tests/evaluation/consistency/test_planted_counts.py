"""What the benchmark of planted faults counts as another verdict, and what as an obligation more or less."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[3] / "benchmarks" / "consistency_parts" / "planting.py"


@pytest.fixture(scope="module")
def planting():
    spec = importlib.util.spec_from_file_location("planting_of_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((5, 0, 0), (5, 0, 0), (0, 0, 0)),
        ((5, 0, 0), (6, 0, 0), (0, 1, 0)),  # one more, proved
        ((5, 0, 0), (5, 1, 0), (0, 1, 0)),  # one more, refuted
        ((5, 0, 0), (4, 1, 0), (1, 0, 0)),  # another verdict
        ((5, 1, 0), (4, 1, 1), (1, 0, 0)),
        ((5, 0, 0), (4, 0, 0), (0, 0, 1)),
        ((5, 0, 0), (3, 1, 2), (2, 1, 0)),
    ],
)
def test_verdicts_and_obligations_are_counted_apart(planting, before, after, expected):
    assert planting.moves(before, after) == expected

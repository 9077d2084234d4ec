"""An answer that is no answer is named as such; an impact of 0 with a spread keeps it."""

import math

import numpy as np
import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.evidence import Answer
from cryoprism.evaluation.fusion import fuse


def answer(value, deviation=0.1):
    return Answer(value, deviation, "available", ("told",))


@pytest.mark.parametrize(
    ("name", "value", "deviation"),
    [
        ("logic", -0.5, 0.1), ("logic", math.nan, 0.1), ("meta", 1.5, 0.1), ("novelty", math.inf, 0.1),
        ("impact", -3.0, 1.0), ("impact", math.nan, 1.0), ("reproducibility", 0.5, -0.1), ("logic", 0.5, math.nan),
    ],
)  # fmt: skip
def test_the_component_is_named_whose_answer_lies_outside(name, value, deviation):
    answers = {"novelty": answer(0.5), name: answer(value, deviation)}
    with pytest.raises(InputError) as caught:
        fuse(answers)
    assert str(caught.value).startswith(f"{name}: ")


def test_an_impact_of_nothing_with_a_spread_is_not_certain():
    sure = fuse({"logic": answer(0.5), "impact": answer(0.0, 0.0)})
    open_ = fuse({"logic": answer(0.5), "impact": answer(0.0, 3.0)})
    assert open_.v.value == sure.v.value
    assert open_.v.deviation > 2 * sure.v.deviation
    assert open_.v.upper > sure.v.upper
    assert open_.v.lower <= open_.v.value
    narrow = fuse({"logic": answer(0.5), "impact": answer(0.0, 0.01)})
    assert narrow.v.deviation == pytest.approx(sure.v.deviation, rel=0.05)


def test_the_spread_of_an_impact_of_nothing_is_the_one_that_was_told():
    from cryoprism.evaluation.fusion.score import _draw

    drawn = np.expm1(_draw("impact", answer(0.0, 3.0), 20_000, np.random.default_rng(0)))
    assert drawn.std() == pytest.approx(3.0, rel=0.02)
    assert drawn.min() >= 0

"""A prover that is given less time can lower a centre and widen an interval; it never raises a centre."""

from types import SimpleNamespace
from typing import cast

import pytest

from cryoprism.evaluation.consistency import Consistency
from cryoprism.evaluation.evidence import available, not_available
from cryoprism.evaluation.fusion import Shape, fuse

#: Weight of a rule to its obligations, as the rules about a small chain have them.
RULES = ((1.0, 20), (0.125, 60), (1.0 / 3.0, 40))


def logic(share_true, share_open, *, kindly=False):
    """LogicScore and its deviation where a share of the checks holds and a share of them got no verdict.

    Left open are first those that hold; ``kindly`` those that do not.
    """
    rules = []
    for weight, count in RULES:
        true, unknown = round(share_true * count), round(share_open * count)
        proved = min(true, count - unknown) if kindly else max(0, true - unknown)
        rules.append(SimpleNamespace(weight=weight, obligations=count, proved=proved, unknown=unknown))
    held = cast(Consistency, SimpleNamespace(rules=tuple(rules)))
    return Consistency.score.fget(held), Consistency.deviation.fget(held)


def fused(value, deviation, *, missing, shape=None):
    answers = {
        "logic": available(value, deviation, ()),
        "novelty": available(0.6, 0.1, ()),
        "impact": available(8.0, 5.0, ()),
        "reproducibility": available(0.86, 0.09, ()),
        "meta": available(1.0, 0.16, ()),
    }
    return fuse(answers | dict.fromkeys(missing, not_available("none", "none")), shape=shape, draws=4000)


@pytest.mark.parametrize("shape", [None, Shape(14.0, 7.0, 4.0), Shape(2.0, 2.5, 1.0)])
@pytest.mark.parametrize("missing", [(), ("impact",), ("impact", "novelty", "meta", "reproducibility")])
@pytest.mark.parametrize("share_true", [1.0, 0.95, 0.6, 0.2, 0.0])
@pytest.mark.parametrize("kindly", [False, True])
def test_no_centre_rises_as_more_is_left_open(shape, missing, share_true, kindly):
    before = None
    for share_open in (0.0, 0.02, 0.1, 0.3, 0.6, 0.9, 0.97, 1.0):
        now = fused(*logic(share_true, share_open, kindly=kindly), missing=missing, shape=shape)
        if before is not None:
            for one, other in ((before.v, now.v), (before.score, now.score)):
                assert other.value <= one.value + 1e-12
                assert other.mean <= one.mean + 1e-12
        before = now


def test_the_interval_widens_instead():
    known, starved = (fused(*logic(0.95, share), missing=("impact",)) for share in (0.0, 1.0))
    assert starved.v.lower < known.v.lower
    assert starved.v.upper - starved.v.lower > 2 * (known.v.upper - known.v.lower)
    assert starved.v.deviation > known.v.deviation
    # A broken model that is not judged at all may be whole: the upper end says so, and no centre does.
    broken, hidden = (fused(*logic(0.2, share), missing=()) for share in (0.0, 1.0))
    assert hidden.v.upper > broken.v.upper
    assert hidden.v.mean < broken.v.mean
    assert hidden.score.mean < broken.score.mean
    assert hidden.drawn_means["logic"] == pytest.approx(0.5, abs=0.01)  # what the interval rests on, and says


def test_one_sentence_says_why_the_range_is_wide():
    (why,) = (one for one in fused(0.99, 0.01, missing=("impact", "meta")).sentences if "wide because" in one)
    assert "impact alone could add from 0 to ln(100 + 1) = 4.62 times its weight" in why
    assert "guess from before any judgement" in why
    (why,) = (one for one in fused(0.99, 0.01, missing=("novelty", "meta")).sentences if "wide because" in one)
    assert "novelty alone could add from 0 to 1 times its weight" in why
    assert not any("wide because" in one for one in fused(0.99, 0.01, missing=()).sentences)

"""V and HyperScore: the formula, its uncertainty against the delta method, answers that are missing."""

import dataclasses
import json
import math

import numpy as np
import pytest

from cryoprism.core import InputError
from cryoprism.evaluation import available, not_available
from cryoprism.evaluation.fusion import (
    COMPONENTS,
    ENOUGH_JUDGEMENTS,
    Shape,
    Weights,
    default_shape,
    default_weights,
    fuse,
    hyperscore,
    impact_bound_in_citations,
    read_weights,
)
from cryoprism.evaluation.fusion.score import _draw

VALUES = {"logic": 0.9, "novelty": 0.6, "impact": 12.0, "reproducibility": 0.7, "meta": 0.5}
DEVIATIONS = {"logic": 0.01, "novelty": 0.03, "impact": 0.5, "reproducibility": 0.02, "meta": 0.04}


def answers(**changed):
    found = {name: available(VALUES[name], DEVIATIONS[name], ("It is so.",)) for name in COMPONENTS}
    return found | changed


def sure(weights: Weights) -> Weights:
    """The same weights without any doubt."""
    return dataclasses.replace(weights, covariance=tuple((0.0,) * 5 for _ in range(5)))


def by_hand(values, weights, shape):
    v = sum(weights[n] * (math.log(values[n] + 1) if n == "impact" else values[n]) for n in COMPONENTS)
    sigmoid = 1 / (1 + math.exp(-(shape.beta * math.log(v) + shape.gamma)))
    return v, 100 * (1 + sigmoid**shape.kappa)


@pytest.mark.parametrize("shape", [default_shape(), Shape(4.0, -1.0, 1.5), Shape(0.5, 2.0, 3.0)])
def test_v_and_hyperscore_are_the_formula(shape):
    found = fuse(answers(), shape=shape)
    v, score = by_hand(VALUES, default_weights().mean, shape)
    assert found.v.value == pytest.approx(v, rel=1e-12)
    assert found.score.value == pytest.approx(score, rel=1e-12)
    assert sum(found.contributions.values()) == pytest.approx(v, rel=1e-12)
    assert found.missing == ()
    assert found.v_range is None


def test_the_customary_shape_gives_the_customary_score():
    # By hand: V = 1 leaves σ(−ln 2) = 1/3.
    assert hyperscore(1.0, default_shape()) == pytest.approx(100 * (1 + 1 / 9), rel=1e-12)
    # The published example of the formula: V = 0.95, β 5, γ −ln 2, κ 2.
    assert hyperscore(0.95, default_shape()) == pytest.approx(
        100 * (1 + (1 / (1 + 2 * math.exp(-5 * math.log(0.95)))) ** 2), rel=1e-12
    )


def test_at_v_zero_the_limit_is_taken_and_said():
    shape = default_shape()
    assert hyperscore(0.0, shape) == 100.0
    assert hyperscore(1e-300, shape) == pytest.approx(100.0)
    assert np.all(np.diff(hyperscore(np.linspace(0.1, 5, 400), shape)) > 0)
    nothing = {name: available(0.0, 0.0, ()) for name in COMPONENTS}
    found = fuse(nothing)
    assert (found.v.value, found.score.value, found.score.deviation) == (0.0, 100.0, 0.0)
    assert any("limit" in sentence for sentence in found.sentences)
    with pytest.raises(InputError):
        hyperscore(-0.1, shape)
    with pytest.raises(InputError):
        hyperscore(float("nan"), shape)


def delta(weights: Weights, shape: Shape):
    """Standard deviations of V and of the score by linearisation."""
    w = np.array([weights.mean[n] for n in COMPONENTS])
    x = np.array([math.log1p(VALUES[n]) if n == "impact" else VALUES[n] for n in COMPONENTS])
    sd = np.array([DEVIATIONS[n] / (1 + VALUES[n]) if n == "impact" else DEVIATIONS[n] for n in COMPONENTS])
    slope = w * (x - w @ x)  # ∂V/∂θ of softmax weights
    v = w @ x
    variance = (w**2 * sd**2).sum() + slope @ np.asarray(weights.covariance) @ slope
    step = 1e-6
    rise = (hyperscore(v + step, shape) - hyperscore(v - step, shape)) / (2 * step)
    return math.sqrt(variance), math.sqrt(variance) * float(rise)


def test_small_uncertainties_agree_with_the_delta_method():
    shape = default_shape()
    little = dataclasses.replace(default_weights(), covariance=tuple(map(tuple, 0.05**2 * np.eye(5))))
    for weights in (sure(default_weights()), little):
        found = fuse(answers(), weights, shape, draws=100_000)
        v, score = delta(weights, shape)
        assert found.v.deviation == pytest.approx(v, rel=0.02)
        assert found.score.deviation == pytest.approx(score, rel=0.03)
        assert found.v.mean == pytest.approx(found.v.value, abs=0.1 * v)
        assert found.v.upper - found.v.lower == pytest.approx(3.92 * v, rel=0.03)
    # The weights' share must be visible, or the test above could not fail for it.
    assert delta(little, shape)[0] > 1.2 * delta(sure(little), shape)[0]


def test_draws_stay_in_their_range_and_come_from_the_seed():
    wide = {name: available(1.0 if name != "impact" else 3.0, 2.0, ()) for name in COMPONENTS}
    only = {"logic": wide["logic"]}
    found = fuse(only, sure(default_weights()))
    assert 0 <= found.v.lower < found.v.upper <= 1
    assert fuse(wide, seed=4) == fuse(wide, seed=4)
    assert fuse(wide, seed=4).v.mean != fuse(wide, seed=5).v.mean


@pytest.mark.parametrize(
    ("value", "deviation"),
    [(0.5, 0.1), (0.02, 0.03), (0.98, 0.03), (0.999, 0.01), (0.001, 0.02), (0.95, 0.2), (0.7, 0.45), (0.3, 1e-6)],
)
def test_draws_have_the_mean_and_the_deviation_that_were_stated(value, deviation):
    found = fuse({"logic": available(value, deviation, ())}, sure(default_weights()))
    assert found.v.mean == pytest.approx(value, abs=1e-3 * deviation + 1e-9)
    assert found.v.deviation == pytest.approx(deviation, rel=0.02)
    assert found.drawn_means == {}


@pytest.mark.parametrize(("value", "deviation"), [(12.0, 5.0), (3.0, 3.0), (0.5, 0.4)])
def test_draws_of_a_count_have_its_mean_and_deviation_too(value, deviation):
    drawn = np.expm1(_draw("impact", available(value, deviation, ()), 20_000, np.random.default_rng(0)))
    assert drawn.min() >= 0
    assert drawn.mean() == pytest.approx(value, rel=1e-3)
    assert drawn.std() == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize(
    ("k", "n"),
    [(4, 4), (0, 3), (3.92, 4), (20, 20)],
)
def test_a_share_that_no_mean_can_have_is_a_most_probable_value(k, n):
    # k of n counted, nothing known before: the posterior is Beta(k + 1, n − k + 1), whose mode is k/n.
    a, b = k + 1, n - k + 1
    deviation = math.sqrt(a * b / (a + b + 1)) / (a + b)
    found = fuse({"meta": available(k / n, deviation, ())}, sure(default_weights()))
    assert found.drawn_means["meta"] == pytest.approx(a / (a + b), abs=1e-6)
    assert found.v.mean == pytest.approx(a / (a + b), abs=1e-3)
    assert found.v.deviation == pytest.approx(deviation, rel=0.01)
    assert found.v.lower < found.v.upper
    assert any("most probable" in sentence for sentence in found.sentences)
    # Of which nothing is known: uniform.
    nothing = fuse({"meta": available(k / n, 12**-0.5, ())}, sure(default_weights()))
    assert nothing.v.upper - nothing.v.lower == pytest.approx(0.95, abs=0.002)
    assert nothing.v.lower <= nothing.v.value <= nothing.v.upper


def test_a_missing_answer_gives_its_weight_to_the_others_and_a_range():
    gone = answers(novelty=not_available("There is no index.", "Build one."))
    found = fuse(gone)
    full = default_weights().mean
    rest = 1 - full["novelty"]
    assert found.missing == ("novelty",)
    assert found.weights["novelty"] == 0
    for name in ("logic", "impact", "reproducibility", "meta"):
        assert found.weights[name] == pytest.approx(full[name] / rest)
    low, high = (by_hand(VALUES | {"novelty": value}, full, found.shape) for value in (0.0, 1.0))
    # Without any doubt about answers and weights the ends are the formula's; doubt makes the range wider.
    exact = {name: available(answer.value, 0.0, ()) for name, answer in gone.items() if name != "novelty"}
    without = fuse(exact, sure(default_weights()))
    assert without.v_range == pytest.approx((low[0], high[0]))
    assert without.score_range == pytest.approx((low[1], high[1]))
    assert found.v_range[0] < low[0] < high[0] < found.v_range[1]
    assert found.v_range[0] <= found.v.value <= found.v_range[1]
    assert any("novelty" in sentence and "no answer" in sentence for sentence in found.sentences)
    absent = {name: answer for name, answer in gone.items() if name != "novelty"}
    assert fuse(absent) == found


def test_missing_impact_is_bounded_by_the_bound_that_is_shipped():
    exact = {name: available(VALUES[name], 0.0, ()) for name in COMPONENTS if name != "impact"}
    found = fuse(exact, sure(default_weights()))
    assert f"impact counted up to {impact_bound_in_citations():g} citations" in found.sentences[0]
    reach = found.full_weights["impact"] * math.log1p(impact_bound_in_citations())
    assert found.v_range[1] - found.v_range[0] == pytest.approx(reach)


def test_the_value_never_lies_outside_its_own_interval():
    generator = np.random.default_rng(0)
    ends = np.array([0.0, 0.001, 0.5, 0.999, 1.0])
    for number in range(250):
        there = generator.random(5) < 0.6
        there[generator.integers(5)] = True
        given = {}
        for name in np.array(COMPONENTS)[there]:
            value = generator.choice(ends) if generator.random() < 0.6 else generator.random()
            value = 40 * value if name == "impact" else value
            given[str(name)] = available(float(value), float(generator.choice([0.0, 0.01, 0.1, 12**-0.5, 2.0])), ())
        shape = Shape(
            float(generator.uniform(0.5, 15)), float(generator.uniform(-4, 3)), float(generator.uniform(0.5, 5))
        )
        found = fuse(given, shape=shape, seed=number, draws=1000)
        for one, ends_of in ((found.v, found.v_range), (found.score, found.score_range)):
            assert one.lower <= one.value <= one.upper
            if found.missing:
                assert ends_of[0] <= one.lower
                assert one.upper <= ends_of[1]


def test_the_interval_holds_95_percent_of_the_draws_and_is_the_shortest():
    # Of Beta(1, 3), most probable 0: one-sided, and its end is the quantile of 95 %.
    from scipy.stats import beta

    found = fuse({"logic": available(0.0, beta.std(1, 3), ())}, sure(default_weights()))
    assert found.v.lower == pytest.approx(0.0, abs=1e-3)
    assert found.v.upper == pytest.approx(beta.ppf(0.95, 1, 3), abs=5e-3)


def test_to_withhold_answers_never_narrows_what_the_headline_says():
    everything = fuse(answers())
    assert everything.sentences[0].startswith(f"HyperScore {everything.score.value:.1f} from all 5 answers (95 %")
    width = everything.score.upper - everything.score.lower
    given = answers()
    for name in ("impact", "novelty", "meta", "reproducibility"):
        del given[name]
        found = fuse(given)
        low, high = found.score_range
        assert high - low > width
        assert f"from {len(given)} answer" in found.sentences[0]
        assert f"between {low:.1f} and {high:.1f}" in found.sentences[0]
        width = high - low


def test_without_any_answer_there_is_no_score():
    found = fuse({})
    assert found.v is None
    assert found.score is None
    assert found.missing == COMPONENTS
    assert "no score" in found.sentences[0]
    json.dumps(found.to_json(), allow_nan=False)


def test_too_few_judgements_leave_the_prior_in_use():
    prior = default_weights()
    moved = dataclasses.replace(
        prior, logits=(2.0, 0.0, 0.0, 0.0, -1.0), covariance=sure(prior).covariance, judgements=ENOUGH_JUDGEMENTS - 1,
        prior=prior,
    )  # fmt: skip
    few, enough = fuse(answers(), moved), fuse(answers(), dataclasses.replace(moved, judgements=ENOUGH_JUDGEMENTS))
    assert few.v == fuse(answers()).v
    assert few.judgements == 0
    assert f"{ENOUGH_JUDGEMENTS - 1} judgements" in few.sentences[-1]
    assert enough.full_weights == moved.mean
    assert enough.judgements == ENOUGH_JUDGEMENTS
    again = Weights.from_json(json.loads(json.dumps(moved.to_json(), allow_nan=False)))
    assert again == moved


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"beauty": available(0.5, 0.1, ())}, "beauty"),
        ({"logic": available(1.5, 0.1, ())}, "logic"),
    ],
)
def test_answers_that_cannot_be_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        fuse(answers(**change))


@pytest.mark.parametrize("numbers", [(0.0, 0.0, 1.0), (1.0, 0.0, -1.0), (math.inf, 0.0, 1.0), (1.0, math.nan, 1.0)])
def test_shapes_that_would_turn_the_score_round_are_refused(numbers):
    with pytest.raises(InputError):
        Shape(*numbers)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"schema": "something"},
        default_weights().to_json() | {"components": ["logic"]},
        default_weights().to_json() | {"logits": [1, 2]},
        default_weights().to_json() | {"covariance": [[-1.0] * 5] * 5},
        default_weights().to_json() | {"logits": None},
        default_weights().to_json() | {"logits": [3.0, 0.0, 0.0, 0.0, 0.0]},
        {name: value for name, value in default_weights().to_json().items() if name != "weights"},
    ],
)
def test_weights_that_are_none_are_refused(content):
    with pytest.raises(InputError):
        Weights.from_json(content)


def test_weights_that_disagree_with_their_logits_and_constant_shapes_are_refused(tmp_path):
    file = tmp_path / "weights.json"
    content = default_weights().to_json() | {"shape": default_shape().to_json()}
    file.write_text(json.dumps(content))
    assert read_weights(file) == (default_weights(), default_shape())
    content["weights"]["logic"]["weight"] = 0.9
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"its logits say 0\.35"):
        read_weights(file)
    flat = Shape(0.62, -3.28, 2.29)
    assert hyperscore(1.0, flat) == pytest.approx(100 * (1 + flat.rise))
    file.write_text(json.dumps(default_weights().to_json() | {"shape": flat.to_json()}))
    with pytest.raises(InputError, match="hardly moves the score"):
        read_weights(file)

"""Weights from judgements: derivatives, recovery, the posterior against sampling, what to ask, the policy."""

import json

import numpy as np
import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.fusion import (
    COMPONENTS,
    ENOUGH_JUDGEMENTS,
    Assessed,
    Judgement,
    count_distinct,
    default_weights,
    differences,
    expected_information_in_bits,
    learn,
    learn_from,
    log_posterior,
    most_informative,
    outcome_probabilities,
    outcomes,
    policy_gradient,
    read_judgements,
    softmax,
    thompson,
    without_copies,
)

TRUTH = np.array([0.1, 0.3, 0.1, 0.15, 0.35])


def simulated(count, seed, truth=TRUTH, sharpness=12.0):
    """SIMULATED judge: differences of random assessments and what the judge with these weights says."""
    generator = np.random.default_rng(seed)
    x = generator.random((count, 2, 5))
    x[..., 2] = np.log1p(generator.gamma(1.0, 5.0, (count, 2)))
    ahead = x[:, 0] - x[:, 1]
    parameters = np.concatenate([np.log(truth), [np.log(sharpness), -1.0]])
    chance = outcome_probabilities(parameters, ahead)
    picked = (generator.random((count, 1)) > chance.cumsum(axis=1)).sum(axis=1)
    return ahead, np.eye(3)[picked]


def test_probabilities_are_davidsons():
    ahead = np.array([[0.5, 0.0, 0.0, 0.0, 0.0], [0.0] * 5])
    parameters = np.concatenate([np.log([0.2] * 5), [np.log(10.0), -1.0]])
    d = 10 * 0.2 * 0.5
    z = np.exp(d / 2) + np.exp(-d / 2) + np.exp(-1)
    assert outcome_probabilities(parameters, ahead)[0] == pytest.approx(
        [np.exp(d / 2) / z, np.exp(-d / 2) / z, np.exp(-1) / z]
    )
    equal = outcome_probabilities(parameters, ahead)[1]
    assert equal[0] == pytest.approx(equal[1])


def test_gradient_and_hessian_are_those_of_the_posterior():
    ahead, told = simulated(40, 0)
    at = np.random.default_rng(1).standard_normal(7) * 0.5
    prior = default_weights()
    _, gradient, hessian, newton = log_posterior(at, ahead, told, prior)
    step = 1e-5 * np.eye(7)
    by_difference = [
        (log_posterior(at + e, ahead, told, prior)[0] - log_posterior(at - e, ahead, told, prior)[0]) / 2e-5
        for e in step
    ]
    assert gradient == pytest.approx(by_difference, rel=1e-5, abs=1e-5)
    columns = [
        (log_posterior(at + e, ahead, told, prior)[1] - log_posterior(at - e, ahead, told, prior)[1]) / 2e-5
        for e in step
    ]
    assert hessian == pytest.approx(np.array(columns), rel=1e-4, abs=1e-4)
    assert np.linalg.eigvalsh(newton).max() < 0


def test_no_judgement_leaves_the_prior():
    prior = default_weights()
    found = learn([], prior)
    assert found.weights.logits == pytest.approx(prior.logits)
    assert np.asarray(found.weights.covariance) == pytest.approx(np.asarray(prior.covariance))
    assert found.weights.in_use == prior


def test_the_weights_of_a_simulated_judge_are_found_and_the_interval_shrinks():
    errors, deviations = [], []
    for count in (20, 200, 2000):
        found = learn_from(*simulated(count, 3)).weights
        errors.append(np.abs(np.array(list(found.mean.values())) - TRUTH).sum())
        deviations.append(found.intervals()["meta"]["standard_deviation"])
    assert errors[2] < 0.1 < errors[0]
    assert deviations[0] > deviations[1] > deviations[2]
    assert learn_from(*simulated(2000, 3)).weights.judgements >= ENOUGH_JUDGEMENTS


def test_a_judge_who_tosses_a_coin_teaches_no_weights():
    ahead, _ = simulated(400, 5)
    told = np.eye(3)[np.random.default_rng(0).integers(0, 2, 400)]
    found = learn_from(ahead, told)
    # Nothing in the answers: the judge is found to be blunt, the weights stay as wide as before, nearly.
    assert found.mode[5] < np.log(10.0) - 1.5
    before, after = default_weights().intervals(), found.weights.intervals()
    for name in ("logic", "novelty", "reproducibility", "meta"):
        assert after[name]["standard_deviation"] > 0.6 * before[name]["standard_deviation"]


def test_the_laplace_posterior_agrees_with_importance_sampling():
    ahead, told = simulated(150, 7)
    prior = default_weights()
    found = learn_from(ahead, told, prior)
    generator = np.random.default_rng(0)
    root = np.linalg.cholesky(1.5 * found.covariance)
    z = generator.standard_normal((20_000, 7))
    drawn = found.mode + z @ root.T
    chance = np.concatenate([outcome_probabilities(part, ahead) for part in np.array_split(drawn, 20)])
    logits = np.array([np.log(np.maximum((chance * told).sum(-1), 1e-300)).sum(-1)])[0]
    off = drawn[:, :5] - np.asarray(prior.logits)
    logits -= 0.5 * (off**2).sum(1) / 0.25
    logits -= 0.5 * ((drawn[:, 5:] - [np.log(10.0), -1.0]) ** 2).sum(1)
    logits += 0.5 * (z**2).sum(1)
    share = np.exp(logits - logits.max())
    share /= share.sum()
    assert 1 / (share**2).sum() > 2000  # effective draws
    w = softmax(drawn[:, :5])
    mean = share @ w
    deviation = np.sqrt(share @ (w - mean) ** 2)
    laplace = softmax(found.sample(20_000, np.random.default_rng(1))[:, :5])
    assert laplace.mean(0) == pytest.approx(mean, abs=0.015)
    assert laplace.std(0) == pytest.approx(deviation, rel=0.12)


def test_the_most_informative_question_tells_more_than_the_median_and_an_empty_one_nothing():
    ahead, told = simulated(30, 1)
    found = learn_from(ahead, told)
    candidates = np.concatenate([simulated(100, 2)[0], np.zeros((1, 5))])
    bits = expected_information_in_bits(found, candidates, np.random.default_rng(0))
    assert bits[-1] < 1e-3  # both alike: whatever is said, nothing is learned of the weights
    assert (bits >= 0).all()
    assert (bits < np.log2(3)).all()
    best, most = most_informative(found, candidates, np.random.default_rng(0))
    assert best == bits.argmax()
    assert most > 2 * np.median(bits)

    # The same on average of what it really does to the posterior: entropy of the normal falls more after the best one.
    def entropy_after(index):
        chance = outcome_probabilities(found.sample(400, np.random.default_rng(3)), candidates[index : index + 1]).mean(
            0
        )[0]
        fall = 0.0
        for k in range(3):
            more = learn_from(np.vstack([ahead, candidates[index]]), np.vstack([told, np.eye(3)[k]]))
            fall += chance[k] * 0.5 * np.linalg.slogdet(np.asarray(more.weights.covariance))[1]
        return fall

    middle = int(np.argsort(bits)[len(bits) // 2])
    assert entropy_after(best) < entropy_after(middle)
    assert 0 <= thompson(found, candidates, np.random.default_rng(4)) < len(candidates) - 1


def test_the_policy_gradient_comes_to_the_judges_weights_too():
    ahead, told = simulated(1500, 11)
    found = softmax(policy_gradient(ahead, told))
    prior = np.array(list(default_weights().mean.values()))
    assert np.abs(found - TRUTH).sum() < 0.4 * np.abs(prior - TRUTH).sum()
    assert policy_gradient(ahead, told, seed=1) == pytest.approx(policy_gradient(ahead, told, seed=1))


def test_judgements_are_read_from_values_and_from_assessments(tmp_path):
    a, b = {"logic": 0.9, "impact": 3.0}, dict.fromkeys(COMPONENTS, 0.5)
    (tmp_path / "job").mkdir()
    told = {name: {"value": 0.25, "standard_deviation": 0.1} for name in COMPONENTS} | {
        "novelty": {"value": None},
        "v": None,
    }
    (tmp_path / "job/assessment.json").write_text(json.dumps(told))
    lines = [
        json.dumps({"a": a, "b": b, "better": "a", "judge": "Ada"}),
        "",
        json.dumps({"a": "job/assessment.json", "b": b, "better": "tie"}),
    ]
    path = tmp_path / "judgements.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    first, second = read_judgements(path)
    assert (first.judge, first.better, second.better, second.judge) == ("Ada", "a", "tie", "")
    assert second.a.values["novelty"] is None
    ahead = differences([(first.a, first.b), (second.a, second.b)])
    assert ahead[0] == pytest.approx([0.4, 0, np.log1p(3.0) - np.log1p(0.5), 0, 0])
    assert ahead[1] == pytest.approx([-0.25, 0, np.log1p(0.25) - np.log1p(0.5), -0.25, -0.25])
    assert outcomes([first, second]).tolist() == [[1, 0, 0], [0, 0, 1]]
    path.write_text("")
    assert read_judgements(path) == []


GOOD = '{"a": {"logic": 1}, "b": {"logic": 0}, "better": "a"}'


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"a": {"logic": 1}, "b": {"logic": 0}}',
        '{"a": {"logic": 1}, "b": {"logic": 0}, "better": "c"}',
        '{"a": {"logic": 1.5}, "b": {"logic": 0}, "better": "a"}',
        '{"a": {"logic": NaN}, "b": {"logic": 0}, "better": "a"}',
        '{"a": {"impact": -1}, "b": {"logic": 0}, "better": "a"}',
        '{"a": {"beauty": 1}, "b": {"logic": 0}, "better": "a"}',
        '{"a": {"logic": null}, "b": {"logic": 0}, "better": "a"}',
        '{"a": {"logic": true}, "b": {"logic": 0}, "better": "a"}',
        '{"a": "nowhere.json", "b": {"logic": 0}, "better": "a"}',
        '{"a": {"logic": 1}, "b": {"logic": 0}, "better": "a", "judge": 3}',
        '{"a": {"logic": 1}, "b": {"logic": 0}, "better": "a", "mood": "good"}',
        '{"a": {"logic": 1' + 400 * "0" + '}, "b": {"logic": 0}, "better": "a"}',
        '{"a": {"impact": 1' + 400 * "0" + '}, "b": {"logic": 0}, "better": "a"}',
        '{"a": {"impact": 1' + 5000 * "0" + '}, "b": {"logic": 0}, "better": "a"}',
        '{"a": {"logic": 1}, "b": {"logic": 0}, "better": ["a"]}',
        '{"a": {"logic": 1}, "b": {"logic": 0}, "better": "a", "judge": "\\ud800"}',
        '{"a": "nul\\u0000.json", "b": {"logic": 0}, "better": "a"}',
        20_000 * '{"a":' + "1",
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line):
    path = tmp_path / "judgements.jsonl"
    path.write_text(f"{GOOD}\n{GOOD}\n{line}\n{GOOD}\n")
    with pytest.raises(InputError, match=r"judgements\.jsonl line 3"):
        read_judgements(path)


def test_marks_and_separators_of_other_systems_are_read(tmp_path):
    path = tmp_path / "judgements.jsonl"
    told = json.loads(GOOD) | {"judge": "Ada\u2028Lovelace\x85"}
    line = json.dumps(told, ensure_ascii=False)
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(("\ufeff" + end.join([line, "", GOOD])).encode("utf-8"))
        assert [one.judge for one in read_judgements(path)] == ["Ada\u2028Lovelace\x85", ""]


def test_pairs_count_only_where_both_have_an_answer():
    one = Judgement(Assessed("a", {"logic": 1.0}), Assessed("b", {"novelty": 1.0}), "a")
    assert not differences([(one.a, one.b)]).any()


def one_said(better="a", judge="", *, turned=False):
    a, b = Assessed("a", {"logic": 0.9, "meta": 0.1}), Assessed("b", {"logic": 0.2, "meta": 0.8})
    return (
        Judgement(b, a, {"a": "b", "b": "a", "tie": "tie"}[better], judge) if turned else Judgement(a, b, better, judge)
    )


def test_one_judgement_copied_many_times_is_one():
    copied = [one_said(turned=bool(number % 2)) for number in range(150)]
    assert len(without_copies(copied)) == count_distinct(copied) == 1
    once, often = learn([one_said()]), learn(copied)
    assert often.judgements == 1
    assert often.weights.in_use.mean == default_weights().mean
    assert np.allclose(often.covariance, once.covariance)
    # Another judge, or another word of the same judge, is no copy; but a pair counts once for a judge.
    several = [*copied, one_said(judge="Ada"), one_said("b", judge="Ada"), one_said("tie", judge="Ada")]
    assert len(without_copies(several)) == 4
    assert count_distinct(several) == learn(several).judgements == 2

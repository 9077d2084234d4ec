"""The self-evaluation loop: gates, sharing between micrographs, convergence."""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from drawn_spectra import LENS, PIXEL, blank, drawn, micrograph, model_of, parameters, white

from cryoprism.causes import (
    Estimate,
    Gates,
    Ledger,
    Prior,
    default_prior,
    estimate_causes,
    judge,
    learn_prior,
    make_ledger,
    measure_spectrum,
    refit,
    run_loop,
)
from cryoprism.causes.loop import FITTED
from cryoprism.causes.model import LAYOUT

_B = LAYOUT.index("b_factor")


def _price(estimates: Iterable[Estimate]) -> list[Ledger]:
    return [make_ledger(e.observation, torch.Generator().manual_seed(i), 6) for i, e in enumerate(estimates)]


def _refit(estimates: Iterable[Estimate], prior: Prior) -> list[Estimate]:
    return [refit(estimate, prior) for estimate in estimates]


@lru_cache(maxsize=1)
def _session() -> tuple[Estimate, ...]:
    """Five clear micrographs of one specimen with B = 60 Å² and 400 Å of astigmatism; a sixth is faint."""
    base = blank()
    found = []
    for seed, defocus in enumerate((120.0, 150.0, 170.0, 200.0, 230.0)):
        theta = parameters(defocus=defocus, b_factor=6.0, astigmatism_c=2.0, drift_y=0.5 * seed, signal=3.0)
        found.append(estimate_causes(drawn(model_of(base), theta, base, seed), LENS))
    faint = parameters(defocus=160.0, b_factor=6.0, astigmatism_c=2.0, signal=0.7)
    found.append(estimate_causes(drawn(model_of(base), faint, base, 77), LENS))
    assert all(estimate.rings.detected for estimate in found)
    return tuple(found)


def _gates(estimates: Iterable[Estimate]) -> list[dict[str, Gates]]:
    listed = list(estimates)
    return [judge(e, book, None) for e, book in zip(listed, _price(listed), strict=True)]


def _numbers(gate: Gates) -> tuple[float, ...]:
    return gate.inside_bounds, gate.information, gate.repeats, gate.stable, gate.in_distribution


@lru_cache(maxsize=1)
def _outcome():
    return run_loop(_session(), _price, _refit, default_prior())


def test_a_small_session_settles_and_says_so():
    estimates, ledgers, gates, prior, trace = _outcome()
    assert trace.converged
    assert 1 <= len(trace.passes) <= 6
    last = trace.passes[-1]
    assert last.largest_move_in_sigma <= 1
    assert last.largest_weight_move <= 1
    assert len(estimates) == len(ledgers) == len(gates) == 6
    assert prior.sharpest_b_factor > 0
    for one in trace.passes:
        assert set(one.moves) == set(FITTED)
        assert one.largest_move_in_sigma == max(one.moves.values())
        assert all(math.isfinite(move) and move >= 0 for move in one.moves.values())
        assert set(FITTED) <= set(one.gates)


def test_one_pass_too_few_is_not_called_converged():
    *_, trace = run_loop(_session(), _price, _refit, default_prior(), passes=0)
    assert not trace.converged
    assert trace.passes == ()

    def restless(estimates: Iterable[Estimate], prior: Prior) -> list[Estimate]:
        moved = []
        for estimate in estimates:
            theta = estimate.fit.theta.clone()
            theta[0] += 10 * estimate.fit.deviation("defocus")
            moved.append(replace(estimate, fit=replace(estimate.fit, theta=theta)))
        return moved

    *_, trace = run_loop(_session(), _price, restless, default_prior(), passes=2)
    assert not trace.converged
    assert len(trace.passes) == 2
    assert trace.passes[-1].moves["defocus"] == pytest.approx(10, rel=0.02)


def test_gates_and_weights_lie_between_zero_and_one():
    for rows in (_gates(_session()), _outcome()[2]):
        for row in rows:
            assert set(FITTED) <= set(row)
            for gate in row.values():
                assert all(0 <= number <= 1 for number in _numbers(gate))
                assert 0 <= gate.weight <= 1
                assert gate.weight == pytest.approx(math.prod(_numbers(gate)))
                assert gate.deviation > 0
            assert sum(gate.information for gate in row.values()) == pytest.approx(1)


def test_each_gate_closes_on_what_it_watches():
    estimate = _session()[0]
    book = _price([estimate])[0]
    calm = judge(estimate, book, estimate)
    assert calm["defocus"].stable == pytest.approx(1, abs=1e-6)
    assert calm["defocus"].inside_bounds == pytest.approx(1)

    split = judge(replace(estimate, other_mode=0.5), book, None)
    assert split["defocus"].stable == pytest.approx(0.5)

    halves = estimate.halves.clone()
    halves[1, 0] += 20 * estimate.fit.deviation("defocus")
    assert judge(replace(estimate, halves=halves), book, None)["defocus"].repeats < 1e-6
    assert calm["defocus"].repeats > 0.05

    theta = estimate.fit.theta.clone()
    theta[0] += 3 * estimate.fit.deviation("defocus")
    jumped = replace(estimate, fit=replace(estimate.fit, theta=theta))
    assert judge(jumped, book, estimate)["defocus"].stable == pytest.approx(math.exp(-4.5), rel=0.05)

    theta = estimate.fit.theta.clone()
    theta[_B] = -30.0
    outside = replace(estimate, fit=replace(estimate.fit, theta=theta))
    gate = judge(outside, book, None)["envelope"]
    assert gate.inside_bounds < 1e-3
    assert gate.in_distribution < 1e-3


def test_the_sign_of_a_drift_is_no_disagreement():
    estimate = _session()[4]
    book = _price([estimate])[0]
    both = [LAYOUT.index(name) for name in FITTED["motion"]]
    halves = estimate.halves.clone()
    halves[1, both] = -halves[0, both]
    assert judge(replace(estimate, halves=halves), book, None)["motion"].repeats == pytest.approx(1)
    theta = estimate.fit.theta.clone()
    theta[both] = -theta[both]
    mirrored = replace(estimate, fit=replace(estimate.fit, theta=theta))
    assert judge(mirrored, book, estimate)["motion"].stable > 0.99 * (1 - estimate.other_mode)


def test_the_prior_moves_towards_the_session():
    estimates = _session()
    prior = learn_prior(estimates, _gates(estimates), default_prior())
    base = default_prior()
    mean = LAYOUT.index("astigmatism_c")
    assert float(prior.mean[mean]) == pytest.approx(2.0, abs=0.35)
    assert float(prior.standard_deviation[mean]) < 0.8 * float(base.standard_deviation[mean])
    b = float(torch.stack([e.fit.theta[_B] for e in estimates[:5]]).mean())
    assert abs(float(prior.mean[_B]) - b) < abs(float(base.mean[_B]) - b) + 0.5
    # Defocus is set anew for every exposure; drift has no common direction.
    assert float(prior.mean[0]) == float(base.mean[0])
    assert float(prior.standard_deviation[0]) == pytest.approx(float(base.standard_deviation[0]))
    assert float(prior.mean[LAYOUT.index("drift_y")]) == float(prior.mean[LAYOUT.index("drift_x")]) == 0
    sizes = prior.standard_deviation[[LAYOUT.index("drift_y"), LAYOUT.index("drift_x")]]
    assert float(sizes[0]) == pytest.approx(float(sizes[1]))
    assert torch.linalg.eigvalsh(prior.precision.double()).min() > 0
    torch.testing.assert_close(prior.precision, prior.precision.T)


def test_a_faint_micrograph_borrows_and_a_clear_one_hardly():
    estimates = _session()
    prior = default_prior().with_marginal("b_factor", 12.0, 0.5)
    moved = [
        float(refit(estimate, prior).fit.theta[_B] - estimate.fit.theta[_B])
        / max(12.0 - float(estimate.fit.theta[_B]), 1)
        for estimate in (estimates[2], estimates[5])
    ]
    assert 0 <= moved[0] < moved[1]
    assert moved[1] > 0.3

    # A wrong astigmatism in a sharp prior hardly moves what the rings determine.
    wrong = default_prior().with_marginal("astigmatism_c", 5.0, 1.0)
    clear = refit(estimates[2], wrong)
    assert abs(clear.fit.value("astigmatism_c") - 2.0) < 0.2


def test_the_loop_brings_the_faint_micrograph_closer_to_its_neighbours():
    before, after = _session(), _outcome()[0]
    truth = 2.0
    index = LAYOUT.index("astigmatism_c")
    assert after[5].fit.deviation("astigmatism_c") <= 1.02 * before[5].fit.deviation("astigmatism_c")
    assert after[5].fit.deviation("b_factor") < before[5].fit.deviation("b_factor")
    assert abs(float(after[5].fit.theta[index]) - truth) < 4 * after[5].fit.deviation("astigmatism_c")
    for old, new in zip(before[:5], after[:5], strict=True):
        assert abs(old.fit.value("defocus") - new.fit.value("defocus")) < old.fit.deviation("defocus")


def test_fewer_than_three_usable_micrographs_teach_nothing():
    estimates = _session()
    base = default_prior()
    assert learn_prior(estimates[:2], _gates(estimates[:2]), base) is base
    noise = [replace(e, rings=replace(e.rings, detected=False)) for e in estimates]
    assert learn_prior([*noise[:4], *estimates[4:]], _gates(estimates), base) is base


def test_micrographs_without_rings_do_not_teach():
    estimates = _session()
    theta = estimates[5].fit.theta.clone()
    theta[_B] = 90.0
    wild = replace(estimates[5], fit=replace(estimates[5].fit, theta=theta))
    silent = replace(wild, rings=replace(wild.rings, detected=False))
    gates = _gates(estimates)
    with_silent = learn_prior([*estimates[:5], silent], gates, default_prior())
    without = learn_prior(estimates[:5], gates[:5], default_prior())
    torch.testing.assert_close(with_silent.mean, without.mean)
    torch.testing.assert_close(with_silent.precision, without.precision)


def test_an_outlier_that_its_gates_doubt_teaches_less():
    estimates = list(_session()[:5])
    theta = estimates[0].fit.theta.clone()
    theta[_B] = 30.0
    estimates[0] = replace(estimates[0], fit=replace(estimates[0].fit, theta=theta))
    trusted = _gates(_session()[:5])
    doubted = [dict(row) for row in trusted]
    doubted[0]["envelope"] = replace(doubted[0]["envelope"], repeats=0.0)
    mean = {
        name: float(learn_prior(estimates, g, default_prior()).mean[_B]) for name, g in (("t", trusted), ("d", doubted))
    }
    truth = 6.0
    assert abs(mean["d"] - truth) < abs(mean["t"] - truth)


def test_learning_does_not_change_what_it_learns_from():
    estimates = _session()
    base = default_prior()
    means, thetas = base.mean.clone(), [e.fit.theta.clone() for e in estimates]
    learn_prior(estimates, _gates(estimates), base)
    assert torch.equal(base.mean, means)
    assert all(torch.equal(e.fit.theta, t) for e, t in zip(estimates, thetas, strict=True))


def test_a_session_of_noise_ends_quietly():
    silent = []
    for seed in range(3):
        estimate = estimate_causes(measure_spectrum(white((512, 512), seed), PIXEL), LENS)
        silent.append(replace(estimate, rings=replace(estimate.rings, detected=False)))
    quiet = [make_ledger(e.observation, torch.Generator().manual_seed(0), 2) for e in silent]
    assert all(book.information_in_bits == 0 for book in quiet)
    assert learn_prior(silent, _gates(silent), default_prior()).sharpest_b_factor == 0


def test_a_single_micrograph_goes_through_the_loop():
    one = [estimate_causes(measure_spectrum(micrograph(1), PIXEL), LENS)]
    estimates, _, gates, prior, trace = run_loop(one, _price, _refit, default_prior())
    assert trace.converged
    torch.testing.assert_close(prior.mean, default_prior().mean)
    assert abs(estimates[0].fit.value("defocus") - 150) < 5 * estimates[0].fit.deviation("defocus")
    assert 0 <= gates[0]["defocus"].weight <= 1

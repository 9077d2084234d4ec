"""The ledger: bits in closed form, Shapley's axioms, interventions, error bars."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_spectra import LENS, blank, drawn, estimate_of, gamma, model_of, parameters

from cryoprism.causes import (
    CAUSES,
    Circumstances,
    Ledger,
    Observation,
    default_prior,
    estimate_causes,
    information_under,
    make_ledger,
)
from cryoprism.causes.evidence import TiltPlane, known_log_transfer
from cryoprism.causes.inference import fit_spectrum
from cryoprism.causes.ledger import _account, _shapley, _terms
from cryoprism.causes.model import LAYOUT

_FLAT = TiltPlane(0.0, 0.0, 1.0, False, torch.zeros(3, 3), torch.ones(3, 3))
_KNOWN = Circumstances(
    exposure_in_electrons_per_square_angstrom=40.0,
    mtf_squared=(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.2])),
    mean_intensity=80.0,
    incident_intensity=100.0,
    area_fractions={"contamination": 0.1, "carbon": 0.2},
    defect_power_share=0.05,
)


def _observation(seed: int = 1, known: Circumstances = _KNOWN, freedom: float = 1.0, **values: float) -> Observation:
    """An observation whose fit stands at the truth, with the posterior of its data."""
    base = blank()
    transfer = known_log_transfer(base.grid, LENS, known, 15000.0)
    model = model_of(base, **transfer)
    theta = parameters(**({"drift_y": 4.0, "b_factor": 6.0, "ice_level": -1.0, "signal": 2.0} | values))
    spectrum = drawn(model, theta, base, seed)
    fit = fit_spectrum(
        spectrum, model, default_prior(), [theta], 1.0, passes=1, misfit=False, freedom=base.freedom * freedom
    )
    return Observation(
        spectrum=spectrum,
        fit=replace(fit, theta=theta),
        scale=1.0,
        known=known,
        log_transfer=transfer,
        ring_excess=torch.zeros_like(spectrum.power),
        thickness=(800.0, 100.0) if known.mean_intensity else None,
        tilt=_FLAT,
    )


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _priced(ledger: Ledger) -> dict[str, float]:
    return {name: entry.bits for name, entry in ledger.entries.items() if entry.bits is not None}


def test_information_is_half_a_log_per_real_coefficient():
    observation = _observation(known=Circumstances())
    model, theta, spectrum = observation.fit.model, observation.fit.theta, observation.spectrum
    contrast = torch.sin(0.5 * model.phase(theta)) ** 2
    signal = model.log_particles(theta).exp() * model.directional(theta) * contrast
    noise = model.log_noise(theta).exp() + model.log_ice(theta).exp() * model.directional(theta) * contrast
    bits = (2 * spectrum.coefficients * 0.5 * torch.log2(1 + signal / noise)).double().sum()
    without_low = replace(observation, spectrum=replace(spectrum, low_power=torch.zeros_like(spectrum.low_power)))
    assert information_under(without_low) == pytest.approx(float(bits), rel=1e-4)
    assert information_under(observation) >= information_under(without_low)


@pytest.mark.parametrize("seed", [1, 2])
def test_entries_add_up_to_the_loss(seed):
    ledger = make_ledger(_observation(seed), _generator(), samples=2)
    total = sum(_priced(ledger).values())
    assert total == pytest.approx(ledger.lost_in_bits, rel=1e-6)
    assert sum(ledger.shares().values()) == pytest.approx(1)
    assert set(ledger.entries) == set(CAUSES)
    assert ledger.attainable_in_bits == pytest.approx(
        information_under(_observation(seed), tuple(_priced(ledger))), rel=1e-5
    )
    assert ledger.information_in_bits == pytest.approx(information_under(_observation(seed)), rel=1e-6)


def test_shapley_keeps_its_axioms_on_a_small_game():
    names = ("a", "b", "c", "nothing")

    def worth(players: frozenset[str]) -> float:
        # Like log(1 + SSNR): gains multiply, so that the order matters.
        gain = math.prod({"a": 4.0, "b": 4.0, "c": 1.5, "nothing": 1.0}[p] for p in players)
        return math.log2(1 + 0.3 * gain)

    sets = [frozenset(s) for size in range(5) for s in itertools.combinations(names, size)]
    values = {players: worth(players) for players in sets}
    shares = _shapley(values, names)
    assert sum(shares.values()) == pytest.approx(values[frozenset(names)] - values[frozenset()])
    assert shares["a"] == pytest.approx(shares["b"])
    assert shares["nothing"] == pytest.approx(0, abs=1e-12)
    assert _shapley(values, names[::-1]) == pytest.approx(shares)
    # By definition: the mean gain over all orders.
    orders = list(itertools.permutations(names))
    mean = sum(values[frozenset(o[: o.index("a") + 1])] - values[frozenset(o[: o.index("a")])] for o in orders)
    assert shares["a"] == pytest.approx(mean / len(orders))


def test_the_order_of_causes_does_not_matter():
    observation = _observation()
    terms = _terms(observation, observation.fit.theta, 800.0, 4)
    names = ["motion", "envelope", "damage", "detector", "carbon", "ice_thickness"]
    first, second = _account(terms, names), _account(terms, names[::-1])
    assert first[1] == pytest.approx(second[1])
    assert first[2] == pytest.approx(second[2], rel=1e-6)


def test_equal_causes_lose_equal_bits_and_harmless_ones_none():
    observation = _observation(known=Circumstances(area_fractions={"carbon": 0.0}))
    loss = -40 * observation.spectrum.grid.k.square()
    twin = replace(observation, log_transfer={"damage": loss, "detector": loss.clone()})
    bits = _priced(make_ledger(twin, _generator(), samples=1))
    assert bits["damage"] == pytest.approx(bits["detector"], rel=1e-6)
    assert bits["damage"] > 0
    assert bits["carbon"] == bits["contamination"] == bits["crystalline_ice"] == bits["tilt"] == bits["defects"] == 0


def test_no_intervention_loses_bits():
    observation = _observation()
    crystals = torch.zeros_like(observation.spectrum.power)
    crystals[150:155] = 2.0
    observation = replace(observation, ring_excess=crystals, tilt=replace(_FLAT, gradient_x=0.4, significant=True))
    names = tuple(_priced(make_ledger(observation, _generator(), samples=1)))
    assert len(names) == 10
    alone = information_under(observation)
    everything = information_under(observation, names)
    for name in names:
        assert information_under(observation, (name,)) > alone, name
        rest = tuple(other for other in names if other != name)
        assert information_under(observation, rest) < everything, name


def test_unpriced_interventions_do_nothing():
    observation = _observation()
    assert information_under(observation, ("defocus", "beam_tilt")) == information_under(observation)


def test_still_specimens_have_nothing_to_win_from_standing_still():
    observation = _observation(drift_y=0.0)
    assert information_under(observation, ("motion",)) == pytest.approx(information_under(observation), rel=1e-6)
    moving = [information_under(_observation(drift_y=d, known=Circumstances())) for d in (0.0, 3.0, 6.0, 12.0)]
    assert moving == sorted(moving, reverse=True)


def test_lost_areas_scale_the_total():
    free = _observation(known=replace(_KNOWN, area_fractions={}))
    spoilt = _observation(known=replace(_KNOWN, area_fractions={"contamination": 0.25, "carbon": 0.4}))
    whole = information_under(free)
    assert information_under(spoilt) == pytest.approx(0.75 * 0.6 * whole, rel=1e-6)
    assert information_under(spoilt, ("carbon",)) == pytest.approx(0.75 * whole, rel=1e-6)
    assert information_under(spoilt, ("carbon", "contamination")) == pytest.approx(whole, rel=1e-6)


def test_crystals_cost_bits_only_where_they_stand():
    observation = _observation(signal=4.0, b_factor=0.0, drift_y=0.0, known=Circumstances())
    rings = torch.zeros_like(observation.spectrum.power)
    rings[190:192] = 5.0
    spoilt = replace(observation, ring_excess=rings)
    lost = information_under(observation) - information_under(spoilt)
    assert lost > 0
    assert information_under(spoilt, ("crystalline_ice",)) == pytest.approx(information_under(observation), rel=1e-9)
    # No more than everything these shells hold.
    nothing = replace(spoilt, ring_excess=rings * 1e6)
    assert lost < information_under(observation) - information_under(nothing)


def test_thin_ice_is_not_priced_and_thick_ice_costs_more():
    cost = []
    for thickness in (100.0, 500.0, 1500.0):
        ledger = make_ledger(replace(_observation(), thickness=(thickness, 0.0)), _generator(), samples=1)
        cost.append(ledger.entries["ice_thickness"].bits)
    assert cost[0] == 0
    assert cost[0] < cost[1] < cost[2]
    unknown = make_ledger(replace(_observation(), thickness=None), _generator(), samples=1)
    assert unknown.entries["ice_thickness"].bits is None


def test_error_bars_shrink_with_data():
    # Alone, so that no other cause's ideal lifts frequencies whose signal only the prior knows.
    alone = frozenset({"envelope", "crystalline_ice", "defects"})
    few, many = (
        make_ledger(replace(_observation(freedom=f, known=Circumstances()), abstained=alone), _generator(3), samples=40)
        for f in (1.0, 25.0)
    )
    assert few.information_deviation > 0
    # A fifth, and the prior's share.
    assert many.information_deviation < 0.5 * few.information_deviation
    assert 0 < many.entries["motion"].deviation < 0.5 * few.entries["motion"].deviation


def test_the_covariance_is_that_of_the_deviations_and_shares_move_together():
    ledger = make_ledger(_observation(), _generator(3), samples=24)
    covariance = np.array(ledger.covariance)
    assert covariance.shape == (len(ledger.priced) + 1,) * 2
    deviations = [ledger.information_deviation, *(ledger.entries[name].deviation for name in ledger.priced)]
    assert np.sqrt(np.diag(covariance)) == pytest.approx(deviations, rel=1e-5, abs=1e-9)
    assert np.linalg.eigvalsh(covariance).min() > -1e-6 * covariance.max()
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() > 0
    assert make_ledger(_observation(), _generator(3), samples=1).covariance == ()


def test_ledgers_are_repeatable():
    observation = _observation()
    assert make_ledger(observation, _generator(5), 4) == make_ledger(observation, _generator(5), 4)
    other = make_ledger(observation, _generator(6), 4)
    assert other.information_in_bits == make_ledger(observation, _generator(5), 4).information_in_bits
    assert other.information_deviation != make_ledger(observation, _generator(5), 4).information_deviation


def test_abstained_causes_are_not_priced_nor_attained():
    observation = _observation()
    full = make_ledger(observation, _generator(), samples=1)
    some = make_ledger(
        replace(observation, abstained=frozenset({"envelope", "damage", "defocus"})), _generator(), samples=1
    )
    assert some.entries["envelope"].bits is None
    assert some.entries["damage"].deviation is None
    assert some.attainable_in_bits < full.attainable_in_bits
    assert some.information_in_bits == full.information_in_bits
    assert sum(_priced(some).values()) == pytest.approx(some.lost_in_bits, rel=1e-6)


def test_without_rings_there_is_no_information():
    ledger = make_ledger(replace(_observation(), rings_detected=False), _generator(), samples=3)
    assert ledger.information_in_bits == ledger.attainable_in_bits == 0
    assert all(bits == 0 for bits in _priced(ledger).values())
    assert ledger.shares() == {}


def test_bits_do_not_depend_on_grey_units():
    base, theta = blank(), parameters(drift_y=4.0)
    one, other = (
        estimate_causes(replace(s, low_power=s.low_power * scale), LENS)
        for scale in (1.0, 400.0)
        for s in [drawn(model_of(base), theta, base, 4, scale)]
    )
    first, second = (information_under(e.observation) for e in (one, other))
    assert first == pytest.approx(second, rel=1e-3)


def test_an_estimate_prices_the_drift_it_was_drawn_with():
    moved = estimate_of(parameters(drift_y=6.0, signal=3.0), 2)
    ledger = make_ledger(moved.observation, _generator(), samples=12)
    truth = parameters(drift_y=6.0, signal=3.0, ice_level=-8.0 - math.log(moved.scale))
    for part in (LAYOUT.signal, LAYOUT.noise):
        truth[part] -= math.log(moved.scale)
    exact = replace(moved.observation, fit=replace(moved.fit, theta=truth))
    wanted = make_ledger(exact, _generator(), samples=1)
    entry = ledger.entries["motion"]
    assert entry.bits == pytest.approx(wanted.entries["motion"].bits, abs=4 * entry.deviation)
    assert entry.bits > 3 * entry.deviation


def test_drawn_spectra_have_the_freedom_they_claim():
    # The tool of these tests: mean one, variance one over the freedom.
    freedom = torch.full((4000,), 7.3)
    values = gamma((4000,), freedom, 1)
    assert float(values.mean()) == pytest.approx(1, abs=0.03)
    assert float(values.var()) == pytest.approx(1 / 7.3, rel=0.1)

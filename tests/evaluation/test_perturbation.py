"""Indices against closed forms, and conclusions of a record against what was put into it."""

import json
import math

import numpy as np
import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.perturbation import Parameter, judge_fragility, require_posteriors, sensitivity


class Uniform(Parameter):
    """Uniform over its bounds, for functions whose indices are known for that."""

    def at(self, uniform):
        return self.bounds[0] + (self.bounds[1] - self.bounds[0]) * uniform


def test_a_linear_function_divides_its_variance_by_the_squares_of_its_slopes():
    parameters = [Parameter("a", 5, 1), Parameter("b", -3, 2), Parameter("c", 0, 1)]
    result = sensitivity(lambda x: {"y": 3 * x["a"] + 2 * x["b"] + 0 * x["c"]}, parameters, seed=1, count=1024)
    outcome = result.outcomes["y"]
    assert outcome.mean == pytest.approx(9, abs=0.02)
    assert outcome.deviation == pytest.approx(5, rel=0.01)
    for name, share in {"a": 9 / 25, "b": 16 / 25, "c": 0.0}.items():
        assert outcome.first[name].value == pytest.approx(share, abs=0.03)
        assert outcome.total[name].value == pytest.approx(share, abs=0.02)
        assert outcome.total[name].low <= share + 1e-12 <= outcome.total[name].high + 0.02
    assert result.evaluations == 1024 * 5


def test_ishigami():
    # Ishigami & Homma 1990; closed form in Saltelli et al., Global Sensitivity Analysis, 2008.
    a, b, pi = 7.0, 0.1, math.pi
    parameters = [Uniform(f"x{i}", 0, 1, (-pi, pi)) for i in (1, 2, 3)]

    def function(x):
        return {"y": np.sin(x["x1"]) + a * np.sin(x["x2"]) ** 2 + b * x["x3"] ** 4 * np.sin(x["x1"])}

    variance = a**2 / 8 + b * pi**4 / 5 + b**2 * pi**8 / 18 + 0.5
    first = {"x1": 0.5 * (1 + b * pi**4 / 5) ** 2 / variance, "x2": a**2 / 8 / variance, "x3": 0.0}
    crossed = 8 * b**2 * pi**8 / 225 / variance
    total = {"x1": first["x1"] + crossed, "x2": first["x2"], "x3": crossed}
    outcome = sensitivity(function, parameters, seed=3, count=4096).outcomes["y"]
    assert outcome.deviation**2 == pytest.approx(variance, rel=0.02)
    for name in first:
        assert outcome.first[name].value == pytest.approx(first[name], abs=0.03)
        assert outcome.total[name].value == pytest.approx(total[name], abs=0.03)


def test_sobol_g():
    # Saltelli & Sobol 1995: a product, so that nearly all interactions count.
    a = {"x1": 0.0, "x2": 1.0, "x3": 9.0}
    part = {name: 1 / (3 * (1 + value) ** 2) for name, value in a.items()}
    whole = math.prod(1 + one for one in part.values())
    outcome = sensitivity(
        lambda x: {"y": np.prod([(np.abs(4 * x[n] - 2) + b) / (1 + b) for n, b in a.items()], axis=0)},
        [Uniform(name, 0, 1, (0, 1)) for name in a], seed=2, count=4096,
    ).outcomes["y"]  # fmt: skip
    for name, one in part.items():
        assert outcome.first[name].value == pytest.approx(one / (whole - 1), abs=0.02)
        assert outcome.total[name].value == pytest.approx(one * whole / (1 + one) / (whole - 1), abs=0.02)


def test_intervals_cover():
    """The 90 % interval of a total index holds the true one about as often as it says."""
    parameters = [Parameter("a", 0, 1), Parameter("b", 0, 1)]
    inside = 0
    for seed in range(40):
        index = sensitivity(lambda x: {"y": x["a"] * x["b"] + x["a"]}, parameters, seed=seed, count=128)
        found = index.outcomes["y"].total["b"]  # Var(ab) / (Var(ab) + Var(a)) = 1/2
        inside += found.low <= 0.5 <= found.high
    assert inside >= 32


def test_the_same_seed_gives_the_same_indices():
    parameters = [Parameter("a", 0, 1), Parameter("b", 0, 1)]

    def run(seed):
        return sensitivity(lambda x: {"y": x["a"] * x["b"]}, parameters, seed=seed, count=64).to_json()

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_bounds_hold_and_a_constant_has_no_indices():
    seen = []

    def function(x):
        seen.append(x["a"])
        return {"y": np.full_like(x["a"], 2.0)}

    outcome = sensitivity(function, [Parameter("a", 0.1, 1, (0.0, 0.5))], seed=0, count=64).outcomes["y"]
    values = np.concatenate(seen)
    assert (values.min() >= 0) & (values.max() <= 0.5)
    assert values.std() > 0.1
    assert (outcome.mean, outcome.deviation, outcome.first, outcome.total) == (2.0, 0.0, {}, {})


@pytest.mark.parametrize(
    "call",
    [
        lambda: Parameter("a", 0, 0),
        lambda: Parameter("a", math.nan, 1),
        lambda: Parameter("a", 0, 1, (1, 0)),
        lambda: sensitivity(lambda x: {}, [], seed=0),
        lambda: sensitivity(lambda x: {}, [Parameter("a", 0, 1)] * 2, seed=0),
        lambda: sensitivity(lambda x: {}, [Parameter("a", 0, 1)], seed=0, count=100),
        lambda: sensitivity(lambda x: {"y": 1 / (0 * x["a"])}, [Parameter("a", 0, 1)], seed=0, count=16),
        lambda: Parameter("a", 0, 1, (50, 60)).at(np.array([0.5])),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_parameters_are_said(call):
    with pytest.raises(InputError):
        call()


def quantity(mean, deviation, unit=None):
    content = {"mean": mean, "standard_deviation": deviation}
    return content if unit is None else content | {"unit": unit, "identifiable": True}


def causes(losses, **optics):
    """A record of one micrograph with these losses [bits] and posteriors."""
    named = {
        "ice_thickness": {"thickness": quantity(*optics.get("thickness", (300, 1)), "Å")},
        "envelope": {"b_factor": quantity(*optics.get("b_factor", (80, 1)), "Å²")},
        "motion": {"drift": quantity(0.5, 0.01, "Å"), "direction": quantity(0, 1, "degrees")},
        "defocus": {"mean_defocus": quantity(*optics.get("mean_defocus", (15000, 5)), "Å")},
        "astigmatism": {"astigmatism": quantity(200, 2, "Å"), "angle": quantity(10, 1, "degrees")},
        "detector": {"mtf_at_half_nyquist": quantity(0.8, None, "1")},
    }
    entries = {
        cause: {"identifiable": True, "weight": 1.0, "bits_lost": losses.get(cause), "parameters": parameters}
        for cause, parameters in named.items()
    }
    micrograph = {
        "name": "one", "flags": [], "information_in_bits": quantity(20000, 10),
        "ideal_information_in_bits": quantity(25000, 10), "fit_limit_in_angstroms": 4.0, "causes": entries,
    }  # fmt: skip
    session = {"ledger": losses, "information_in_bits": quantity(20000, 10)}
    return {"schema": "cryoprism-causes-1", "session": session, "micrographs": [micrograph]}


STAR = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
1 300 2.7 0.1

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
one.mrc 1
"""


def record(folder, content):
    (folder / "causes.json").write_text(json.dumps(content))
    (folder / "micrographs.star").write_text(STAR)
    (folder / "weights").mkdir(exist_ok=True)
    k = np.linspace(0.001, 0.5, 200)
    rows = "\n".join(f"{one:.6f} {2 * math.exp(-40 * one**2):.8f}" for one in k)
    (folder / "weights/one.star").write_text(f"\ndata_weights\n\nloop_\n_rlnResolution #1\n_cryoprismSsnr #2\n{rows}\n")
    return folder


def named(fragility, where, name):
    (found,) = [one for one in fragility.conclusions if one.where == where and name in one.name]
    return found


def test_a_clear_lead_does_not_flip_and_a_close_one_does(tmp_path):
    clear = {"motion": quantity(5000, 100), "detector": quantity(1000, 100)}
    one = named(judge_fragility(record(tmp_path, causes(clear)), count=256), "one", "fix first")
    assert one.flips == 0.0
    close = {"motion": quantity(1050, 100), "detector": quantity(1000, 300)}
    fragility = judge_fragility(record(tmp_path, causes(close)), count=1024)
    one = named(fragility, "session", "fix first")
    # P(N(50, √(100² + 300²)) < 0)
    assert one.flips == pytest.approx(0.437, abs=0.02)
    assert one.instead == "detector"
    assert one.depends_on() == ("detector", "motion")
    assert one.outcome.total["detector"].value == pytest.approx(0.9, abs=0.03)
    assert named(fragility, "one", "fix first") in fragility.fragile()


def test_what_moves_together_flips_less_often(tmp_path):
    """Two causes that rise and fall together keep their order; P(N(50, σ) < 0) with σ² = 100² + 300² − 2ρ·100·300."""
    close = {"motion": quantity(1050, 100), "detector": quantity(1000, 300)}
    for rho, flips in ((0.0, 0.437), (0.9, 0.405), (-0.9, 0.449)):
        content = causes(close)
        told = {"names": ["information", "detector", "motion"], "matrix": [[1, 0.1, 0.1], [0.1, 1, rho], [0.1, rho, 1]]}
        content["session"]["ledger_correlation"] = told
        found = judge_fragility(record(tmp_path, content), count=1024)
        one = named(found, "session", "fix first")
        deviation = math.sqrt(100**2 + 300**2 - 2 * rho * 100 * 300)
        assert one.joint
        assert one.outcome.deviation == pytest.approx(deviation, rel=0.02)
        assert one.flips == pytest.approx(flips, abs=0.01)
        assert not named(found, "one", "fix first").joint
    # Equal deviations and a correlation of 1: the order never changes.
    content = causes({"motion": quantity(1050, 300), "detector": quantity(1000, 300)})
    content["session"]["ledger_correlation"] = {"names": ["motion", "detector"], "matrix": [[1, 1], [1, 1]]}
    assert named(judge_fragility(record(tmp_path, content), count=256), "session", "fix first").flips == 0.0


@pytest.mark.parametrize(
    "told",
    [
        {"names": ["motion", "detector"], "matrix": [[1, 0.5]]},
        {"names": ["motion", "detector"], "matrix": [[1, "x"], ["x", 1]]},
        {"names": ["motion", "detector"]},
        ["motion"],
    ],
)
def test_a_correlation_that_is_none_is_said(tmp_path, told):
    content = causes({"motion": quantity(1050, 100), "detector": quantity(1000, 300)})
    content["session"]["ledger_correlation"] = told
    with pytest.raises(InputError):
        require_posteriors(record(tmp_path, content))


def test_micrographs_are_spread_over_the_list_and_counted(tmp_path):
    content = causes({"motion": quantity(5000, 100), "detector": quantity(1000, 100)})
    content["micrographs"] = [content["micrographs"][0] | {"name": f"m{number}"} for number in range(9)]
    found = judge_fragility(record(tmp_path, content), count=32, most_micrographs=3)
    assert {one.where for one in found.conclusions if not one.where.endswith("optics")} == {"session", "m0", "m4", "m8"}
    assert (found.micrographs, found.looked_at) == (9, 3)
    assert found.to_json()["micrographs_moved"] == 3


def test_the_resolution_hangs_on_the_b_factor_where_that_is_uncertain(tmp_path):
    losses = {"motion": quantity(5000, 100), "detector": quantity(1000, 100)}
    sure = judge_fragility(record(tmp_path, causes(losses)), count=128)
    assert named(sure, "one, optics", "resolution").flips == 0.0
    unsure = judge_fragility(record(tmp_path, causes(losses, b_factor=(80, 40))), count=128)
    one = named(unsure, "one, optics", "resolution")
    assert one.flips > 0.3
    assert one.depends_on() == ("b_factor",)
    amplitude = named(unsure, "one, optics", "amplitude")
    assert amplitude.depends_on() == ("b_factor",)
    assert float(amplitude.at_means) == pytest.approx(math.exp(-80 / 4 / 16) * math.exp(-300 / 3950 / 2), abs=0.03)


def test_the_ctf_is_lost_where_the_defocus_is(tmp_path):
    losses = {"motion": quantity(5000, 100), "detector": quantity(1000, 100)}
    sure = named(judge_fragility(record(tmp_path, causes(losses)), count=128), "one, optics", "CTF")
    assert sure.flips == 0.0
    assert sure.outcome.mean > 0.99
    lost = causes(losses, mean_defocus=(15000, 2000))
    unsure = named(judge_fragility(record(tmp_path, lost), count=128), "one, optics", "CTF")
    assert unsure.flips > 0.5
    assert unsure.depends_on()[0] == "mean_defocus"


@pytest.mark.parametrize(
    "change", [("_rlnVoltage", "_rlnOther"), ("1 300 2.7", "1 high 2.7"), ("one.mrc 1", "one.mrc 9")]
)
def test_without_a_lens_there_is_no_conclusion_about_the_ctf(tmp_path, change):
    losses = {"motion": quantity(5000, 100), "detector": quantity(1000, 100)}
    record(tmp_path, causes(losses))
    (tmp_path / "micrographs.star").write_text(STAR.replace(*change))
    require_posteriors(tmp_path)
    found = judge_fragility(tmp_path, count=64)
    assert named(found, "one, optics", "amplitude").outcome.deviation > 0
    assert not any("CTF" in one.name for one in found.conclusions)


def test_a_map_hangs_on_its_b_factor(tmp_path):
    content = {
        "schema": "cryoprism-resolution-1", "b_factor_in_square_angstroms": -100.0,
        "b_factor_standard_deviation_in_square_angstroms": 20.0,
        "resolution_in_angstroms": {"corrected": 3.0, "masked": 2.9, "unmasked": 3.5},
    }  # fmt: skip
    (tmp_path / "resolution.json").write_text(json.dumps(content))
    (one,) = judge_fragility(tmp_path, count=256).conclusions
    assert one.where == "map"
    assert float(one.at_means) == pytest.approx(math.exp(100 / 36), rel=0.01)
    spread = 20 / 36  # of the logarithm: the amplification is log-normal
    assert one.outcome.deviation / one.outcome.mean == pytest.approx(math.sqrt(math.exp(spread**2) - 1), rel=0.1)


def test_the_table_has_a_row_for_every_conclusion(tmp_path):
    losses = {"motion": quantity(5000, 100), "detector": quantity(1000, 100)}
    fragility = judge_fragility(record(tmp_path, causes(losses)), count=64)
    assert len(fragility.table().splitlines()) == 2 + len(fragility.conclusions)
    assert json.loads(json.dumps(fragility.to_json()))["evaluations"] == fragility.evaluations


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "neither"), ('{"schema": "cryo', "half written"), ('{"schema": "other"}', "form"), ("[]", "form")],
)
def test_unreadable_records_are_said(tmp_path, text, said):
    if text is not None:
        (tmp_path / "causes.json").write_text(text)
    with pytest.raises(InputError, match=said):
        judge_fragility(tmp_path)


def test_nothing_fitted_is_said(tmp_path):
    content = causes({})
    content["micrographs"] = []
    with pytest.raises(InputError, match="no parameter"):
        judge_fragility(record(tmp_path, content))

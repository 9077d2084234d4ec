"""A specimen that the real micrographs do not show."""

import shutil
from dataclasses import replace

import pytest

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.synthesis import read_match
from cryoprism.workflow.report._synthesis_page import synthesis_report
from cryoprism.workflow.synthesis.match_agreement import agreement_words, require_agreement


@pytest.fixture
def match(made):
    return read_match(made.output / "match")


def with_agreements(match, *values, **changes):
    some = (replace(one, agreement=value, **changes) for one, value in zip(match.micrographs, values, strict=True))
    return replace(match, micrographs=tuple(some))


def test_the_right_map_gives_no_warning(match):
    require_agreement(match)
    assert agreement_words(match) == ""


def test_a_doubtful_map_is_warned_of(match):
    doubtful = with_agreements(match, 0.95, 0.41)
    with pytest.warns(CryoPrismWarning, match=r"on 1 of 2 real micrographs agrees with the map to 0.41, below 0.8"):
        require_agreement(doubtful)
    with pytest.warns(CryoPrismWarning, match=r"on 2 of 2 real micrographs agrees with the map to 0.10 at the least"):
        require_agreement(with_agreements(match, 0.35, 0.1))


def test_a_map_of_something_else_is_refused_but_for_filaments(match):
    other = with_agreements(match, 0.21, 0.07)
    with pytest.raises(InputError, match=r"--map: is not what the real micrographs show.*0.21 at best.*--coordinates"):
        require_agreement(other)
    with pytest.warns(CryoPrismWarning, match="below 0.8"):
        require_agreement(other, single_particles=False)


def test_the_mean_of_a_few_particles_says_nothing(match):
    require_agreement(with_agreements(match, 0.1, 0.1, density_in_inverse_square_micrometers=2.0))


def test_the_report_says_so_first(match, made, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(made.output, out)
    page = synthesis_report(out, ["000001"], with_agreements(match, 0.6, 0.5), None, None).read_text()
    verdict = page.split('class="verdict">')[1].split("</p>")[0]
    assert "on 2 of 2 real micrographs agrees with the map to 0.50 at the least" in verdict
    assert "agrees with the map" not in made.report.read_text()

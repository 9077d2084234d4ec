import math

import pytest

from cryoprism.core import InputError
from cryoprism.evaluation import available, not_available


def test_an_answer_carries_value_deviation_and_evidence():
    made = available(0.75, 0.1, ["3 of 4 obligations are proved."], {"proved": 3}).to_json()
    assert made["value"] == 0.75
    assert made["standard_deviation"] == 0.1
    assert made["status"] == "available"
    assert made["evidence"] == {"proved": 3}


@pytest.mark.parametrize(("value", "deviation"), [(math.nan, 0.1), (-0.1, 0.1), (0.5, math.inf), (0.5, -1.0)])
def test_what_is_no_number_is_refused(value, deviation):
    with pytest.raises(InputError, match="no number"):
        available(value, deviation, [])


def test_no_answer_has_no_value_and_says_how_to_get_one():
    made = not_available("No citation data.", "Import a dump first.")
    assert made.value is None
    assert made.deviation is None
    assert made.sentences == ("No citation data.", "Import a dump first.")

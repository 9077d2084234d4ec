"""Share of settled causes: what counts, what does not, and what a file has to be."""

import json
import math

import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.meta import judge_settled


def document(path, last, *, determined=True, passes=3, flags=()):
    """A causes.json with what the judgement looks at: ``last`` is cause to (stability, shift)."""
    trace = [
        {
            "pass": number + 1,
            "causes": {
                name: {"stability": stable, "shift_in_standard_deviations": shift} for name, (stable, shift) in one
            },
        }
        for number, one in enumerate([[("defocus", (0.0, 9.0))], last.items()][-passes:])
    ]
    known = determined if isinstance(determined, set) else set(last) if determined else set()
    micrographs = [
        {"name": "a", "flags": list(flags), "causes": {name: {"identifiable": name in known} for name in last}}
    ]
    content = {
        "schema": "cryoprism-causes-1",
        "session": {"loop": {"converged": True, "passes": passes, "trace": trace if passes else []}},
        "micrographs": micrographs,
    }
    path.write_text(json.dumps(content))
    return path


ALL = ("defocus", "astigmatism", "motion", "envelope")


def test_all_settled_is_one_and_a_small_count_is_not_certain(tmp_path):
    answer = judge_settled(document(tmp_path / "causes.json", dict.fromkeys(ALL, (1.0, 0.2)))).answer()
    assert answer.value == 1.0
    # Beta(5, 1): four of four, nothing known before.
    assert answer.deviation == pytest.approx(math.sqrt(5 / (36 * 7)))
    assert "4 of 4 fitted causes" in answer.sentences[0]


def test_the_last_pass_counts_and_what_still_moves_counts_for_nothing(tmp_path):
    last = {"defocus": (0.96, 0.3), "astigmatism": (0.9, 1.4), "motion": (0.5, 0.2), "envelope": (1.0, 0.0)}
    found = judge_settled(document(tmp_path / "causes.json", last)).answer()
    assert found.value == pytest.approx((0.96 + 0.0 + 0.5 + 1.0) / 4)
    assert "astigmatism (by 1.4)" in " ".join(found.sentences)
    assert "(⋄ 0.50)" in " ".join(found.sentences)


def test_what_is_stated_or_not_determined_does_not_count(tmp_path):
    last = {"defocus": (0.8, 0.3), "motion": (1.0, 0.0), "hot_pixels": (1.0, 0.0)}
    found = judge_settled(document(tmp_path / "causes.json", last, determined={"defocus", "hot_pixels"}))
    assert [one.name for one in found.causes] == ["defocus", "motion"]
    assert found.answer().value == pytest.approx(0.8)
    assert "Not counted" in " ".join(found.answer().sentences)


@pytest.mark.parametrize("options", [{"determined": False}, {"passes": 0}])
def test_without_a_determined_cause_or_a_pass_there_is_no_answer(tmp_path, options):
    found = judge_settled(document(tmp_path / "causes.json", {"defocus": (1.0, 0.0)}, **options)).answer()
    assert found.value is None
    assert "cryoprism restore" in found.sentences[1]


@pytest.mark.parametrize("text", ["{", '{"schema": "other"}', '{"schema": "cryoprism-causes-1"}'])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "causes.json").write_text(text)
    with pytest.raises(InputError, match=r"causes\.json"):
        judge_settled(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        judge_settled(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("session", "loop", "trace", -1, "causes", "defocus", "stability"), "often"),
        (("session", "loop", "trace", -1, "causes", "defocus", "stability"), 1.5),
        (("session", "loop", "trace", -1, "causes", "defocus", "stability"), 10**400),
        (("session", "loop", "trace", -1, "causes", "defocus", "stability"), None),
        (("session", "loop", "trace", -1, "causes", "defocus"), [1, 2]),
        (("session", "loop", "trace", -1, "causes"), ["defocus"]),
        (("session", "loop", "trace"), {"a": 1}),
        (("session", "loop", "passes"), "three"),
        (("session", "loop"), []),
        (("session",), []),
        (("micrographs",), {"a": {}}),
        (("micrographs", 0), []),
        (("micrographs", 0, "causes"), ["defocus"]),
    ],
)
def test_odd_values_are_an_error_of_the_file(tmp_path, path, value):
    file = document(tmp_path / "causes.json", dict.fromkeys(ALL, (1.0, 0.2)))
    content = json.loads(file.read_text())
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"causes\.json"):
        judge_settled(file)

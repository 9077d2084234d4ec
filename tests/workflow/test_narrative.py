import json

import pytest

from cryoprism.causes import CAUSES
from cryoprism.core import InputError
from cryoprism.workflow import advice_for, cause_in_words, explanation_of, plot_ledger, session_sentences


def quantity(mean, deviation=1.0):
    return {"mean": mean, "standard_deviation": deviation}


def entry(name, flags=(), **losses):
    causes = {
        cause: {"identifiable": True, "weight": 1.0, "bits_lost": quantity(loss), "parameters": {}}
        for cause, loss in losses.items()
    }
    causes["beam_tilt"] = {"identifiable": False, "weight": 0.0, "bits_lost": None, "parameters": {}}
    lost = sum(losses.values())
    return {
        "name": name,
        "flags": list(flags),
        "information_in_bits": quantity(500.0),
        "ideal_information_in_bits": quantity(500.0 + lost),
        "causes": causes,
    }


def causes_of(entries):
    ledger = {}
    for one in entries:
        for cause, values in one["causes"].items():
            if values["bits_lost"] is not None:
                ledger[cause] = quantity(ledger.get(cause, quantity(0.0))["mean"] + values["bits_lost"]["mean"])
    lost = sum(values["mean"] for values in ledger.values())
    return {
        "schema": "cryoprism-causes-1",
        "cryoprism_version": "0.1.0",
        "session": {
            "micrographs": len(entries),
            "information_in_bits": quantity(1000.0),
            "ideal_information_in_bits": quantity(1000.0 + lost),
            "ledger": ledger,
            "priors": {},
            "loop": {"converged": True, "passes": 1, "trace": []},
            "graph": {"nodes": [], "edges": []},
        },
        "micrographs": entries,
    }


@pytest.fixture
def session():
    early = [entry(f"early{i}.mrc", motion=300.0, ice_thickness=100.0) for i in range(3)]
    late = [entry(f"late{i}.mrc", motion=10.0, ice_thickness=100.0) for i in range(8)]
    return causes_of([*early, *late, entry("last.mrc", flags=["no_thon_rings"], motion=10.0, ice_thickness=100.0)])


# Two of the three moved ones hold more than 60 % of the loss, and that is where a user should look first.
def test_the_worst_cause_is_named_with_its_share_its_place_and_a_remedy(session):
    ice, motion, *rest = session_sentences(session)
    assert ice.startswith("55 ± 1 % of the lost information is thick ice. ")
    assert motion.startswith("45 ± 1 % of the lost information is motion, mostly in the first 2 of 12 images. ")
    assert "Align frames again" in motion
    assert rest == [
        "Not identifiable from these data, so nothing is claimed: beam tilt. "
        "Shares are of the loss that could be priced.",
        "1 of 12 micrographs are flagged.",
    ]


def test_a_loss_within_its_error_is_not_claimed():
    content = causes_of([entry("a.mrc", motion=300.0, astigmatism=1.5)])
    assert not any("astigmatism" in sentence for sentence in session_sentences(content))


def test_a_large_but_uncertain_loss_is_not_kept_quiet():
    content = causes_of([entry("a.mrc", motion=300.0, detector=700.0)])
    content["session"]["ledger"]["detector"] = quantity(700.0, 2000.0)
    first, second, *_ = session_sentences(content)
    assert first.startswith("30 ± 1 % of the lost information is motion")
    assert second == "Possibly large, but too uncertain to say: the detector (70 ± 200 %)."


def test_every_cause_has_words_and_a_remedy_which_are_those_of_the_graph():
    for name, cause in CAUSES.items():
        for remedy in (cause.remedy_processing, cause.remedy_microscope):
            assert remedy == "none" or remedy.lower() in advice_for(name).lower()
        assert advice_for(name).endswith("."), name
        assert "_" not in cause_in_words(name)
    assert advice_for("coincidence") == "Lower the dose rate on the detector."
    assert advice_for("carbon") == "Pick outside the mask; at the microscope: centre the beam on the hole."
    assert (cause_in_words("of_a_later_version"), advice_for("of_a_later_version")) == ("of a later version", "")


def test_nothing_lost_and_nothing_estimated_are_said():
    assert session_sentences(causes_of([entry("a.mrc")])) == ("No cause took a measurable amount of information.",)
    assert session_sentences(causes_of([])) == ("No micrograph was estimated.",)


def test_one_micrograph_is_found_by_name_stem_or_part(session, tmp_path):
    (tmp_path / "causes.json").write_text(json.dumps(session))
    for name in ("last.mrc", "last", "las"):
        explanation = explanation_of(tmp_path, name)
        assert explanation.title == "last.mrc"
        assert list(explanation.ledger) == ["ice_thickness", "motion"]
        assert explanation.abstained == ("beam_tilt",)
        assert "Flagged: no thon rings." in explanation.sentences
    with pytest.raises(InputError, match="'early' fits 3 micrographs"):
        explanation_of(tmp_path, "early")
    with pytest.raises(InputError, match="not in this session"):
        explanation_of(tmp_path, "nobody")


@pytest.mark.parametrize("content", ["", "[]", '{"schema": "cryoprism-causes-0"}', "\x00\x01"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "causes.json"
    path.write_text(content)
    with pytest.raises(InputError):
        explanation_of(path)


def test_the_plot_is_a_picture_and_an_unknown_suffix_an_error(session, tmp_path):
    (tmp_path / "causes.json").write_text(json.dumps(session))
    explanation = explanation_of(tmp_path)
    plot_ledger(explanation, tmp_path / "ledger.png")
    assert (tmp_path / "ledger.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"\.png"):
        plot_ledger(explanation, tmp_path / "ledger.xyz")

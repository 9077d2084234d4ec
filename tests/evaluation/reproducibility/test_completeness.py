"""What another laboratory would need: data, software, parameters, and what a deposition asks for."""

import json

import pytest
from recorded_jobs import items_of, missing, write_job

from cryoprism import __version__
from cryoprism.core import InputError
from cryoprism.evaluation.reproducibility import completeness, judge_reproducibility


def test_complete_data_software_and_parameters(project):
    items = items_of(project)
    for group in ("data", "software", "parameters"):
        assert not missing(items, group)
    assert all(item.remedy for item in items if not item.there)
    assert not any(item.remedy for item in items if item.there)


def test_a_changed_and_an_absent_input_are_found(project):
    (project / "raw/a.mrc").write_text("other")
    (project / "Refine/job002/half2.mrc").unlink()
    found = missing(items_of(project), "data")
    assert "changed" in found["inputs of Extract (job001)"].found
    assert "absent" in found["inputs of Resolution (job003)"].found
    judged = judge_reproducibility(project / "Resolution/job003")
    assert "not there any more" in judged.why_not


def test_other_software_is_said_with_what_to_install(project):
    versions = {"cryoprism": __version__, "numpy": "1.0.0", "nosuchpackage": "2.0"}
    write_job(project, "Refine/job002", "Refine", ["Extract/job001/particles.star"], versions=versions)
    found = missing(items_of(project), "software")["software of Refine (job002)"]
    assert "numpy 1.0.0, here" in found.found
    assert "pip install numpy==1.0.0" in found.remedy


def test_a_job_without_seed_or_end_is_not_complete(project):
    write_job(project, "Refine/job002", "Refine", ["Extract/job001/particles.star"], seed=None, status="running")
    found = missing(items_of(project), "parameters")
    assert set(found) == {"seed of Refine (job002)", "end of Refine (job002)"}


OPTICS = "\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnVoltage #2\n_rlnSphericalAberration #3\n1 300.0 2.7\n"


def test_what_a_deposition_asks_for_is_looked_for_along_the_chain(project):
    before = missing(items_of(project), "deposition")
    voltage = "microscope voltage (em_imaging.accelerating_voltage)"
    detector = "detector (em_image_recording.film_or_detector_model)"
    resolution = "resolution (em_3d_reconstruction.resolution)"
    assert {voltage, detector, resolution} <= set(before)
    assert "deposition.json" in before[detector].remedy
    assert "both unfiltered half maps (half maps)" not in before
    (project / "Extract/job001/micrographs.star").write_text(OPTICS)
    (project / "Resolution/job003/resolution.json").write_text(
        json.dumps({"resolution_in_angstroms": {"corrected": 3.214}, "particles": 1000, "symmetry": "O"})
    )
    (project / "Resolution/job003/deposition.json").write_text(
        json.dumps({"em_image_recording.film_or_detector_model": "GATAN K3"})
    )
    items = items_of(project)
    after = missing(items, "deposition")
    assert not {voltage, detector, resolution, "number of particles (em_3d_reconstruction.num_particles)"} & set(after)
    values = {item.name: item.found for item in items}
    assert (values[voltage], values[detector], values[resolution]) == ("300.0", "GATAN K3", "3.21 Å (FSC corrected)")
    assert completeness(items)[0] > completeness(items_of(project, "Refine/job002"))[0]
    (project / "Resolution/job003/deposition.json").write_text("[1]")
    with pytest.raises(InputError, match="no mapping"):
        items_of(project)


def test_the_verdict_says_whether_another_laboratory_could_repeat_it(project):
    good = judge_reproducibility(project / "Resolution/job003", rerun=False)
    assert good.repeatable_elsewhere
    assert "Another laboratory that is given the images has what it takes" in good.answer().sentences[0]
    assert any("EMDB and EMPIAR require" in sentence for sentence in good.answer().sentences)
    (project / "raw/a.mrc").unlink()
    bad = judge_reproducibility(project / "Resolution/job003", rerun=False)
    assert not bad.answer().evidence["repeatable_elsewhere"]
    assert "could not repeat it" in bad.answer().sentences[0]
    assert "inputs of Extract" in bad.answer().sentences[0]


def test_what_empiar_asks_of_the_images_is_read_from_them(project):
    import torch

    from cryoprism.formats import write_mrc

    names = (
        "what the raw images are (EMPIAR category and format)",
        "frames and size of a raw image (EMPIAR frames and size)",
    )
    assert set(names) <= set(missing(items_of(project), "deposition"))
    write_mrc(project / "raw/a.mrc", torch.zeros(48, 64), 1.5)
    values = {item.name: item.found for item in items_of(project)}
    assert values[names[0]] == "micrographs - single frame, MRC, 4 bytes a value"
    assert values[names[1]] == "1 frame(s) of 64 x 48 pixels"
    table = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnDefocusU #2\n_rlnDefocusV #3\n"
    (project / "Extract/job001/micrographs.star").write_text(table + "a.mrc 10000 12000\nb.mrc 21000 19000\n")
    values = {item.name: item.found for item in items_of(project)}
    assert values["smallest defocus (em_imaging.nominal_defocus_min)"] == "1100 nm (fitted)"
    assert values["largest defocus (em_imaging.nominal_defocus_max)"] == "2000 nm (fitted)"
    (project / "Extract/job001/micrographs.star").write_text(table + "a.mrc x 12000\n")
    assert "smallest defocus (em_imaging.nominal_defocus_min)" in missing(items_of(project), "deposition")


def test_completeness_counts_groups_alike_and_is_never_sure(project):
    items = [item for item in items_of(project) if item.group != "deposition"]
    value, deviation = completeness(items)
    assert value == 1.0
    assert 0 < deviation < 0.3


@pytest.mark.parametrize("resolution", ["fine", [3], {"corrected": "fine"}, {"corrected": -1}, 10**400])
def test_an_odd_resolution_is_none(project, resolution):
    content = {"resolution_in_angstroms": resolution, "particles_in_halves": ["a", None]}
    (project / "Resolution/job003/resolution.json").write_text(json.dumps(content))
    found = missing(items_of(project), "deposition")
    assert {"resolution (em_3d_reconstruction.resolution)",
            "number of particles (em_3d_reconstruction.num_particles)"} <= set(found)  # fmt: skip


def test_what_cannot_be_repeated_has_no_high_answer(project):
    whole = judge_reproducibility(project / "Resolution/job003", rerun=False).answer()
    assert whole.evidence["at_most"] == 1.0
    (project / "raw/a.mrc").unlink()
    answer = judge_reproducibility(project / "Resolution/job003", rerun=False).answer()
    there = [item["there"] for item in answer.evidence["items"] if item["needed"]]
    assert answer.value == pytest.approx(min(0.5, sum(there) / len(there)))
    assert answer.value < 0.5 < answer.evidence["completeness"] < whole.value
    formula = next(sentence for sentence in answer.sentences if sentence.startswith("Completeness"))
    assert f"{answer.evidence['completeness']:.3f}" in formula
    assert f"data 2 of 3, software 3 of 3, parameters 9 of 9, deposition {sum(there) - 14} of 18" in formula
    assert f"at most {answer.value:.3f}" in formula


def test_a_map_that_is_not_there_has_no_voxel_size(tmp_path):
    name = "voxel size (em_map.pixel_spacing_x)"
    folder = write_job(tmp_path, "Simulate/job001", "Simulate", config={"output": "x", "pixel_size_in_angstroms": 1.5})
    assert name in missing(items_of(tmp_path, "Simulate/job001"), "deposition")
    (folder / "map.mrc").write_text("a map")
    assert name not in missing(items_of(tmp_path, "Simulate/job001"), "deposition")

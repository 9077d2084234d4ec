import json

from cryoprism.workflow import compare_with_truth


def test_the_table_shows_estimate_error_and_truth_and_a_question_mark_where_nothing_is_known(tmp_path):
    def parameter(mean, deviation, identifiable=True):
        return {"mean": mean, "standard_deviation": deviation, "unit": "Å", "identifiable": identifiable}

    bits = {"mean": 5.0, "standard_deviation": 1.0}
    causes = {
        "defocus": {"bits_lost": None, "parameters": {"mean_defocus": parameter(14_001.0, 4.0)}},
        "motion": {"bits_lost": bits, "parameters": {"drift": parameter(0.2, 3.0, identifiable=False)}},
    }
    content = {"schema": "cryoprism-causes-1", "micrographs": [{"name": "001-clean.mrc", "causes": causes}]}
    (tmp_path / "causes.json").write_text(json.dumps(content))
    scene = {"defocus_in_angstroms": 14_000.0, "astigmatism_in_angstroms": 467.0}
    # A uniform drift by (3, 4) Å, from -½ to ½ of it in many steps.
    track = [[3.0 * (i / 999 - 0.5), 4.0 * (i / 999 - 0.5)] for i in range(1000)]
    truth = {"scene": scene, "mean_ice_thickness_in_angstroms": 300.0, "track_in_angstroms": track}
    (tmp_path / "001-clean.json").write_text(json.dumps(truth))
    _, _, row = compare_with_truth(tmp_path / "causes.json", tmp_path)
    assert row.split("  ")[0] == "001-clean"
    for cell in ("14001 ± 4 (14000)", "? (467)", "? (5.0)", "? (300)", "motion"):
        assert cell in row

"""``cryoprism assess``: what it writes with and without a record, what is absent, bad input, starting again."""

import json
import math
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from cryoprism.cli import main
from cryoprism.core import InputError
from cryoprism.evaluation.fusion import read_assessment
from cryoprism.evaluation.impact import GraphWriter, Prediction, write_forecasts
from cryoprism.formats import write_mrc
from cryoprism.workflow import AssessConfig, SimulateConfig, assess_session, open_job
from cryoprism.workflow.judgement import assess_questions
from programs import needs_coq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation" / "novelty"))
from made_shapes import blob_rows, helix, write_pdb

SCHEMA = json.loads(
    (Path(__file__).resolve().parents[2] / "src/cryoprism/workflow/schemas/assessment.schema.json").read_text("utf-8")
)
COMPONENTS = ("logic", "novelty", "impact", "reproducibility", "meta")


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(one) for one in arguments])
    return caught.value.code


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "helix.pdb"
    write_pdb(path, helix(12))
    return path


def document(folder):
    content = json.loads((folder / "assessment.json").read_text())
    jsonschema.validate(content, SCHEMA, cls=jsonschema.Draft202012Validator)
    return content


def settled(name, moved):
    return {"stability": 1.0, "shift_in_standard_deviations": moved}


@pytest.fixture
def record(tmp_path):
    """A job with a causes.json, as a restoration leaves it."""
    causes = ("defocus", "astigmatism")
    folder = tmp_path / "Restore" / "job001"
    with open_job("Restore", SimulateConfig(output=folder, seed=2)) as job:
        bits = {"mean": 100.0, "standard_deviation": 30.0}
        content = {
            "schema": "cryoprism-causes-1",
            "session": {
                "information_in_bits": bits,
                "ledger": {"motion": bits, "detector": {"mean": 90.0, "standard_deviation": 30.0}},
                "loop": {
                    "converged": True,
                    "passes": 2,
                    "trace": [
                        {"pass": 2, "causes": {"defocus": settled("defocus", 0.1), "astigmatism": settled("", 2)}}
                    ],
                },
            },
            "micrographs": [
                {
                    "name": "a",
                    "flags": [],
                    "information_in_bits": bits,
                    "causes": {name: {"identifiable": True, "bits_lost": None, "parameters": {}} for name in causes},
                }
            ],
        }
        (job.path / "causes.json").write_text(json.dumps(content))
    return folder


def test_a_model_alone_is_assessed_and_every_gap_says_how_to_fill_it(model, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("assess", model, "--out", out) == 0
    content = document(out)
    said = capsys.readouterr().out
    for name, option in (("novelty", "--index"), ("impact", "--impact"), ("reproducibility", "--record")):
        assert content[name]["status"] == "not available"
        assert option in " ".join(content[name]["sentences"])
        assert f"Not available: {name}." in said
    assert "--record" in " ".join(content["meta"]["sentences"])
    assert set(content["missing"]) >= set(COMPONENTS) - {"logic"}
    assert content["weights"]["novelty"] == 0
    assert read_assessment(out / "assessment.json").values["novelty"] is None
    assert (out / "RELION_JOB_EXIT_SUCCESS").exists()
    page = (out / "report.html").read_text()
    assert content["verdict"] in page.replace("&quot;", '"').replace("&#x27;", "'")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "not available" in page


@needs_coq
def test_the_certificate_is_there_and_the_score_is_that_of_the_proofs(model, tmp_path):
    out = tmp_path / "out"
    assess_session(AssessConfig(model_file=model, output=out))
    content = document(out)
    counts = content["logic"]["evidence"]["counts"]
    assert content["logic"]["status"] == "available"
    assert counts["proved"] + counts["refuted"] + counts["unknown"] == counts["obligations"] > 0
    for name in ("check.sh", "transcript.txt", "Data.v"):
        assert list((out / "certificate").rglob(name))
    assert content["v"]["value"] == pytest.approx(content["logic"]["value"])
    full = json.loads((out / "consistency.json").read_text())
    assert full["counts"] == counts
    assert "by_residue" not in content["logic"]["evidence"]


def test_without_a_prover_nothing_counts_as_proved(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "out"
    assess_session(AssessConfig(model_file=model, output=out))
    content = document(out)
    assert content["logic"]["status"] == "available"
    assert content["logic"]["value"] == 0
    assert "Coq" in " ".join(content["logic"]["sentences"])
    assert content["v"]["value"] == 0
    assert content["hyperscore"]["value"] == 100
    assert content["verdict"].startswith("Nothing about the model is proved")


def test_a_forecast_and_an_index_answer_two_more(model, tmp_path):
    pytest.importorskip("faiss", reason="faiss is not installed (the extra 'assess')")
    known = tmp_path / "shapes"
    known.mkdir()
    for seed in range(3):
        write_pdb(known / f"blob{seed}.pdb", blob_rows(seed))
    assert run("novelty", "build", known, "--out", tmp_path / "known") == 0
    cited = tmp_path / "cited"
    cited.mkdir()
    writer = GraphWriter(cited / "citations.sqlite", simulated=True)
    writer.work(7, 2020.0, authors=2, cites=(), doi="10.1000/helix", pubmed=None, title="A helix")
    writer.finish()
    numbers = Prediction(*(np.array([value]) for value in (12.0, 5.0, 3.0, 25.0)))
    about = {"chosen": "preferential attachment", "chosen_for_patents": None, "until": 2024.0, "simulated": True}
    write_forecasts(cited / "forecasts.sqlite", cited / "citations.sqlite", np.array([7]), numbers, None, about)
    write_pdb(model, helix(24))  # a shorter one has no shape
    out = tmp_path / "out"
    options = ("--index", tmp_path / "known", "--impact", cited, "--publication", "10.1000/helix")
    assert run("assess", model, "--out", out, *options) == 0
    content = document(out)
    assert content["impact"]["value"] == 12.0
    assert content["impact"]["standard_deviation"] == 5.0
    assert "SIMULATED" in content["verdict"]
    assert content["contributions"]["impact"] == pytest.approx(content["weights"]["impact"] * math.log(13))
    assert content["novelty"]["evidence"]["index_entries"] == 3
    assert len(content["novelty"]["evidence"]["neighbours"]) == 3
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 3 * 4  # the model and its three nearest, along three axes
    assert "A helix" in page


def test_a_record_answers_three_questions_and_is_not_taken_for_the_models_own(model, record, tmp_path, monkeypatch):
    monkeypatch.setattr(assess_questions, "walls", lambda: (_ for _ in ()).throw(InputError("s", "no walls", "Get.")))
    out = tmp_path / "out"
    assess_session(AssessConfig(model_file=model, record=record, output=out))
    content = document(out)
    assert content["meta"]["value"] == pytest.approx(0.5)
    assert content["reproducibility"]["status"] == "not tied to the model"
    assert content["reproducibility"]["standard_deviation"] > 0.2  # nobody has run it again
    assert "no walls" in " ".join(content["reproducibility"]["sentences"])
    table = content["perturbation"]["evidence"]["conclusions"]
    assert {"motion", "detector"} <= set(next(one for one in table if one["where"] == "session")["total"])
    assert "nothing here shows it" in content["notes"][0]


def test_fragility_says_at_how_many_micrographs_it_looked(model, record, tmp_path):
    content = json.loads((record / "causes.json").read_text())
    one = content["micrographs"][0]
    one["causes"]["defocus"]["bits_lost"] = one["causes"]["astigmatism"]["bits_lost"] = one["information_in_bits"]
    content["micrographs"] = [one | {"name": f"m{number}"} for number in range(7)]
    (record / "causes.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    base = ("assess", model, "--record", record, "--no-rerun", "--out", out)
    assert run(*base, "--perturbed-micrographs", 3) == 0
    part = document(out)["perturbation"]
    assert {row["where"] for row in part["evidence"]["conclusions"]} == {"session", "m0", "m3", "m6"}
    assert (part["evidence"]["micrographs"], part["evidence"]["micrographs_moved"]) == (7, 3)
    said = (
        "Only 3 of 7 micrographs, evenly spread over the list, were looked at: --perturbed-micrographs says how many."
    )
    assert said in part["sentences"]
    assert any("independently" in sentence for sentence in part["sentences"])
    assert "Only 3 of 7 micrographs" in (out / "report.html").read_text()
    assert run(*base, "--only-do-unfinished") == 0
    assert "All 7 micrographs were looked at." in document(out)["perturbation"]["sentences"]


def test_what_missing_answers_could_make_of_the_score_stands_beside_its_interval(model, record, tmp_path):
    out = tmp_path / "out"
    assess_session(AssessConfig(model_file=model, record=record, rerun=False, output=out))
    content = document(out)
    low, high = content["hyperscore_range"]
    page = (out / "report.html").read_text()
    # It is the first of the facts, before the interval that does not hold it.
    wide, narrow = f"<b>{low:.1f} to {high:.1f}</b>", "HyperScore of the answers that there are alone"
    assert -1 < page.index(wide) < page.index(narrow)
    assert (
        f"HyperScore with the {len(content['missing'])} missing answers anywhere (impact up to 100 citations)" in page
    )
    assert f"with the missing answers anywhere, between {low:.1f} and {high:.1f}" in content["sentences"][0]
    # Whose record it is stands in the same sentences as whether it could be repeated.
    assert "nothing shows to be this model's" in content["verdict"]
    assert "nothing here shows it" in content["reproducibility"]["sentences"][0]
    assert "tells a failed estimate from another" in page
    # Two of two causes, one of them settled: half, and its deviation is one a mean can have.
    assert content["meta"]["value"] == pytest.approx(0.5)
    assert "meta" not in content["drawn_means"]


def test_a_rerun_beyond_the_budget_is_not_done(model, record, tmp_path, monkeypatch):
    monkeypatch.setattr(assess_questions, "walls", lambda: None)
    real = assess_questions.judge_reproducibility

    def never(folder, *, rerun=True, limits=None):
        assert not rerun
        return real(folder, rerun=False)

    monkeypatch.setattr(assess_questions, "judge_reproducibility", never)
    out = tmp_path / "out"
    assess_session(AssessConfig(model_file=model, record=record, output=out, rerun_budget_in_seconds=1e-6))
    assert "--rerun-budget" in " ".join(document(out)["reproducibility"]["sentences"])


def test_what_was_answered_is_kept_and_what_changed_is_asked_again(model, record, tmp_path, monkeypatch):
    out = tmp_path / "out"
    asked = []
    real = assess_questions.check_consistency

    def counted(*arguments, **options):
        asked.append("logic")
        return real(*arguments, **options)

    monkeypatch.setattr(assess_questions, "check_consistency", counted)
    base = {"model_file": model, "output": out, "rerun": False}
    assess_session(AssessConfig(**base))
    if document(out)["logic"]["status"] != "available":
        pytest.skip("without a prover the question is asked each time")
    # A record that comes later changes nothing about the proofs.
    assess_session(AssessConfig(**base, record=record, only_do_unfinished=True))
    assert asked == ["logic"]
    assert document(out)["meta"]["value"] == pytest.approx(0.5)
    (data,) = (out / "certificate").rglob("Data.v")
    data.unlink()
    assess_session(AssessConfig(**base, record=record, only_do_unfinished=True))
    assert asked == ["logic", "logic"]
    assert data.exists()
    write_pdb(model, helix(13))
    assess_session(AssessConfig(**base, record=record, only_do_unfinished=True))
    assert len(asked) == 3


def test_an_interrupted_run_says_so_and_keeps_what_it_had(model, record, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def stop(path):
        if (out / "consistency.json").exists():
            raise KeyboardInterrupt
        return real(path)

    real = assess_questions.judge_settled
    monkeypatch.setattr(assess_questions, "judge_settled", stop)
    with pytest.raises(KeyboardInterrupt):
        assess_session(AssessConfig(model_file=model, record=record, rerun=False, output=out))
    assert (out / "RELION_JOB_EXIT_FAILURE").exists()
    assert not (out / "assessment.json").exists()
    monkeypatch.undo()
    assess_session(AssessConfig(model_file=model, record=record, rerun=False, output=out, only_do_unfinished=True))
    assert document(out)["meta"]["value"] is not None


def no_model(folder):
    (folder / "helix.pdb").unlink()
    return ()


def no_atoms(folder):
    (folder / "helix.pdb").write_text("HEADER    NOTHING\nEND\n")
    return ()


def no_record(folder):
    (folder / "empty").mkdir()
    return ("--record", folder / "empty")


def no_index(folder):
    return ("--index", folder / "nowhere")


def no_forecasts(folder):
    return ("--impact", folder / "nowhere")


def no_weights(folder):
    (folder / "weights.json").write_text("{}")
    return ("--score-weights", folder / "weights.json")


def no_map(folder):
    (folder / "map.mrc").write_text("no map")
    return ("--map", folder / "map.mrc")


def empty_map(folder):
    write_mrc(folder / "map.mrc", np.zeros((32, 32, 32), dtype=np.float32), 2.0)
    return ("--map", folder / "map.mrc")


def half_written_causes(folder):
    with open_job("Restore", SimulateConfig(output=folder / "Restore")) as job:
        (job.path / "causes.json").write_text('{"schema": ')
    return ("--record", folder / "Restore")


def odd_causes(change):
    def spoil(folder):
        bits = {"mean": 100.0, "standard_deviation": 30.0}
        trace = [{"pass": 1, "causes": {"defocus": settled("defocus", 0.1)}}]
        session = {
            "information_in_bits": bits,
            "ledger": {"motion": bits},
            "loop": {"converged": True, "passes": 1, "trace": trace},
        }
        content = {"schema": "cryoprism-causes-1", "session": session, "micrographs": []}
        change(content)
        with open_job("Restore", SimulateConfig(output=folder / "Restore")) as job:
            (job.path / "causes.json").write_text(json.dumps(content))
        return ("--record", folder / "Restore")

    return spoil


unstable = odd_causes(lambda one: one["session"]["loop"]["trace"][0]["causes"]["defocus"].update(stability="x"))
listed_causes = odd_causes(lambda one: one["session"]["loop"]["trace"][0].update(causes=["defocus"]))
#: What only the fragility looks at.
odd_ledger = odd_causes(lambda one: one["session"].update(ledger=["motion"]))
odd_loss = odd_causes(lambda one: one["session"]["ledger"].update(motion={"mean": "many", "standard_deviation": 1}))
no_information = odd_causes(lambda one: one["session"].pop("information_in_bits"))


def deep_record(folder):
    (folder / "job").mkdir()
    (folder / "job/job.json").write_text("[" * 100_000)
    return ("--record", folder / "job")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (unstable, "stability"),
        (listed_causes, "list"),
        (odd_ledger, "Restore"),
        (odd_loss, "many"),
        (no_information, "information_in_bits"),
        (deep_record, "too deeply"),
        (no_model, "helix.pdb"),
        (no_atoms, "helix.pdb"),
        (no_record, "job.json"),
        (no_index, "nowhere"),
        (no_forecasts, "nowhere"),
        (no_weights, "weights.json"),
        (no_map, "map.mrc"),
        (empty_map, "map"),
        (half_written_causes, "causes.json"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_no_folder(model, tmp_path, capsys, spoil, words):
    more = spoil(tmp_path)
    out = tmp_path / "out"
    assert run("assess", model, "--out", out, *more) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error:")]
    assert words in line
    assert not out.exists()


def test_help_says_which_command_has_the_verdict_as_exit_code(capsys):
    assert run("assess", "--help") == 0
    assert "cryoprism prove" in " ".join(capsys.readouterr().out.split())


def test_a_change_in_the_middle_of_a_large_model_is_a_change(tmp_path):
    from cryoprism.formats import sha256_of_file
    from cryoprism.workflow.jobs.files import fingerprint

    one, other = tmp_path / "one.cif", tmp_path / "other.cif"
    data = bytearray(3 << 20)
    one.write_bytes(data)
    data[len(data) // 2] = 1
    other.write_bytes(data)
    assert fingerprint(one)["sha256_of_ends"] == fingerprint(other)["sha256_of_ends"]
    assert sha256_of_file(one) != sha256_of_file(other)

"""Proofs about small models by the real Coq: clean ones are proved, planted faults refuted with the right atoms."""

import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from small_models import helix, moved, pdb

from cryoprism.core import InputError
from cryoprism.evaluation.consistency import HOW_TO_INSTALL, Limits, check_consistency, read_model
from cryoprism.formats import Volume
from programs import absent, needs_coq


def checked(tmp_path, text, **options):
    path = tmp_path / "model.pdb"
    path.write_text(text)
    return check_consistency(path, **options)


def rule_of(result, name):
    return next(rule for rule in result.rules if rule.name == name)


def density(rows, shift=0.0):
    places = np.array([place for _, _, place in rows])
    low = places.min(axis=0) - 10
    shape = np.ceil((places.max(axis=0) + 10 - low) / 1.0).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1) + low
    data = sum(np.exp(-((grid - place - shift) ** 2).sum(axis=-1) / 4) for place in places)
    noise = np.random.default_rng(1).normal(0, 0.02, data.shape)
    return Volume(torch.from_numpy((data + noise).transpose(2, 1, 0).astype(np.float32)), 1.0, tuple(low.tolist()))


@needs_coq
def test_a_clean_helix_is_proved_in_its_map(tmp_path):
    rows = helix()
    result = checked(tmp_path, pdb({"A": rows}), volume=density(rows))
    assert result.verdict == "proved", result.sentences()
    assert {rule.name for rule in result.rules} >= {
        "clashes",
        "bonds",
        "chains",
        "chirality",
        "cis_peptides",
        "envelope",
    }
    assert rule_of(result, "chirality").obligations == 8 + 7 + 7  # centres, peptides, carbonyls
    assert rule_of(result, "bonds").obligations == 8 * 4 + 7 + 8 * 2 + 7 * 2  # bonds, angles
    assert result.score == 1.0
    assert 0 < result.deviation < 0.05
    assert result.answer().status == "available"


@needs_coq
def test_every_planted_fault_is_refuted_with_its_atoms_and_the_rest_stays_proved(tmp_path):
    first = helix()
    ca = {k: p for k, n, p in first if n == "CA"}
    mirror = [(k, n, p * np.array([1, 1, -1])) for k, n, p in helix()]
    chains = {
        # Cβ of residue 2 beside the Cα of residue 7: a clash, and a bond too long.
        "A": moved(first, 2, "CB", ca[7] + np.array([0.7, 0.7, 0.7])),
        # Mirrored: all centres have the wrong hand.
        "B": [(k, n, p + np.array([60, 0, 0])) for k, n, p in mirror],
        # Residues from 5 on are 9 Å away: the chain is broken.
        "C": [(k, n, p + np.array([0, 60, 0]) + (9 if k >= 5 else 0)) for k, n, p in first],
        "D": [(k, n, p + np.array([0, 0, 60])) for k, n, p in helix(cis_after=4)],
        # The clean one.
        "E": [(k, n, p + np.array([60, 60, 0])) for k, n, p in first],
    }
    result = checked(tmp_path, pdb(chains))
    assert result.verdict == "refuted"
    clash = rule_of(result, "clashes")
    assert any(
        "Cβ of Ala 2 in chain A" in one.words and "Cα of Ala 7 in chain A" in one.words for one in clash.offenders
    )
    hands = rule_of(result, "chirality")
    assert {one.words.split("chain ")[1][0] for one in hands.offenders} <= {"A", "B"}
    assert sum("in chain B is the mirror image" in one.words for one in hands.offenders) == 8
    breaks = [one for one in rule_of(result, "chains").offenders if "chain C" in one.words]
    assert len(breaks) == 1
    assert "Cα of Ala 4" in breaks[0].words
    assert "Cα of Ala 5" in breaks[0].words
    cis = rule_of(result, "cis_peptides").offenders
    assert ["Ala 4 in chain D to Ala 5 in chain D" in one.words for one in cis] == [True]
    clean = [k for k, residue in enumerate(result.model.residues) if residue.chain == "E"]
    assert all(rule.by_residue[k][1:] == (0, 0) for rule in result.rules for k in clean if k in rule.by_residue)
    assert all(rule.proved + rule.refuted + rule.unknown == rule.obligations for rule in result.rules)
    assert rule_of(result, "clashes").unknown == 0


@needs_coq
def test_proline_may_be_cis(tmp_path):
    result = checked(tmp_path, pdb({"A": helix(cis_after=4)}, names={("A", 5): "PRO"}))
    assert rule_of(result, "cis_peptides").refuted == 0
    assert rule_of(result, "cis_peptides").obligations == 6


@needs_coq
def test_copies_overlap_or_not_by_where_the_axis_is(tmp_path):
    rows = helix()
    far = [(k, n, p + np.array([40.0, 0, 0])) for k, n, p in rows]
    apart = checked(tmp_path, pdb({"A": far}), symmetry="C2")
    assert "copies" not in {rule.name for rule in apart.rules}  # copies 80 Å away: nothing comes near
    centre = np.mean([p for _, _, p in rows], axis=0) + np.array([2.0, 0, 0])
    near = [(k, n, p - centre) for k, n, p in rows]
    result = checked(tmp_path, pdb({"A": near}), symmetry="C2")
    copies = rule_of(result, "copies")
    assert copies.refuted > 0
    assert "symmetry copy 1" in copies.offenders[0].words
    middle = np.mean([p for _, _, p in rows], axis=0) - np.array([0, 6.0, 0])  # copies 4 Å away
    fine = checked(tmp_path, pdb({"A": [(k, n, p - middle) for k, n, p in rows]}), symmetry="C2")
    assert rule_of(fine, "copies").refuted == rule_of(fine, "copies").unknown == 0
    squeezed = checked(tmp_path, pdb({"A": rows}), rise_in_angstroms=1.0, twist_in_degrees=5.0)
    assert rule_of(squeezed, "copies").refuted > 0


@needs_coq
def test_an_atom_outside_the_map_is_found(tmp_path):
    rows = helix()
    result = checked(tmp_path, pdb({"A": moved(rows, 3, "CB", [60.0, 60.0, 60.0])}), volume=density(rows))
    outside = rule_of(result, "envelope")
    assert (outside.refuted, outside.proved) == (1, 7)
    assert "Cβ of Ala 3 in chain A lies" in outside.offenders[0].words


@needs_coq
def test_ligands_need_company_and_numbers_agree_with_the_sequence(tmp_path):
    rows = helix()
    near = np.mean([p for k, _, p in rows if k == 4], axis=0) + np.array([0, 0, 0])
    free = next(
        near + 7.0 * d / np.linalg.norm(d)
        for d in np.random.default_rng(0).normal(size=(500, 3))
        if 2.5 < min(np.linalg.norm(near + 7.0 * d / np.linalg.norm(d) - p) for _, _, p in rows) < 4.0
    )
    hetero = "\n".join(
        f"HETATM  900 ZN    ZN {chain} 900    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00          ZN"
        for chain, (x, y, z) in (("L", free), ("M", near + 50))
    )
    sequence = "SEQRES   1 A    8  ALA ALA ALA GLY ALA ALA ALA ALA"
    result = checked(tmp_path, pdb({"A": rows}, extra=hetero, head=sequence))
    ligands = rule_of(result, "ligands")
    assert (ligands.obligations, ligands.proved, ligands.refuted) == (2, 1, 1)
    assert "chain M" in ligands.offenders[0].words
    numbers = rule_of(result, "numbering")
    assert [one.words for one in numbers.offenders] == ["Ala 4 in chain A: the declared sequence has GLY there"]


@needs_coq
def test_alternatives_are_never_there_at_once(tmp_path):
    text = pdb({"A": helix()}).splitlines()
    where = next(k for k, line in enumerate(text) if " CB " in line)
    line = text[where]
    text[where] = line[:16] + "A" + line[17:56] + "0.50" + line[60:]
    text.insert(
        where + 1, line[:16] + "B" + line[17:30] + f"{float(line[30:38]) + 0.3:8.3f}" + line[38:56] + "0.50" + line[60:]
    )
    result = checked(tmp_path, "\n".join(text))
    assert result.verdict == "proved", result.sentences()
    assert any("alternative locations" in remark for remark in result.remarks)


@needs_coq
def test_a_time_limit_leaves_the_unknown_unknown(tmp_path):
    rows = [(k, n, p) for k, n, p in helix(400)]
    result = checked(tmp_path, pdb({"A": rows}), limits=Limits(cpu_seconds=0.2))
    assert result.verdict == "unknown"
    assert result.count("unknown") > 0
    assert any("raise --time-limit" in rule.why_unknown for rule in result.rules)


def test_without_coq_all_is_unknown_and_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    result = checked(tmp_path, pdb({"A": helix()}))
    assert result.verdict == "unknown"
    assert result.count("proved") == 0
    answer = result.answer()
    # Nothing is proved, so the score is 0 and its spread all that is open: no prover never serves a model.
    assert (answer.status, answer.value) == ("available", 0.0)
    assert answer.deviation >= 12**-0.5
    assert HOW_TO_INSTALL in " ".join(answer.sentences)
    assert "Unknown is not proved" in " ".join(answer.sentences)


@needs_coq
@pytest.mark.parametrize("limits", [Limits(memory_in_bytes=10**7), Limits(cpu_seconds=0.2)])
def test_to_starve_the_prover_never_raises_the_score(tmp_path, limits):
    text = pdb({"A": moved(helix(6), 2, "CB", [50, 50, 50])})
    fed, starved = checked(tmp_path, text).answer(), checked(tmp_path, text, limits=limits).answer()
    assert 0 < fed.value < 1
    assert starved.value == 0
    assert starved.status == "available"
    assert "raise --" in " ".join(starved.sentences)


def test_the_first_of_several_models_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    good = pdb({"A": helix(4)}).replace("END\n", "ENDMDL\n")
    bad = pdb({"A": moved(helix(4), 2, "CB", [50, 50, 50])}).replace("END\n", "ENDMDL\n")
    for first, second, offenders in ((good, bad, 0), (bad, good, 1)):
        result = checked(tmp_path, f"MODEL        1\n{first}MODEL        2\n{second}END\n")
        assert len(result.model) == 20
        assert "The file holds 2 models; the first was checked." in result.remarks
        assert len(rule_of(result, "bonds").offenders) == offenders


@needs_coq
def test_residues_that_no_template_knows_are_bonded_by_distance(tmp_path):
    names = {("A", 3): "MSE", ("A", 5): "XYZ"}
    result = checked(tmp_path, pdb({"A": helix()}, names=names))
    assert result.verdict == "proved", result.sentences()
    assert rule_of(result, "chains").obligations == 7
    assert rule_of(result, "chirality").obligations == 8 + 7 + 7  # XYZ by its atoms
    broken = checked(tmp_path, pdb({"A": [(k, n, p + (9 if k >= 5 else 0)) for k, n, p in helix()]}, names=names))
    assert any("XYZ 5 in chain A" in one.words for one in rule_of(broken, "chains").offenders)


@pytest.mark.parametrize(("verdict", "code"), [("proved", 0), ("refuted", 1), ("unknown", 3)])
def test_the_exit_code_tells_the_verdict(tmp_path, monkeypatch, verdict, code):
    from cryoprism.cli import main

    if verdict == "unknown":
        monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    elif absent("coqc"):
        pytest.skip(f"Coq is absent. {HOW_TO_INSTALL}")
    rows = helix(4)
    path = tmp_path / "model.pdb"
    path.write_text(pdb({"A": moved(rows, 2, "CB", [50, 50, 50]) if verdict == "refuted" else rows}))
    with pytest.raises(SystemExit) as ended:
        main(["prove", str(path), "--out", str(tmp_path / "job")])
    assert ended.value.code == code
    assert json.loads((tmp_path / "job" / "consistency.json").read_text())["verdict"] == verdict


def test_bad_input_is_refused_with_a_remedy(tmp_path):
    text = pdb({"A": helix(3)})
    cases = {
        "holds no atoms": "HEADER\nEND\n",
        "not a finite number": text.replace(text.splitlines()[1][30:38], "     nan", 1),
    }
    for words, content in cases.items():
        path = tmp_path / "bad.pdb"
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            read_model(path)
    path.write_text(text)
    with pytest.raises(InputError, match="is empty"):
        check_consistency(path, volume=Volume(torch.zeros(16, 16, 16), 1.0))
    with pytest.raises(InputError, match="has no assembly"):
        check_consistency(path, assembly="9")
    with pytest.raises(InputError, match="does not exist"):
        read_model(tmp_path / "absent.pdb")


@pytest.mark.parametrize(
    ("name", "table", "function"),
    [
        ("limit", "LEAST_DISTANCES", "limits"),
        ("bonded_limit", "BONDED_DISTANCES", "bonded_limits"),
        ("angle_limit", "ANGLE_DISTANCES", "angle_limits"),
    ],
)
def test_limits_in_python_and_in_coq_are_the_same(name, table, function):
    from cryoprism.evaluation.consistency import _chemistry, _rules

    source = (files("cryoprism.evaluation.consistency") / "coq" / "Copies.v").read_text()
    body = source.split(f"Definition {name} ")[1].split("%uint63")[0]
    kinds = np.arange(5)
    values = {int(value) for value in getattr(_rules, function)(kinds[:, None], kinds[None, :]).ravel()}
    assert values == {round(1000 * value) for value in getattr(_chemistry, table).values()}
    assert all(str(value) in body for value in values)


@needs_coq
def test_the_session_writes_what_the_schema_says(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    from cryoprism.workflow import ProveConfig, prove_model

    path = tmp_path / "model.pdb"
    path.write_text(pdb({"A": helix(5)}))
    result = prove_model(ProveConfig(model_file=path, output=tmp_path / "job"))
    assert result.verdict == "proved"
    content = json.loads((tmp_path / "job" / "consistency.json").read_text())
    schema = json.loads((files("cryoprism.workflow") / "schemas" / "consistency.schema.json").read_text())
    jsonschema.validate(content, schema)
    page = (tmp_path / "job" / "report.html").read_text()
    assert page.index("is consistent: all") < page.index("Rule by rule")
    assert (tmp_path / "job" / "certificate" / "check.sh").is_file()
    again = prove_model(ProveConfig(model_file=path, output=tmp_path / "job", only_do_unfinished=True))
    assert again.skipped
    assert again.verdict == "proved"

"""Certificates that tests alter, and how they alter them."""

import json
import subprocess
from types import SimpleNamespace

import gemmi
import numpy as np
import torch
from small_models import helix, moved, pdb

from cryoprism.evaluation.consistency import check_consistency
from cryoprism.evaluation.consistency._certificate import sha256
from cryoprism.evaluation.consistency._sentences import REMARKS, deviation_of, pattern_of, score_of, sentences_of
from cryoprism.formats import Volume


def checked(path, text, **options):
    path.write_text(text)
    return check_consistency(path, **options)


def check(folder, name="check.sh", model=None):
    command = ["sh", str(name), *([] if model is None else [str(model)])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def every_rule(tmp_path, digits=3):
    """A model with obligations of every rule, refuted ones of most, in a point group and a map."""
    rows = helix(10)
    ca = {k: p for k, n, p in rows if n == "CA"}
    rows = moved(rows, 2, "CB", ca[7] + np.array([0.7, 0.7, 0.7]))
    rows = [(k, n, p - np.mean([p for _, _, p in rows], axis=0) + np.array([2.0, 0, 0])) for k, n, p in rows]
    mirrored = [(k, n, p * np.array([1, 1, -1]) + np.array([40, 0, 0])) for k, n, p in helix(6, cis_after=3)]
    mirrored = [row for row in mirrored if row[:2] != (5, "O")]
    hetero = "\n".join(
        f"HETATM  900 ZN    ZN {chain} 900    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00          ZN"
        for chain, (x, y, z) in (("L", (0, 0, 9)), ("M", (80, 80, 80)))
    )
    sequence = "SEQRES   1 B    6  ALA ALA ALA GLY ALA ALA"
    text = pdb({"A": rows, "B": mirrored}, extra=hetero, head=sequence)
    path = tmp_path / "model.pdb"
    path.write_text(text)
    if digits > 3:
        structure = gemmi.read_structure(str(path))
        structure.setup_entities()
        document = structure.make_mmcif_document()
        table = document.sole_block().find("_atom_site.", ["Cartn_x", "Cartn_y", "Cartn_z"])
        for row in table:
            for k in range(3):
                row[k] = f"{float(row[k]) + 0.0004:.4f}"
        path = tmp_path / "model.cif"
        document.write_file(str(path))
    grid = np.zeros((60, 60, 60), np.float32)
    grid[10:50, 10:50, 10:50] = 1
    volume = Volume(torch.from_numpy(grid), 1.0, (-30.0, -30.0, -30.0))
    return check_consistency(path, volume=volume, contour=0.5, symmetry="C2")


def sign_again(folder):
    """Write the checksums of the altered files into consistency.json, as who alters both sides would."""
    path = folder / "consistency.json"
    content = json.loads(path.read_text())
    content["files"] = {name: sha256((folder / name).read_text()) for name in content["files"]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def alter(file, old, new, count=1):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, count))


def alter_rule(folder, name, **changes):
    """Alter counts of a rule and all that follows from them."""
    path = folder / "consistency.json"
    content = json.loads(path.read_text())
    rule = next(rule for rule in content["rules"] if rule["name"] == name)
    rule.update({key: rule[key] + by for key, by in changes.items()})
    for key, by in changes.items():
        content["counts"][key] += by
    settle(content)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def settle(content):
    counts, rules = content["counts"], content["rules"]
    content["verdict"] = "refuted" if counts["refuted"] else "unknown" if counts["unknown"] else "proved"
    held = [
        SimpleNamespace(**{**rule, "offenders": [SimpleNamespace(**one) for one in rule["offenders"]]})
        for rule in rules
    ]
    content["by_residue"] = []
    content["logic_score"] = {"value": score_of(held), "standard_deviation": deviation_of(held)}
    known = {pattern_of(remark) for remark in REMARKS.values()}
    remarks = [text for text in content["sentences"] if pattern_of(text) in known or text.startswith("Whether ")]
    content["sentences"] = list(sentences_of(content["model"], content["verdict"], counts, held, remarks))


def grounds(folder):
    """consistency.json as a dictionary."""
    return json.loads((folder / "consistency.json").read_text())


def write_grounds(folder, content):
    (folder / "consistency.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

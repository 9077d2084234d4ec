"""Models as simulations write them: sites that are no atoms, ions, waters, protonation states and ends of chains."""

import subprocess
import sys

import numpy as np
import pytest
from small_models import helix, pdb

from cryoprism.evaluation.consistency import check_consistency
from programs import needs_coq

CENTRE = np.mean([place for _, _, place in helix()], axis=0)


def outside(distance):
    """A place beside the helix, that far from its nearest atom."""
    places = np.array([place for _, _, place in helix()])
    for reach in np.arange(0, 30, 0.02):
        place = CENTRE + np.array([0, reach, 0])
        if reach > 4 and np.linalg.norm(places - place, axis=1).min() >= distance:
            return place
    raise AssertionError


def atom(name, residue, number, place, element="", chain="W", record="HETATM"):
    x, y, z = place
    return (
        f"{record:<6s}  900 {name:<4s} {residue:<4s}{chain}{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00"
        f"          {element:>2s}"
    )


def water(name, place, *sites, number=900, atoms=("O", "H1", "H2"), **options):
    """A water, and its other sites: (name, element, distance from O)."""
    places = ([0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0])
    rows = [
        atom(f" {one}", name, number, place + np.array(shift), one[0], **options)
        for one, shift in zip(atoms, places, strict=True)
    ]
    shift = np.array([0.6, 0.8, 0.0])
    return rows + [atom(f" {one:<3s}", name, number, place + reach * shift, e, **options) for one, e, reach in sites]


def words_of(result):
    return [one.words for rule in result.rules for one in rule.offenders]


def model(rows, names=None):
    return pdb({"A": helix()}, extra="\n".join(rows), names=names)


SITES = [
    ("WAT", "EPW", "EP", 0.15),
    ("WAT", "EPW", "", 0.15),
    ("SOL", "MW", "", 0.15),
    ("HOH", "M", "X", 0.15),
    ("TIP4", "OM", "O", 0.24),
    ("TP5", "LP1", "LP", 0.7),
]


@pytest.mark.parametrize(("name", "site", "element", "reach"), SITES)
def test_sites_of_waters_that_are_no_atoms_are_left_out(witnesses, name, site, element, reach):
    result = witnesses(model(water(name, outside(3.0), (site, element, reach))))
    assert words_of(result) == []
    assert result.model.virtual_sites == 1
    assert len(result.model) == len(helix()) + 3
    assert any("are no atoms" in words and words.endswith(" 1.") for words in result.sentences())


def test_what_is_far_from_its_oxygen_or_no_water_is_no_such_site(witnesses):
    assert witnesses(model(water("WAT", outside(3.0), ("EPW", "", 1.1)))).model.virtual_sites == 0
    result = witnesses(model(water("WAT", outside(3.0), ("EPW", "", 2.0))))
    assert any("EPW of WAT" in words for words in words_of(result))
    result = witnesses(model(water("LIG", outside(3.0), ("EPW", "", 0.15))))
    assert any("EPW of LIG" in words for words in words_of(result))


def test_two_waters_that_overlap_are_refuted_though_they_have_sites(witnesses):
    place = outside(3.0)
    rows = water("WAT", place, ("EPW", "", 0.15)) + water("WAT", place + 0.5, ("EPW", "", 0.15), number=901)
    assert any("O of WAT" in words for words in words_of(witnesses(model(rows))))


@pytest.mark.parametrize(
    ("name", "residue", "element"),
    [("SOD ", "SOD", "NA"), (" SOD", "SOD", "NA"), (" POT", "POT", "K"), (" CLA", "CLA", "CL"), (" NA", "NA", "NA"),
     (" CL", " CL", "CL"), ("Na+ ", "Na+", "NA"), ("Cl- ", "Cl-", "CL")],
)  # fmt: skip
def test_ions_have_their_elements(witnesses, name, residue, element):
    result = witnesses(model([atom(name, residue, 900, outside(3.0))]))
    assert words_of(result) == []
    assert result.model.elements[-1] == element
    assert result.model.residues[-1].role == "ligand"


def test_an_ion_among_waters_is_unknown_and_one_in_nothing_refuted(witnesses):
    place = outside(3.0)
    step = np.array([0.0, 2.8, 0.0])
    waters = [row for k in range(4) for row in water("SOL", place + k * step, ("MW", "", 0.15), number=900 + k)]
    ion = atom(" NA", "NA", 950, place + 4 * step - np.array([0, 0.3, 0]))
    result = witnesses(model([*waters, ion]))
    assert words_of(result) == []
    far = witnesses(model([*waters, atom(" NA", "NA", 950, place + 9 * step)]))
    assert any(words.startswith("NA 950 in chain W touches nothing") for words in words_of(far))


def test_ends_of_chains_and_protonation_states_of_force_fields_are_known(witnesses):
    def rename(line):
        number = int(line[22:26]) if line.startswith("ATOM") else 0
        if number == 8 and line[12:16].strip() == "O":
            line = f"{line[:12]} O1 {line[16:]}"
        return line

    names = {("A", k): name for k, name in enumerate(["HSD", "HSE", "HIE", "HID", "CYX", "LYN", "ASH", "GLH"], 1)}
    text = "\n".join(rename(line) for line in model([], names).splitlines()) + "\n"
    result = witnesses(text)
    assert words_of(result) == []
    assert result.model.names[result.model.residues[-1].start + 3] == "O"


@needs_coq
def test_the_certificate_agrees_with_such_a_file(tmp_path):
    place = outside(3.0)
    rows = water("SOL", place, ("MW", "", 0.15), atoms=("OW", "HW1", "HW2"), number=9, chain="A", record="ATOM")
    rows.append(atom(" SOD", "SOD", 10, place + np.array([2.5, 0, 0]), chain="A", record="ATOM"))
    path = tmp_path / "simulated.pdb"
    text = model(rows).replace("TER\n", "").replace(" O   ALA A   3", " OT1 ALA A   3")
    path.write_text(text)
    result = check_consistency(path)
    assert result.count("refuted") == 0
    folder = result.write_certificate(tmp_path / "certificate")
    command = [sys.executable, "-I", "check_data.py", str(path)]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr

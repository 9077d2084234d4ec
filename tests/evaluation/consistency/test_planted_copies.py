"""Links, assemblies and copies: faults that rules have to see, and good models that they must not refute."""

import gemmi
import numpy as np
from planted import biomt, crystal, hetero, link, rule_of, shifted
from small_models import helix, pdb

from cryoprism.evaluation.consistency import find_copies, read_model
from cryoprism.evaluation.consistency._symmetry import joined_copies, overlaps
from cryoprism.evaluation.consistency._topology import build_topology
from programs import needs_coq

# Recorded links


def test_a_recorded_link_is_a_bond_at_a_length_of_bonds_alone(witnesses):
    rows = helix()
    place = {(k, n): p for k, n, p in rows}
    both = (" CB ", "ALA", "A", 2), (" CB ", "ALA", "B", 2)
    for apart, kinds in ((1.5, set()), (0.6, {"bonds", "clashes"}), (6.0, {"bonds"})):
        direction = place[(2, "CB")] - place[(2, "CA")]
        spot = place[(2, "CB")] + apart * direction / np.linalg.norm(direction)
        lone = hetero([("C1", "C", spot, 1.0)])
        text = pdb({"A": rows}, extra=lone, head=link(both[0], (" C1 ", "LIG", "L", 900), length=apart))
        result = witnesses(text)
        named = {
            rule.name
            for rule in result.rules
            for one in rule.offenders
            if "C1 of LIG" in one.words and "Cβ" in one.words
        }
        assert named == kinds, result.sentences()


def test_a_link_to_a_copy_counts_for_the_operator_that_it_states(tmp_path):
    """C1 is 1.45 Å from the copies of O2 at (a, 0), (0, b) and (a, b): the record names the first."""
    atoms = [("C1", "C", (5.02, 5.0, 5.0), 1.0), ("O2", "O", (4.0, 3.97, 5.0), 1.0)]
    path = tmp_path / "model.pdb"
    found = {}
    for codes, length in ((("1555", "1655"), 1.46), (("1555", "1565"), 1.45), (("1555", "1655"), 2.9)):
        record = link((" C1 ", "LIG", "L", 900), (" O2 ", "LIG", "L", 900), codes, length)
        path.write_text("\n".join([crystal(2.06, 2.05, 30), record, hetero(atoms), "END", ""]))
        model = read_model(path)
        topology = build_topology(model)
        copies = find_copies(model)
        triples = joined_copies(model, copies, topology.across)
        shifts = {tuple(round(row[3] / 2**30 / 1000) for row in copies.operations[n - 1]) for n, _, _ in triples}
        found[codes, length] = {tuple(abs(v) for v in shift) for shift in shifts}
        assert len(topology.across) + topology.ignored == 1
    assert found == {
        (("1555", "1655"), 1.46): {(2, 0, 0)},
        (("1555", "1565"), 1.45): {(0, 2, 0)},
        (("1555", "1655"), 2.9): set(),
    }


@needs_coq
def test_coq_agrees_about_links_to_copies(proved):
    """A disulfide-like bond across a cell of 20 Å: without its record the copies overlap."""
    ends = hetero([("C1", "C", (1.0, 5.0, 5.0), 1.0), ("C2", "C", (19.5, 5.0, 5.0), 1.0)])
    record = link((" C1 ", "LIG", "L", 900), (" C2 ", "LIG", "L", 900), ("1555", "1455"), 1.5)
    for head, refuted in (([record], 0), ([], 1)):
        copies = rule_of(proved("\n".join([crystal(20, 30, 30), *head, ends, "END", ""])), "copies")
        assert (copies.refuted, copies.unknown, copies.why_unknown) == (refuted, 0, "")


# Assemblies and copies


@needs_coq
def test_an_operator_moves_the_chains_that_it_is_stated_for(proved):
    """Moved by 40 Å, chain A would lie on chain B; chain B goes where nothing is."""
    chains = {"A": helix(4), "B": shifted(helix(4), 40, 0, 0)}
    good = proved(pdb(chains, head=biomt(("A", [0.0]), ("B", [0.0, 9.0]))))
    assert good.verdict == "proved", good.sentences()
    assert "copies" in {rule.name for rule in good.rules}
    bad = rule_of(proved(pdb(chains, head=biomt(("A", [0.0, 40.5]), ("B", [0.0])))), "copies")
    assert bad.refuted == 8
    whole = rule_of(proved(pdb(chains, head=biomt(("A, B", [0.0, 40.5])))), "copies")
    assert whole.refuted == 8


def test_chains_of_an_assembly_are_read_from_both_formats(tmp_path):
    text = pdb({"A": helix(4), "B": shifted(helix(4), 14, 0, 0)}, head=biomt(("A", [0.0]), ("B", [0.0, 12.0])))
    (tmp_path / "model.pdb").write_text(text)
    structure = gemmi.read_structure(str(tmp_path / "model.pdb"))
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(tmp_path / "model.cif"))
    for name in ("model.pdb", "model.cif"):
        copies = find_copies(read_model(tmp_path / name))
        one, other = ((0, 3),), ((4, 7),)
        assert {frozenset(scope) for scope in copies.scopes} == {frozenset({one, other}), frozenset({other})}, name


@needs_coq
def test_copies_that_cannot_be_judged_leave_the_rule_unknown(proved, monkeypatch):
    chains = {"A": helix(4)}
    skewed = biomt(("A", [0.0, 40.0])).replace(
        "  1.000000  0.000000  0.000000       40", "  1.000000  0.500000  0.000000       40"
    )
    copies = rule_of(proved(pdb(chains, head=skewed)), "copies")
    assert (copies.proved, copies.refuted, copies.unknown) == (0, 0, 4)
    assert "is no rotation" in copies.why_unknown
    monkeypatch.setattr("cryoprism.evaluation.consistency._symmetry._MOST", 1)
    many = rule_of(proved(pdb(chains, head=crystal(10, 10, 11))), "copies")
    assert (many.proved, many.refuted, many.unknown) == (0, 0, 4)
    assert "more than 1 copies come near" in many.why_unknown


@needs_coq
def test_ligands_touch_copies_on_both_sides(proved):
    """One ion lies a cell before the protein, one a cell behind: one of them meets the copy that is not listed."""
    rows = helix()
    places = np.array([p for _, _, p in rows])
    spot = next(
        spot
        for direction in np.random.default_rng(0).normal(size=(500, 3))
        for spot in [places.mean(axis=0) + 7 * direction / np.linalg.norm(direction)]
        if 2.6 < np.linalg.norm(places - spot, axis=1).min() < 4.0
    )
    ions = "\n".join(
        hetero([("ZN", "ZN", spot + np.array([shift, 0, 0]), 1.0)], "ZN", chain)
        for chain, shift in (("L", 50), ("M", -50))
    )
    ligands = rule_of(proved(pdb({"A": rows}, extra=ions, head=crystal(50, 60, 60))), "ligands")
    assert (ligands.proved, ligands.refuted) == (2, 0)


def test_particles_in_another_frame_meet_their_neighbours_in_the_crystal(tmp_path):
    """Two chains about z, turned and moved into the crystal, overlap as they do in the crystal's frame."""
    turn = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]) @ np.eye(3)[[1, 2, 0]]
    shift = np.array([3.0, 4.0, 5.0])
    rows = shifted(helix(4), 4, 3, 0)
    twin = [(k, n, p * np.array([-1, -1, 1])) for k, n, p in rows]
    cell = crystal(11, 10, 7)

    def overlapping(head, chains):
        path = tmp_path / "model.pdb"
        path.write_text(pdb(chains, head=f"{cell}\n{head}"))
        model = read_model(path)
        copies = find_copies(model)
        found = overlaps(model, copies, [], 0).found
        return {(model.residues[model.residue_of[k]].number, model.names[k]) for _, i, j in found for k in (i, j)}

    frame = "\n".join(
        f"REMARK 285 X0  {k + 1} " + "".join(f"{v:12.6f}" for v in (*turn[k], shift[k])) for k in range(3)
    )
    pair = biomt(("A", [0.0, 0.0])).splitlines()
    pair[6] = pair[6].replace("  1.000000", " -1.000000")
    pair[5] = pair[5].replace("  1.000000", " -1.000000")
    turned = overlapping("\n".join([frame, *pair]), {"A": rows})
    inside = {
        "A": [(k, n, turn @ p + shift) for k, n, p in rows],
        "B": [(k, n, turn @ p + shift) for k, n, p in twin],
    }
    assert turned == overlapping("", inside)
    assert 3 < len(turned) < 40


def test_two_particles_in_another_frame_leave_the_crystal_unknown(witnesses):
    frames = "\n".join(
        f"REMARK 285 X{n}  {k + 1}" + "".join(f"{float(k == m):12.6f}" for m in range(3)) + f"{50.0 * n:12.5f}"
        for n in range(2)
        for k in range(3)
    )
    head = "\n".join([crystal(90, 90, 90), frames, biomt(("A", [0.0, 9.0]))])
    result = witnesses(pdb({"A": helix(4)}, head=head))
    assert find_copies(result.model).left_out.startswith("the file says that its coordinates are not in the crystal's")

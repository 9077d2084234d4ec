"""Lean source of the rules about space: decided here pair by pair, by code that shares nothing with what wrote it."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from certificates import every_rule
from small_lean import run_lean
from small_models import helix, pdb
from test_lean import arrays, check_form

from cryoprism.evaluation.consistency import read_model
from cryoprism.evaluation.consistency._lean import lean_source
from cryoprism.evaluation.consistency._lean_space import lean_clashes, lean_copies
from cryoprism.evaluation.consistency._rules import clashes
from cryoprism.evaluation.consistency._symmetry import UNIT, Copies, overlaps

#: Definitions of the source, and what they must not be.
WRONG = [
    ("then 2000 else", "then 1400 else"),
    ("then 1900 else 1600", "then 1600 else 1600"),
    ("1200 else 1600) else", "1300 else 1600) else"),
    ("else 2200\n", "else 2100\n"),
    ("then 1400 else 900", "then 1400 else 1100"),
    ("then 1600 else 1900", "then 1600 else 1600"),
    ("|| kind b == 1", "|| kind a == 1"),
    ("occupancy b ≤ 1010", "occupancy b < 1010"),
    ("!(alternative a == alternative b)", "true"),
    ("1010 < share", "1100 < share"),
    ("then 1000 else occupancy", "then 0 else occupancy"),
    ("decide (r ≤ p.2)", "decide (r < p.2)"),
    ("d < 250000", "d < 250"),
    ("x - 2300", "x - 300"),
    ("x + 2300", "x + 300"),
    ("(middle + 1) high", "(middle + 5) high"),
]

WATER, HYDROGEN, METAL, ACCEPTOR = 4, 3, 2, 1


@pytest.fixture(scope="module", params=[3, 4])
def source(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as without:
        without.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
        return every_rule(tmp_path_factory.mktemp("lean"), digits=request.param).lean_text


def least(one, other):
    """Limits of two kinds: without a bond, with one, with one atom between."""
    kinds = {one, other}
    if METAL in kinds:
        far = 2000 if one == other else 1200 if HYDROGEN in kinds else 1900 if 0 in kinds else 1600
    elif HYDROGEN in kinds:
        far = 1200 if kinds & {ACCEPTOR, WATER} else 1600
    else:
        far = 2200
    if HYDROGEN in kinds:
        return far, 600, 1200
    return (far, 1400, 1600) if METAL in kinds else (far, 900, 1900)


def take_turns(a, b):
    return a[4] and b[4] and a[4] != b[4] and a[5] + b[5] <= 1010


def squared(a, b):
    return sum((u - v) ** 2 for u, v in zip(a[:3], b[:3], strict=True))


def carried(operation, atom):
    return tuple(sum(r * p for r, p in zip(row, (*atom[:3], 1), strict=True)) // 2**30 for row in operation[:3])


def belongs(ranges, residue):
    return not ranges or any(residue in range(first, last + 1) for first, last in ranges)


def decided(text):
    """Whether each theorem about space holds, by name."""
    held = arrays(text)
    atoms, order = held["atoms"], held["byX"]
    truth = {
        "order": sorted(order) == list(range(len(atoms)))
        and all(order[place] == atom for atom, place in enumerate(held["placeInX"]))
        and all(atoms[i][0] <= atoms[j][0] for i, j in pairwise(order))
    }
    for name, margin in re.findall(r"theorem (\w+)_exact : clashesWithin \(?(-?\d+)\)? = \1Failing.toList := by", text):
        found = set()
        for i, a in enumerate(atoms):
            for j in range(i + 1, len(atoms)):
                b, joined = atoms[j], held["joinedTo"]
                far, bond, angle = (edge + int(margin) for edge in least(a[3], b[3]))
                near = far
                if j in joined[i] or i in joined[j]:
                    near = min(near, bond)
                if any(j in joined[k] or k in joined[j] for k in joined[i]):
                    near = min(near, angle)
                if squared(a, b) < near**2 and not take_turns(a, b):
                    found.add((0, i, j))
        truth[name] = listed(held, f"{name}Failing", found)
    pattern = r"theorem (\w+)_exact : overlapsWithin (\w+) \(?(-?\d+)\)? = \1Failing.toList := by"
    for name, sure, margin in re.findall(pattern, text):
        found = set()
        for n, operation in enumerate(held["copiesOps"], 1):
            for i, a in enumerate(atoms):
                spot = carried(operation, a)
                for j, b in enumerate(atoms):
                    apart = squared(spot, b)
                    near = least(a[3], b[3])[1 if (n, i, j) in held["copiesJoined"] else 0] + int(margin)
                    absent = sure == "true" and (a[5] or 1000) + (b[5] or 1000) <= 1010
                    own = i == j and apart < 500**2
                    meant = belongs(operation[3], a[6]) and belongs(operation[4], b[6])
                    if apart < near**2 and meant and not (own or absent or take_turns(a, b)):
                        found.add((n, i, j))
        truth[name] = listed(held, f"{name}Failing", found)
    pattern = (
        r"theorem (bonds|chains)(Sure|Possible)?_exact : \(List.range \1.size\).filter\n"
        r"    \(fun k => let q := \1.getD k \(0, 0, 1, 0\); !\(decide \((?:q.2.2.1|\(q.2.2.1 \+ \((-?\d+)\)\))\^2 ≤ "
        r"(d2 \(at' atoms q.1\) \(at' atoms q.2.1\))\) && decide \(\4 ≤ (?:q.2.2.2|\(q.2.2.2 - \(\3\)\))\^2\)\)\)"
    )
    for name, kind, slack, _ in re.findall(pattern, text):
        lists = re.search(rf"def {name}{kind}Failing : List Nat := (\[.*?\])", text)
        narrower = int(slack or 0)
        truth[name + kind] = json.loads(lists[1]) == [
            k
            for k, (i, j, low, high) in enumerate(held[name])
            if not (low + narrower) ** 2 <= squared(atoms[i], atoms[j]) <= (high - narrower) ** 2
        ]
    if "touches" in held:
        truth |= decided_ligands(text, held, atoms)
    if "voxelRuns" in held:
        truth |= decided_envelope(text, held, atoms)
    return truth


def listed(held, name, found):
    """The list holds what was found, once, in the order of copy, first atom, and x of the second."""
    place = held["placeInX"]
    return held[name] == sorted(found, key=lambda row: (row[0], row[1], place[row[2]]))


def decided_ligands(text, held, atoms):
    shorter = int(re.search(r"&& contact (\d+) q\.2\.1 q\.2\.2\.1 q\.2\.2\.2\) = true", text)[1])
    longer = int(re.search(r"contactsOf (\d+) ligandsFailing\.toList = \[\]", text)[1])

    def touching(n, i, j, reach):
        operation, a, b = held["ligandsOps"][n], atoms[i], atoms[j]
        if b[3] == WATER or (n == 0 and a[6] == b[6]):
            return False
        meant = belongs(operation[3], a[6]) and belongs(operation[4], b[6])
        return meant and squared(carried(operation, a), b) <= reach**2

    alone = [i for i, a in enumerate(atoms) if a[6] in held["ligandsFailing"]]
    copies, everyone = range(len(held["ligandsOps"])), range(len(atoms))
    return {
        "touches": all(atoms[i][6] == r and touching(n, i, j, shorter) for r, n, i, j in held["touches"]),
        "ligands": not any(touching(n, i, j, longer) for i in alone for n in copies for j in everyone),
    }


def decided_envelope(text, held, atoms):
    size, *origin = (int(re.search(rf"def voxel{k} : Int := \(?(-?\d+)\)?\n", text)[1]) for k in ("Size", *"XYZ"))
    runs = held["voxelRuns"]
    outside = []
    for k, a in enumerate(atoms):
        x, y, z = ((p * 2**20 - start) // size for p, start in zip(a[:3], origin, strict=True))
        number = x + 2**20 * y + 2**40 * z
        if min(x, y, z) < 0 or max(x, y) >= 2**20 or not any(first <= number <= last for first, last in runs):
            outside.append(k)
    return {
        "voxelRuns": all(a <= b for a, b in runs) and all(a[1] < b[0] for a, b in pairwise(runs)),
        "envelope": held["envelopeFailing"] == outside,
    }


def test_form(source):
    check_form(source)


def test_its_own_definitions_give_the_same(source):
    truth = run_lean(source)
    assert truth.keys() == set(re.findall(r"theorem (\w+)_exact", source))
    assert all(truth.values()), truth


def test_every_theorem_about_space_holds_and_every_rule_has_a_planted_fault(source):
    truth, held = decided(source), arrays(source)
    asked = set(re.findall(r"theorem (\w+)_exact", source))
    others = {"chirality", "cisPeptides", "numbering", "completeness", "placement"}
    others |= {"scale", "scalePossible", "scaleSure"}
    assert truth.keys() == asked - others
    assert all(truth.values()), truth
    failing = {name: rows for name, rows in held.items() if name.endswith("Failing")}
    assert {re.sub("(Sure|Possible)?Failing", "", name) for name in failing} == {
        "clashes",
        "copies",
        "ligands",
        "envelope",
    }
    assert all(failing.values())
    assert held["touches"]


@pytest.mark.parametrize(
    ("name", "theorem"),
    [
        ("clashes(?:Sure)?Failing", "clashes(?:Sure)?"),
        ("copiesSureFailing", "copiesSure"),
        ("copiesPossibleFailing", "copiesPossible"),
        ("envelopeFailing", "envelope"),
        ("voxelRuns", "envelope"),
        ("byX", "order"),
    ],
)
def test_a_list_without_its_first_entry_is_refused(source, name, theorem):
    altered = re.sub(rf"(def {name}_0 : Array \([^)]*\) := #\[\n)(?:\([^)]*\)|\d+)(?:,\n)?", r"\1", source, count=1)
    assert altered != source
    for truth in (decided(altered), run_lean(altered)):
        assert [holds for key, holds in truth.items() if re.fullmatch(theorem, key)] == [False]


@pytest.mark.parametrize("name", ["byX", "voxelRuns"])
def test_a_list_out_of_order_is_refused(source, name):
    head = rf"(def {name}_0 : Array \([^)]*\) := #\[\n)"
    altered = re.sub(head + r"(.*),\n(.*),\n", r"\1\3,\n\2,\n", source, count=1)
    assert altered != source
    for truth in (decided(altered), run_lean(altered)):
        assert truth[{"byX": "order"}.get(name, name)] is False


def test_a_ligand_that_touches_is_not_alone_and_no_other_atom_is_its_contact(source):
    residue, _, atom, other = arrays(source)["touches"][0]
    alone = arrays(source)["ligandsFailing"][0]
    lonely = source.replace(
        f"def ligandsFailing_0 : Array (Nat) := #[\n{alone}", f"def ligandsFailing_0 : Array (Nat) := #[\n{residue}"
    )
    assert decided(lonely)["ligands"] is False
    assert run_lean(lonely)["ligands"] is False
    head = f"def touches_0 : Array (Nat × Nat × Nat × Nat) := #[\n({residue},"
    assert head in source
    swapped = re.sub(re.escape(head) + r"\d+,\d+,\d+\)", f"{head}0,{atom},{0 if other else 1})", source)
    assert decided(swapped)["touches"] is False
    assert run_lean(swapped)["touches"] is False


def crowd(tmp_path):
    """Source about atoms of every kind, crowded so that every limit matters, and three copies of them."""
    path = tmp_path / "model.pdb"
    path.write_text(pdb({"A": helix(9)}))
    model = read_model(path)
    random = np.random.default_rng(11)
    count = len(model)
    model = replace(
        model,
        points=random.integers(5000, 9500, (count, 3)),
        kinds=random.integers(0, 5, count),
        alternatives=random.integers(0, 3, count) * 65,
        occupancies=random.choice([0, 300, 500, 505, 510, 700, 1000], count),
    )
    apart = np.linalg.norm(model.points[:, None] - model.points, axis=2)
    close = np.argwhere(np.triu(apart < 2000, 1))
    bonds = [(int(i), int(j)) for i, j in close[random.random(len(close)) < 0.3]]
    found = {0: clashes(model, bonds, 0)[0]}

    def shifted(*by):
        return tuple((*(UNIT * (k == axis) for k in range(3)), UNIT * by[axis] + 7) for axis in range(3))

    operations = (shifted(200, 150, -100), shifted(1500, -1200, 900), shifted(700, 2100, -800))
    copies = Copies(operations, "", (((), ()), ((), ()), (((0, 4), (6, 7)), ((2, 8),))))
    near = overlaps(model, copies, [], 5).found
    joined = near[::3]
    held = {margin: overlaps(model, copies, joined, margin, sure=margin < 0).found for margin in (5, -5)}
    assert found[0]
    assert set(held[-5]) < set(held[5])
    assert {n for n, _, _ in held[-5]} == {1, 2, 3}
    return lean_source(model, [lean_clashes(model, bonds, found), lean_copies(model, copies, joined, held)])


def test_kinds_alternatives_and_occupancies_count_as_the_definitions_say(tmp_path):
    text = crowd(tmp_path)
    check_form(text)
    assert all(decided(text).values())
    assert all(run_lean(text).values())
    assert all(right in text for right, _ in WRONG)
    wrong = [(text.replace(*one), one) for one in WRONG]
    assert [one for changed, one in wrong if all(run_lean(changed, until_false=True).values())] == []

"""The graph: acyclic, made of mechanisms that exist, with bounds, families and remedies."""

import itertools

import pytest

from cryoprism.causes import CAUSES, FAMILIES, STAGES, CausalGraph, default_graph
from cryoprism.core import InputError
from cryoprism.microscope import mechanism_named


def test_order_puts_every_cause_before_its_effects():
    graph = default_graph()
    order = graph.order()
    assert sorted(order) == sorted([*CAUSES, *STAGES])
    for start, end in graph.edges:
        assert order.index(start) < order.index(end)
    assert [node for node in order if node in STAGES] == list(STAGES)


def test_edges_join_known_nodes_and_every_cause_reaches_the_micrograph():
    graph = default_graph()
    nodes = {*CAUSES, *STAGES}
    assert all(start in nodes and end in nodes for start, end in graph.edges)
    assert len(set(graph.edges)) == len(graph.edges)
    reached, front = {"micrograph"}, ["micrograph"]
    while front:
        new = [parent for parent in graph.parents(front.pop()) if parent not in reached]
        reached.update(new)
        front += new
    assert reached == nodes


def test_a_cycle_is_named():
    graph = default_graph()
    looped = CausalGraph(graph.causes, (*graph.edges, ("micrograph", "exposure")))
    with pytest.raises(ValueError, match=r"cycle.*exposure"):
        looped.order()


@pytest.mark.parametrize("name", CAUSES)
def test_every_cause_is_whole(name):
    cause = CAUSES[name]
    assert cause.name == name
    assert cause.family in FAMILIES
    assert cause.stage in STAGES
    low, high = cause.bounds
    assert low < high
    assert low <= cause.ideal <= high
    assert all(
        (cause.label, cause.evidence, cause.unidentifiable_when, cause.remedy_processing, cause.remedy_microscope)
    )
    for mechanism in cause.mechanism:
        assert mechanism_named(mechanism).name == mechanism


def test_families_are_all_used_and_labels_differ():
    assert {cause.family for cause in CAUSES.values()} == set(FAMILIES)
    labels = [cause.label for cause in CAUSES.values()]
    assert all(one != other for one, other in itertools.combinations(labels, 2))


def test_interventions_on_unknown_causes_are_refused_with_the_names():
    graph = default_graph()
    assert graph.check(["motion", "damage"]) == ("motion", "damage")
    assert graph.check(()) == ()
    with pytest.raises(InputError, match="moton") as caught:
        graph.check(["motion", "moton"])
    assert "motion" in str(caught.value)
    with pytest.raises(InputError):
        graph.check(["specimen"])


def test_causes_cannot_be_changed_by_accident():
    with pytest.raises(TypeError):
        CAUSES["motion"] = CAUSES["damage"]  # type: ignore[index]

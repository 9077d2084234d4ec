"""Forecasts on SIMULATED graphs: closed forms, no look ahead, coverage, a null test, and answers without data."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from scipy.stats import spearmanr
from simulated_dumps import write_openalex

from cryoprism.core import InputError
from cryoprism.evaluation.impact import (
    FEATURES,
    MODELS,
    Conformal,
    GraphSage,
    GraphWriter,
    PreferentialAttachment,
    WangSongBarabasi,
    compare,
    expected_citations,
    fit_model,
    forecast_impact,
    forecast_works,
    held_out_coverage,
    import_entries,
    import_openalex,
    later_citations,
    load_graph,
    simulate_citations,
    snapshot,
    train,
    write_forecasts,
)

NOW = 2014.0
NEEDS = {"gradient boosting": "sklearn", "GraphSAGE": "torch_geometric"}


def installed(name):
    return name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None


@pytest.fixture(scope="module")
def graph():
    return simulate_citations(2000, seed=3, patents=0.1)


@pytest.fixture(scope="module")
def past(graph):
    cuts = [snapshot(graph, moment) for moment in (2004.0, 2003.0)]
    return cuts, [later_citations(graph, cut) for cut in cuts]


def test_the_simulator_makes_a_graph_of_the_kind(graph):
    assert graph.simulated
    assert np.all(graph.time[graph.citing] > graph.time[graph.cited])
    count = np.bincount(graph.cited[~graph.is_patent[graph.citing]], minlength=len(graph.ids))[~graph.is_patent]
    assert count.max() > 20 * count.mean()  # heavy tail
    age = (graph.edge_time - graph.time[graph.cited])[~graph.is_patent[graph.citing]]
    assert 1 < np.median(age) < 6  # fame passes
    again = simulate_citations(2000, seed=3, patents=0.1)
    assert np.array_equal(again.citing, graph.citing)


def test_the_formula_of_wang_song_and_barabasi():
    # By hand: at t = e^μ the log-normal is half done: c = m·(e^{λ/2} − 1); in the end m·(e^λ − 1).
    assert expected_citations(np.array([np.exp(1.3)]), 2.0, 1.3, 0.8, 30.0)[0] == pytest.approx(30 * np.expm1(1.0))
    assert expected_citations(np.array([1e9]), 2.0, 1.3, 0.8, 30.0)[0] == pytest.approx(30 * np.expm1(2.0))


def test_a_papers_own_law_is_recovered_from_its_history():
    # SIMULATED papers that follow the law exactly, seen at age 3; forecasts must follow what they then get.
    generator = np.random.default_rng(0)
    fitness = generator.gamma(4.0, 0.25, 400)
    from cryoprism.evaluation.impact.graph import CitationGraph

    born, ids, times, edges = 2000.0, list(range(1, 401)), [2000.0] * 400, []
    ages = np.arange(0.02, 8.0, 0.02)
    shares = np.diff(
        expected_citations(np.array([1e-6, *ages]), 1.0, 1.1, 0.9, 1.0) * 0 + _share(np.array([1e-6, *ages]))
    )
    number = 1000
    later = np.zeros(400)
    for paper in range(400):
        count = 0
        for age, share in zip(ages, shares, strict=True):
            for _ in range(generator.poisson(fitness[paper] * (count + 30.0) * share)):
                count += 1
                later[paper] += age > 3
                number += 1
                ids.append(number)
                times.append(born + age)
                edges.append((len(ids) - 1, paper))
    order = np.argsort(times, kind="stable")
    place = np.argsort(order)
    ends = place[np.array(edges)]
    ends = ends[np.argsort(np.array(times)[order][ends[:, 0]], kind="stable")]
    made = CitationGraph(
        np.array(ids)[order], np.array(times)[order], np.ones(len(ids)), np.ones(len(ids)), ends[:, 0], ends[:, 1], True
    )
    cut = snapshot(made, born + 3.0 - 1e-9)
    model = WangSongBarabasi(30.0, 4.0, 1.0, 1.1, 0.9)
    chosen = np.isin(cut.rows, place[:400])
    forecast = model.predict(cut)[chosen]
    truth = np.log1p(later[np.argsort(place[:400])])
    assert spearmanr(forecast, truth)[0] > 0.75
    assert abs(float((forecast - truth).mean())) < 0.2


def _share(age):
    from scipy.special import ndtr

    return ndtr((np.log(age) - 1.1) / 0.9)


@pytest.mark.parametrize("name", [one for one in MODELS if one != "median of the past"])
def test_every_model_foretells_better_than_nothing_and_repeats(graph, past, name):
    if not installed(name):
        pytest.skip(f"{NEEDS[name]} is not installed (the extra 'assess')")
    cuts, targets = past
    test = snapshot(graph, 2010.0)
    truth = np.log1p(later_citations(graph, test))

    def predict():
        if name == "GraphSAGE":
            return GraphSage(0, epochs=60).fit(cuts, targets).predict(test)
        return fit_model(name, cuts, targets, 0).predict(test)

    found = predict()
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert spearmanr(found, truth)[0] > 0.25
    assert np.abs(found - truth).mean() < np.abs(np.median(np.log1p(np.concatenate(targets))) - truth).mean()
    assert found == pytest.approx(predict())


@pytest.mark.parametrize("name", ["preferential attachment", "gradient boosting"])
def test_citations_dealt_out_at_random_cannot_be_foretold(graph, past, name):
    if not installed(name):
        pytest.skip(f"{NEEDS[name]} is not installed (the extra 'assess')")
    cuts, targets = past
    generator = np.random.default_rng(0)
    test = snapshot(graph, 2010.0)
    truth = generator.permutation(later_citations(graph, test))
    found = fit_model(name, cuts, [generator.permutation(t) for t in targets], 0).predict(test)
    assert abs(spearmanr(found + 1e-9 * generator.random(len(found)), truth)[0]) < 0.15


@pytest.mark.parametrize("name", [one for one in MODELS if one != "GraphSAGE"])
def test_the_future_changes_no_forecast(graph, name):
    if not installed(name):
        pytest.skip(f"{NEEDS[name]} is not installed (the extra 'assess')")
    now = NOW
    changed = dataclasses.replace(graph, cited=np.where(graph.edge_time > now, graph.cited[::-1], graph.cited))
    assert not np.array_equal(changed.cited, graph.cited)
    found = []
    for one in (graph, changed, graph.until(now)):
        trained = train(one, now, models=(name,))
        found.append(forecast_works(trained, one, now))
    for other in found[1:]:
        assert np.array_equal(other[0], found[0][0])
        assert np.array_equal(other[1].expected, found[0][1].expected)
        assert np.array_equal(other[1].upper, found[0][1].upper)


def test_the_best_on_the_validation_year_is_taken_and_named(graph):
    trained = train(graph, NOW, models=("preferential attachment", "Wang–Song–Barabási"))
    assert trained.chosen == min(trained.errors, key=trained.errors.get)
    assert trained.chosen in trained.sentence()
    assert trained.moments[1] == NOW - 5
    assert max(trained.moments[0]) + 5 <= trained.moments[1]


def test_intervals_of_exchangeable_works_cover_as_they_say():
    generator = np.random.default_rng(0)
    inside = []
    for _ in range(60):
        predicted = generator.uniform(0, 4, 400)
        truth = np.maximum(predicted + generator.standard_t(4, 400) * (0.2 + 0.2 * predicted), 0)
        made = Conformal.of(predicted[:200], truth[:200]).predict(predicted[200:])
        counts = np.expm1(truth[200:])
        inside.append(((made.lower <= counts + 1e-9) & (counts <= made.upper + 1e-9)).mean())
        assert (made.lower <= made.expected).all()
        assert (made.expected <= made.upper).all()
    assert 0.94 <= np.mean(inside) <= 0.99


def test_models_that_the_works_do_not_tell_apart_are_said_to_be_alike():
    generator = np.random.default_rng(0)
    base = generator.exponential(0.2, 139)
    missed = {"used": base, "alike": base + generator.normal(0.003, 0.1, 139), "worse": base + 0.1}
    found = compare(missed, "used", 0)
    assert found["used"].behind == found["used"].behind_high == 0
    assert found["alike"].is_as_good
    assert not found["worse"].is_as_good
    assert found["worse"].behind_low == pytest.approx(0.1)
    half = 1.96 * base.std() / np.sqrt(139)
    assert found["used"].high - found["used"].low == pytest.approx(2 * half, rel=0.2)


def test_coverage_is_measured_on_works_that_did_not_give_the_interval():
    generator = np.random.default_rng(0)
    predicted = generator.uniform(0, 4, 600)
    truth = np.maximum(predicted + generator.normal(0, 0.4, 600), 0)
    held = held_out_coverage(predicted, truth, 0)
    assert held.works == 600
    assert held.low < held.share < held.high
    assert 0.92 <= held.share <= 1
    # Its own residuals would hold a work more often than those of the others do.
    few = Conformal.of(predicted[:60], truth[:60]).predict(predicted[:60])
    own = ((few.lower <= np.expm1(truth[:60]) + 1e-9) & (np.expm1(truth[:60]) <= few.upper + 1e-9)).mean()
    assert held_out_coverage(predicted[:60], truth[:60], 0).share <= own


def test_training_says_intervals_and_coverage(graph):
    trained = train(graph, NOW, models=("preferential attachment", "Wang–Song–Barabási"))
    assert "held-out works the 95 % intervals held" in trained.sentence()
    content = trained.to_json()
    for name, error in content["mean_absolute_error_of_log1p"].items():
        low, high = content["mean_absolute_error_interval"][name]
        assert low < error < high
        assert f"{error:.3f} (95 % {low:.3f} to {high:.3f})" in trained.sentence()
    assert content["held_out_coverage"]["works"] == content["works"]["intervals"]


def test_too_short_a_graph_is_refused_with_what_is_needed(graph):
    with pytest.raises(InputError, match="13 years"):
        train(graph.until(1996.0), models=("preferential attachment",))


def test_without_the_extra_the_other_models_are_tried_and_it_is_said(graph, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.ensemble", None)
    trained = train(graph, NOW, models=("preferential attachment", "gradient boosting"))
    assert trained.chosen == "preferential attachment"
    assert "make assess" in trained.absent["gradient boosting"]


def test_preferential_attachment_learns_its_rate():
    # Works that get exactly 2·(k + 1) more: the fit has to find that.
    class Cut:
        rows = np.arange(50)
        features = np.zeros((50, len(FEATURES)))

    Cut.features[:, 1] = np.log1p(np.arange(50))
    found = PreferentialAttachment.fit([Cut], [2.0 * (np.arange(50) + 1)])
    assert np.expm1(found.predict(Cut)) == pytest.approx(2.0 * (np.arange(50) + 1), rel=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("impact")
    made = simulate_citations(1500, seed=5)
    writer = GraphWriter(place / "citations.sqlite", simulated=True)
    import_openalex(write_openalex(place / "works.jsonl", made, compress=False), writer)
    last = int(made.ids[made.ids > 0].max())
    (place / "9abc.cif").write_text(
        f"data_9ABC\n_entry.id 9ABC\n_citation.id primary\n_citation.pdbx_database_id_DOI 10.5555/sim.{last}\n"
    )
    import_entries(place / "9abc.cif", writer)
    writer.finish()
    graph = load_graph(place)
    now = float(graph.time[-1])
    trained = train(graph, models=("preferential attachment",))
    ids, works = forecast_works(trained, graph, now)
    about = {"chosen": trained.chosen, "chosen_for_patents": None, "until": now, "simulated": graph.simulated}
    assert write_forecasts(place / "forecasts.sqlite", place / "citations.sqlite", ids, works, None, about) == len(ids)
    return place, last, dict(zip(ids.tolist(), works.expected.tolist(), strict=True))


def test_a_publication_is_found_by_every_name_it_has(folder):
    place, last, expected = folder
    names = (
        f"10.5555/SIM.{last}",
        f"https://doi.org/10.5555/sim.{last}",
        f"pubmed:{900000 + last}",
        f"W{last}",
        "9abc",
    )
    for name in names:
        found = forecast_impact(name, place)
        answer = found.answer()
        assert answer.status == "available", name
        assert answer.value == pytest.approx(expected[last])
        assert found.lower <= found.expected <= found.upper
        assert "SIMULATED" in " ".join(answer.sentences)
        assert "preferential attachment" in answer.sentences[0]


@pytest.mark.parametrize("publication", [None, "", "10.5555/unknown", "W1", "EMD-99999"])
def test_without_a_forecast_there_is_no_number_but_a_way_to_get_one(folder, publication):
    answer = forecast_impact(publication, folder[0]).answer()
    assert answer.status == "not available"
    assert answer.value is None
    assert len(answer.sentences) == 2


def test_without_data_the_answer_is_how_to_get_them():
    answer = forecast_impact("10.1038/nature12345", None).answer()
    assert answer.status == "not available"
    assert answer.value is None
    assert "OpenAlex" in answer.sentences[1]
    assert "cryoprism impact build" in answer.sentences[1]


def test_folders_and_names_that_cannot_be_are_errors(folder, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        forecast_impact("W1", tmp_path)
    (tmp_path / "forecasts.sqlite").write_text("nothing" * 500)
    with pytest.raises(InputError, match="no forecasts"):
        forecast_impact("W1", tmp_path)
    with pytest.raises(InputError, match="unknown"):
        forecast_impact("my paper", folder[0])

"""The median of the past may be chosen: no model that does worse than a constant is used."""

import dataclasses

import numpy as np
import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.impact import MODELS, fit_model, forecast_works, simulate_citations, train
from cryoprism.workflow import ImpactTrainConfig

QUICK = ("median of the past", "preferential attachment", "Wang–Song–Barabási")


@pytest.fixture(scope="module")
def graph():
    return simulate_citations(1500, seed=5, patents=0.15)


def test_patents_are_foretold_by_the_median_where_no_model_is_better(graph):
    trained = train(graph, by_patents=True, models=QUICK)
    assert trained.errors[trained.chosen] == min(trained.errors.values())
    assert trained.errors["median of the past"] <= trained.errors["Wang–Song–Barabási"]
    assert trained.chosen == "median of the past", "of equals the simplest"
    assert trained.sentence().startswith("Patent citations are forecast by median of the past")
    ids, told = forecast_works(trained, graph, float(graph.time[-1]))
    assert len(ids) == len(told.expected) > 0
    assert np.ptp(told.expected) == 0


def test_the_median_is_not_chosen_where_a_model_is_better(graph):
    trained = train(graph, models=QUICK)
    assert trained.chosen != "median of the past"
    assert trained.errors["median of the past"] > trained.errors[trained.chosen]


def test_it_is_the_median_of_all_years_and_the_first_of_the_models(graph):
    class Cut:
        rows = np.arange(4)

    found = fit_model("median of the past", [Cut, Cut], [np.array([0.0, 3.0]), np.array([7.0])], 0).predict(Cut)
    assert found == pytest.approx(np.full(4, np.log1p(3.0)))
    assert MODELS[0] == "median of the past"


def test_it_may_be_named_and_its_intervals_hold(graph, tmp_path):
    config = ImpactTrainConfig(graph=tmp_path, models=["median of the past"])
    assert list(config.models) == ["median of the past"]
    trained = train(graph, models=("median of the past",))
    assert trained.coverage.share > 0.9
    with pytest.raises(InputError, match="unknown"):
        fit_model("mean of the past", [], [], 0)


def test_the_future_does_not_change_it(graph):
    now = float(graph.time[-1]) - 3
    later = dataclasses.replace(graph, cited=np.where(graph.edge_time > now, graph.cited[::-1], graph.cited))
    told = [train(one, now, models=("median of the past",)).model.value for one in (graph, later)]
    assert told[0] == told[1]

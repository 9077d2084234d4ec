"""OpenAlex's merged_ids: citations of a work that became part of another go to that other one."""

import gzip
import json
import sqlite3

import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.impact import GraphWriter, import_merged_works, import_openalex, load_graph
from cryoprism.workflow import ImpactBuildConfig, build_impact_graph


def works_file(folder, cites):
    """Works by number with what they cite, a year apart in the order of their numbers."""
    lines = [
        json.dumps(
            {
                "id": f"https://openalex.org/W{number}",
                "publication_date": f"{2000 + number}-03-01",
                "referenced_works": [f"https://openalex.org/W{one}" for one in cited],
                "authorships": [{}],
            }
        )
        for number, cited in cites.items()
    ]
    path = folder / "part_000.gz"
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
    return path


def merged_file(folder, day, pairs, head="merge_date,id,merge_into_id"):
    """A file of a day as the snapshot holds it."""
    place = folder / "merged_ids" / "works"
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{day}.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.write("\n".join([head, *(f"{day},W{old},W{new}" for old, new in pairs)]) + "\n")
    return path


def built(folder, cites, *days):
    """Counts, and who cites whom, by number."""
    writer = GraphWriter(folder / "citations.sqlite")
    import_openalex(works_file(folder, cites), writer)
    for number, pairs in enumerate(days):
        import_merged_works(merged_file(folder, f"2022-06-{number + 1:02d}", pairs), writer)
    counts = writer.finish()
    graph = load_graph(folder)
    pairs = zip(graph.ids[graph.citing].tolist(), graph.ids[graph.cited].tolist(), strict=True)
    return counts, sorted(pairs), sorted(graph.ids.tolist())


def test_citations_follow_a_merged_work_and_count_once(tmp_path):
    cites = {1: [], 2: [], 3: [2], 4: [1, 2], 5: [1]}
    counts, pairs, works = built(tmp_path, cites, [(2, 1)])
    assert works == [1, 3, 4, 5]
    assert pairs == [(3, 1), (4, 1), (5, 1)]  # 4 cites both: once
    assert counts["works_merged_into_others"] == 1
    assert counts["citations_of_merged_works"] == 1
    assert counts["citations_of_works_outside"] == 0


def test_without_the_file_they_stay_outside(tmp_path):
    counts, pairs, _ = built(tmp_path, {1: [], 3: [2], 4: [1]})
    assert pairs == [(4, 1)]
    assert counts["citations_of_works_outside"] == 1
    (tmp_path / "again").mkdir()
    counts, pairs, _ = built(tmp_path / "again", {1: [], 3: [2], 4: [1]}, [(2, 1)])
    assert pairs == [(3, 1), (4, 1)]
    assert counts["citations_of_works_outside"] == 0


def test_chains_are_followed_to_the_end_over_days(tmp_path):
    cites = {1: [], 6: [20], 7: [21], 8: [22], 9: [25]}
    days = ([(20, 21), (25, 24), (24, 23)], [(21, 22), (23, 20)], [(22, 1)])
    counts, pairs, _ = built(tmp_path, cites, *days)
    assert pairs == [(6, 1), (7, 1), (8, 1), (9, 1)]
    assert counts["citations_of_merged_works"] == 4


def test_circles_selves_and_targets_that_the_graph_lacks_change_nothing(tmp_path):
    cites = {1: [], 2: [], 3: [], 4: [1, 2, 3], 5: [4]}
    counts, pairs, works = built(tmp_path, cites, [(1, 2), (2, 1), (3, 99), (4, 4)])
    assert works == [1, 2, 3, 4, 5]
    assert pairs == [(4, 1), (4, 2), (4, 3), (5, 4)]
    assert counts["works_merged_into_others"] == counts["citations_of_merged_works"] == 0


def test_a_later_day_wins_and_what_was_cited_of_oneself_is_none(tmp_path):
    # 3 cited 2, which became 3; 5 was merged into 1, later into 3.
    counts, pairs, works = built(tmp_path, {1: [], 2: [], 3: [2], 5: [1], 6: [5, 2]}, [(2, 3), (5, 1)], [(5, 3)])
    assert works == [1, 3, 6]
    assert pairs == [(6, 3)]
    assert counts["works_merged_into_others"] == 2


def test_bad_lines_are_counted_and_other_tables_refused(tmp_path):
    path = merged_file(tmp_path, "2022-06-06", [(2, 1)])
    with gzip.open(path, "at", encoding="utf-8") as stream:
        stream.write('2022-06-06,A12,A13\n2022-06-06\n\n2022-06-06,"W3","https://openalex.org/W1"\n')
    writer = GraphWriter(tmp_path / "one.sqlite")
    count = import_merged_works(path, writer)
    assert (count.read, count.bad) == (2, 2)
    assert "is no work of OpenAlex" in count.examples[0]
    with pytest.raises(InputError, match="no column merge_into_id"):
        import_merged_works(merged_file(tmp_path, "2022-06-07", [(2, 1)], head="merge_date,id,into"), writer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no merged works"):
        import_merged_works(tmp_path / "empty", writer)
    writer.close()


def test_the_command_takes_the_folder_and_says_what_it_did(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    works = works_file(tmp_path, {1: [], 3: [2], 4: [1]})
    merged_file(tmp_path, "2022-06-06", [(2, 1)])
    config = ImpactBuildConfig(output=tmp_path / "Graph", works=(works,), merged_works=(tmp_path / "merged_ids/works",))
    result = build_impact_graph(config)
    assert "0 works were merged into others and taken out; 1 citations go to what they became." in result.sentences
    base = sqlite3.connect(tmp_path / "Graph" / "citations.sqlite")
    assert base.execute("SELECT citing, cited FROM citations ORDER BY citing").fetchall() == [(3, 1), (4, 1)]
    base.close()
    record = json.loads((tmp_path / "Graph" / "job.json").read_text())
    assert any("2022-06-06.csv.gz" in one["path"] for one in record["inputs"])

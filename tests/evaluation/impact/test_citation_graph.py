"""Dumps into a temporal citation graph: what is read, what is refused and named, bounded memory, no future."""

import gzip
import json
import tracemalloc
import zipfile

import numpy as np
import pytest
from simulated_dumps import write_openalex, write_patents

from cryoprism.core import InputError
from cryoprism.evaluation.impact import (
    GraphWriter,
    clean_doi,
    import_entries,
    import_openalex,
    import_patent_citations,
    import_patent_references,
    import_patents,
    later_citations,
    load_graph,
    simulate_citations,
    snapshot,
)


@pytest.fixture(scope="module")
def graph():
    return simulate_citations(800, patents=0.2, seed=1)


@pytest.fixture
def writer(tmp_path):
    made = GraphWriter(tmp_path / "citations.sqlite")
    yield made
    made.close()


def test_a_graph_survives_the_way_through_dumps(tmp_path, graph, writer):
    assert import_openalex(write_openalex(tmp_path / "works.gz", graph), writer).read == 800
    patents, references = write_patents(tmp_path, graph)
    assert import_patents(patents, writer).bad == 0
    import_patent_references(references, writer)
    counts = writer.finish()
    found = load_graph(tmp_path)
    assert counts["works"] == 800
    assert counts["patents"] == int(graph.is_patent.sum())
    assert not found.simulated  # whether the dump is simulated, only its maker can say
    # Dates are whole days: a citation within a day or so may turn round, none else may be lost.
    lost = len(graph.citing) - counts["citations"]
    assert lost == counts["citations_older_than_what_they_cite"]
    assert lost < 0.01 * len(graph.citing)
    known = {(int(found.ids[a]), int(found.ids[b])) for a, b in zip(found.citing, found.cited, strict=True)}
    among_works = {
        (int(graph.ids[a]), int(graph.ids[b]))
        for a, b in zip(graph.citing, graph.cited, strict=True)
        if graph.ids[a] > 0
    }
    assert {pair for pair in known if pair[0] > 0} <= among_works
    assert np.all(np.diff(found.time) >= 0)
    assert np.all(np.diff(found.edge_time) >= 0)
    back = dict(zip(graph.ids.tolist(), graph.authors.tolist(), strict=True))
    assert all(back[int(i)] == a for i, a in zip(found.ids, found.authors, strict=True) if i > 0)


GOOD = {"id": "https://openalex.org/W1", "publication_year": 2001, "referenced_works": []}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        json.dumps(GOOD | {"id": None}),
        json.dumps(GOOD | {"id": "https://openalex.org/A1"}),
        json.dumps({"id": "https://openalex.org/W5"}),
        json.dumps(GOOD | {"publication_date": "2001-13-01"}),
        json.dumps(GOOD | {"publication_year": 9}),
        json.dumps(GOOD | {"referenced_works": ["nonsense"]}),
        json.dumps(GOOD | {"ids": {"pmid": "none"}}),
    ],
)
def test_a_bad_line_is_counted_and_named_and_the_rest_is_read(tmp_path, writer, line):
    path = tmp_path / "works.jsonl"
    path.write_text("\n".join([json.dumps(GOOD), "", line, json.dumps(GOOD | {"id": "W2"})]) + "\n")
    found = import_openalex(path, writer)
    assert (found.read, found.bad) == (2, 1)
    assert "works.jsonl line 3" in found.examples[0]


def test_a_file_without_works_and_a_missing_one_are_errors(tmp_path, writer):
    path = tmp_path / "works.jsonl"
    path.write_text("nothing\n" * 30)
    with pytest.raises(InputError, match="no OpenAlex works"):
        import_openalex(path, writer)
    path.write_text("")
    with pytest.raises(InputError, match="empty"):
        import_openalex(path, writer)
    with pytest.raises(InputError, match="cannot be read"):
        import_openalex(tmp_path / "none.gz", writer)


def test_a_download_that_was_cut_off_gives_what_it_has(tmp_path, writer):
    whole = gzip.compress("\n".join(json.dumps(GOOD | {"id": f"W{i}"}) for i in range(1, 20_000)).encode())
    path = tmp_path / "works.gz"
    path.write_bytes(whole[: len(whole) // 2])
    found = import_openalex(path, writer)
    assert found.read > 100
    assert found.bad >= 1
    assert any("ends too early" in text for text in found.examples)


def test_memory_does_not_grow_with_the_dump(tmp_path, writer, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.impact.graph._BATCH", 200)
    path = tmp_path / "works.jsonl"
    with path.open("w") as stream:
        for i in range(1, 4001):
            cites = [f"W{max(1, i - k)}" for k in range(1, 4)]
            work = {"id": f"W{i}", "publication_year": 1990 + i // 200, "referenced_works": cites}
            stream.write(json.dumps(work | {"display_name": "x" * 200}) + "\n")
    tracemalloc.start()
    assert import_openalex(path, writer).read == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000  # two batches of rows; the titles alone would be more


def test_patent_tables_zipped_with_bad_rows_and_missing_columns(tmp_path, writer):
    rows = ["patent_id\tpatent_date", "10000001\t2018-06-19", "10000002\tnever", "10000003", "\t2018-06-19"]
    with zipfile.ZipFile(tmp_path / "g_patent.tsv.zip", "w") as archive:
        archive.writestr("g_patent.tsv", "\n".join(rows))
    found = import_patents(tmp_path / "g_patent.tsv.zip", writer)
    assert (found.read, found.bad) == (1, 3)
    (tmp_path / "other.tsv").write_text("patent\tdate\n1\t2\n")
    with pytest.raises(InputError, match="patent_id"):
        import_patents(tmp_path / "other.tsv", writer)
    (tmp_path / "cited.tsv").write_text("patent_id\tcitation_sequence\tcitation_patent_id\n10000001\t0\t9000000\n")
    assert import_patent_citations(tmp_path / "cited.tsv", writer).read == 1


def test_entries_name_their_publication(tmp_path, writer):
    folder = tmp_path / "entries"
    folder.mkdir()
    (folder / "a.cif").write_text(
        "data_4OYN\n_entry.id 4OYN\nloop_\n_citation.id\n_citation.pdbx_database_id_DOI\n"
        "_citation.pdbx_database_id_PubMed\n1 10.1/x 1\nprimary 10.1234/Abc.5 25478478\n"
    )
    (folder / "emd-1997.xml").write_text(
        '<emd emdb_id="EMD-1997"><crossreferences><citation_list><primary_citation><journal_citation>'
        '<external_references type="PUBMED">21984209</external_references><external_references type="DOI">'
        "doi:10.1016/J.STR.2011.08.001</external_references></journal_citation></primary_citation></citation_list>"
        "</crossreferences></emd>"
    )
    reference = {"valueOf_": "doi:10.1038/x1", "type_": "DOI"}
    citation = {"citation_type": {"external_references": [reference]}}
    (folder / "emd-3.json").write_text(
        json.dumps({"emdb_id": "EMD-0003", "crossreferences": {"citation_list": {"primary_citation": citation}}})
    )
    (folder / "none.json").write_text("{}")
    (folder / "bomb.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><emd emdb_id="EMD-1"/>')
    found = import_entries(folder, writer)
    assert (found.read, found.bad) == (3, 2)
    writer.work(1, 2011.7, authors=3, cites=[], doi="10.1016/j.str.2011.08.001", pubmed=None, title="x")
    assert writer.finish()["entries"] == 3


@pytest.mark.parametrize(
    ("text", "doi"),
    [
        ("https://doi.org/10.7717/PeerJ.4375", "10.7717/peerj.4375"),
        ('et al., doi:10.1016/j.cell.2020.01.001. (2020)"', "10.1016/j.cell.2020.01.001"),
        ("(10.1000/abc)", "10.1000/abc"),
        ("no 10.5 here", None),
        (None, None),
    ],
)
def test_dois_are_found_in_texts(text, doi):
    assert clean_doi(text) == doi


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "citations.sqlite").write_text("hello" * 1000)
    with pytest.raises(InputError, match="no citation graph"):
        load_graph(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_graph(tmp_path / "none.sqlite")


def test_what_happens_later_changes_nothing_of_a_snapshot(graph):
    moment = 2008.0
    full, cut = snapshot(graph, moment), snapshot(graph.until(moment), moment)
    assert np.array_equal(full.features, cut.features)
    assert np.array_equal(full.rows, cut.rows)
    # The check can fail: one more citation before the moment is seen.
    assert not np.array_equal(snapshot(graph.until(moment - 0.5), moment).features, cut.features)
    assert later_citations(graph, full).sum() > 0
    assert later_citations(graph.until(moment), cut).sum() == 0


def test_counts_of_a_graph_by_hand():
    #  work 1 (2000), 2 (2001) cites 1, 3 (2002) cites 1 and 2, patent (2003) cites 1, 4 (2004) cites 1
    from cryoprism.evaluation.impact.graph import ordered_graph

    edges = np.array([[2, 1], [3, 1], [3, 2], [-1, 1], [4, 1]])
    made = ordered_graph(
        np.array([1, 2, 3, -1, 4]), np.array([2000.0, 2001, 2002, 2003, 2004]), np.ones(5), np.ones(5), edges, False
    )
    cut = snapshot(made, 2002.5)
    features = np.expm1(cut.features)
    assert features[:, 1].tolist() == pytest.approx([2, 1, 0])
    assert features[:, 2].tolist() == pytest.approx([1, 1, 0])
    assert cut.rows.tolist() == [0, 1, 2]
    assert later_citations(made, cut).tolist() == [1, 0, 0]
    assert later_citations(made, cut, by_patents=True).tolist() == [1, 0, 0]
    assert np.expm1(snapshot(made, 2003.5).features[0, 3]) == pytest.approx(1)

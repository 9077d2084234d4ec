"""Dumps as OpenAlex, PatentsView, PDB and EMDB document them, with the odd cases that real ones hold."""

import datetime
import gzip
import json
import zipfile

import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.impact import (
    GraphWriter,
    clean_doi,
    forecast_impact,
    import_openalex,
    import_patent_citations,
    import_patent_references,
    import_patents,
    load_graph,
)


@pytest.fixture
def writer(tmp_path):
    made = GraphWriter(tmp_path / "citations.sqlite")
    yield made
    made.close()


def work(number, **changes):
    """A work with the fields of the documented object; what the importer does not read is there too."""
    known = {
        "id": f"https://openalex.org/W{number}",
        "doi": f"https://doi.org/10.7717/peerj.{number}",
        "title": "The state of OA",
        "display_name": "The state of OA",
        "publication_year": 2018,
        "publication_date": "2018-02-13",
        "ids": {
            "openalex": f"https://openalex.org/W{number}",
            "doi": f"https://doi.org/10.7717/peerj.{number}",
            "mag": "2741809807",
            "pmid": f"https://pubmed.ncbi.nlm.nih.gov/{29456894 + number}",
            "pmcid": "https://www.ncbi.nlm.nih.gov/pmc/articles/5815332",
        },
        "language": "en",
        "type": "article",
        "authorships": [{"author_position": "first", "author": {"id": "https://openalex.org/A5048491430"}}] * 3,
        "cited_by_count": 9000,
        "counts_by_year": [{"year": 2025, "cited_by_count": 9000}],
        "is_retracted": False,
        "is_paratext": False,
        "topics": [{"id": "https://openalex.org/T10102", "score": 0.9}],
        "concepts": [],
        "referenced_works": ["https://openalex.org/W1"],
        "referenced_works_count": 1,
        "related_works": ["https://openalex.org/W77"],
        "abstract_inverted_index": {"Despite": [0]},
        "updated_date": "2025-01-01T00:00:00.000000",
    }
    return known | changes


def partition(folder, day, works):
    part = folder / f"updated_date={day}"
    part.mkdir(parents=True)
    file = part / "part_000.gz"
    file.write_bytes(gzip.compress(b"".join(json.dumps(one).encode() + b"\n" for one in works)))
    return file


def test_partitions_of_a_snapshot_with_empty_and_missing_fields(tmp_path, writer):
    lacking = work(5)
    for field in ("referenced_works", "authorships", "ids", "doi", "display_name", "topics"):
        del lacking[field]
    first = partition(
        tmp_path / "works",
        "2024-01-01",
        [
            work(1, referenced_works=[], publication_date="2010-01-01"),
            work(2, is_retracted=True),
            work(3, doi=None, ids={"openalex": "https://openalex.org/W3"}, authorships=None, referenced_works=None),
            work(4, publication_date=None, publication_year=2012, title=None, display_name=None),
            lacking,
        ],
    )
    second = partition(
        tmp_path / "works",
        "2024-02-01",
        [work(6, ids=None, referenced_works=["https://openalex.org/W1", "https://openalex.org/W1", "W6"])],
    )
    assert [import_openalex(file, writer).bad for file in (first, second)] == [0, 0]
    counts = writer.finish()
    found = load_graph(tmp_path)
    assert counts["works"] == 6
    cited = {(int(found.ids[a]), int(found.ids[b])) for a, b in zip(found.citing, found.cited, strict=True)}
    assert cited == {(2, 1), (4, 1), (6, 1)}
    by_id = dict(zip(found.ids.tolist(), zip(found.time, found.authors, found.references, strict=True), strict=True))
    assert by_id[4] == (2012.5, 3, 1)
    assert by_id[3][1:] == (0, 0)


def test_a_newer_record_of_a_work_replaces_all_that_the_older_one_cited(tmp_path, writer):
    old = [work(n, referenced_works=[], publication_date="2010-01-01") for n in (1, 2, 3)]
    first = partition(tmp_path / "works", "2024-01-01", [*old, work(4, referenced_works=["W1", "W2"])])
    second = partition(
        tmp_path / "works", "2024-02-01", [work(4, id="https://openalex.org/works/w4", referenced_works=["W2", "W3"])]
    )
    for file in (first, second):
        assert import_openalex(file, writer).bad == 0
    assert writer.finish()["works"] == 4
    found = load_graph(tmp_path)
    assert sorted(found.ids[found.cited].tolist()) == [2, 3]


def test_a_work_from_the_future_does_not_become_now(tmp_path, writer):
    later = datetime.datetime.now(datetime.UTC).year + 1
    file = partition(tmp_path / "works", "2024-01-01", [work(1), work(2, publication_date=f"{later}-01-01")])
    found = import_openalex(file, writer)
    assert (found.read, found.bad) == (1, 1)
    assert "is in the future" in found.examples[0]


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(work(2, id=f"https://openalex.org/W{10**30}")),
        json.dumps(work(2, ids={"pmid": f"https://pubmed.ncbi.nlm.nih.gov/{10**30}"})),
        "[" * 200_000,
        json.dumps({"id": 5}),
        '{"id": "W2", "publication_date": "2001-02-30"}',
    ],
)
def test_what_no_table_can_hold_is_one_bad_line(tmp_path, writer, line):
    file = tmp_path / "works.jsonl"
    file.write_text("\n".join([json.dumps(work(1)), line, json.dumps(work(3))]) + "\n")
    found = import_openalex(file, writer)
    assert (found.read, found.bad) == (2, 1)
    writer.finish()


def test_a_byte_order_mark_and_a_damaged_archive(tmp_path, writer):
    file = tmp_path / "works.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(work(1)).encode())
    assert import_openalex(file, writer).read == 1
    packed = bytearray(gzip.compress("\n".join(json.dumps(work(i)) for i in range(1, 4000)).encode()))
    packed[len(packed) // 2 :] = bytes(len(packed) - len(packed) // 2)
    (tmp_path / "works.gz").write_bytes(bytes(packed))
    found = import_openalex(tmp_path / "works.gz", writer)
    assert found.read > 100
    assert found.bad >= 1


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, writer, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.impact.importers.dumps.MOST_LINE", 5000)
    file = tmp_path / "works.jsonl"
    file.write_text(json.dumps(work(1)) + "\n" + "x" * 30_000 + "\n" + json.dumps(work(2)) + "\n")
    found = import_openalex(file, writer)
    assert (found.read, found.bad) == (2, 1)
    assert "longer than" in found.examples[0]


def test_an_archive_whose_first_member_is_no_table(tmp_path, writer):
    with zipfile.ZipFile(tmp_path / "g_patent.tsv.zip", "w") as archive:
        archive.writestr("data/", "")
        archive.writestr("__MACOSX/._g_patent.tsv", "junk")
        archive.writestr("data/g_patent.tsv", "\ufeffpatent_id\tpatent_date\n10000001\t2018-06-19\n")
    assert import_patents(tmp_path / "g_patent.tsv.zip", writer).read == 1
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(InputError, match="cannot be read"):
        import_patents(tmp_path / "empty.zip", writer)


def test_tables_of_patents_as_documented_quoted_and_with_stray_quotes(tmp_path, writer):
    (tmp_path / "g_patent.tsv").write_text(
        '"patent_id"\t"patent_type"\t"patent_date"\t"patent_title"\t"wipo_kind"\t"num_claims"\t"withdrawn"\t"filename"\n'
        '"10000001"\t"utility"\t"2018-06-19"\t"Injection ""moulding"" machine"\t"B2"\t12\t0\t"ipg180619.xml"\n'
        '"D345393"\t"design"\t"1994-03-22"\t"A title\nof two lines"\t"S"\t1\t0\t"pftaps.txt"\n'
        '"10000003"\t"utility"\t"2018-06-19"\t"A 5" pipe\t"B2"\t3\t0\t"x"\n'
        + "".join(f'"{20000000 + i}"\t"utility"\t"2019-01-01"\t"t"\t"B2"\t3\t0\t"x"\n' for i in range(200))
    )
    found = import_patents(tmp_path / "g_patent.tsv", writer)
    # The stray quote costs its own record at most, not those that follow.
    assert found.read >= 202
    assert found.bad <= 1
    (tmp_path / "g_us_patent_citation.tsv").write_text(
        "patent_id\tcitation_sequence\tcitation_patent_id\tcitation_date\trecord_name\twipo_kind\tcitation_category\n"
        "10000001\t0\tD345393\t1994-03-01\tNumberger\tS\tcited by examiner\n10000001\t1\t\t\t\t\t\n"
    )
    cited = import_patent_citations(tmp_path / "g_us_patent_citation.tsv", writer)
    assert (cited.read, cited.bad) == (1, 1)
    (tmp_path / "g_other_reference.tsv").write_text(
        'patent_id\tother_reference_sequence\tother_reference_text\n10000001\t0\t"Hahn et al., ""X"", J. Foo 12 '
        '(1996), <10.1002/(SICI)1096-8644(199601)99:1<1::AID-AJPA1>3.0.CO;2-1>."\n'
    )
    writer.work(1, 1996.0, authors=1, cites=[], doi="10.1002/(sici)1096-8644(199601)99:1<1::aid-ajpa1>3.0.co;2-1",
                pubmed=None, title="x")  # fmt: skip
    assert import_patent_references(tmp_path / "g_other_reference.tsv", writer).read == 1
    counts = writer.finish()
    assert counts["citations_by_patents_of_works"] == 1
    assert counts["citations"] == 2


SICI = "10.1002/(sici)1096-8644(199601)99:1<1::aid-ajpa1>3.0.co;2-1"


@pytest.mark.parametrize(
    ("text", "doi"),
    [
        ("https://doi.org/10.1002/(SICI)1096-8644(199601)99:1%3C1::AID-AJPA1%3E3.0.CO;2-1", SICI),
        (f"see doi: {SICI.upper()}.", SICI),
        (f"(see {SICI})", SICI),
        (f"<{SICI}>", SICI),
        ("Lancet (doi:10.1016/S0140-6736(05)67889-0), 2005", "10.1016/s0140-6736(05)67889-0"),
        ("doi:10.1038/nature12345; PMID 5", "10.1038/nature12345"),
        ("10.1038/a1,10.1038/b2", "10.1038/a1"),
        ("10.1000/a,b", "10.1000/a,b"),
        ('<a href="https://doi.org/10.1000/xyz">10.1000/xyz</a>', "10.1000/xyz"),
        ("<b>10.1000/xyz</b>", "10.1000/xyz"),
        ("https://doi.org/10.1000/xyz?ref=mail#top", "10.1000/xyz"),
        ("10.1000.10/123", "10.1000.10/123"),
        ("“10.1000/xyz”", "10.1000/xyz"),
        ("[10.1000/x[1]]", "10.1000/x[1]"),
        ("10.1000/", None),
        ("10.1000/).", None),
        (7, None),
    ],
)
def test_dois_end_where_their_syntax_ends(text, doi):
    assert clean_doi(text) == doi


@pytest.mark.parametrize("name", ["a%20b", "run#3", "what?", "50% done", "ünï"])
def test_folders_with_signs_of_addresses_in_their_names(tmp_path, name):
    from cryoprism.evaluation.impact import Prediction, write_forecasts

    folder = tmp_path / name
    folder.mkdir()
    made = GraphWriter(folder / "citations.sqlite")
    made.work(1, 2010.0, authors=1, cites=[], doi="10.1000/a", pubmed=None, title="one")
    made.work(2, 2012.0, authors=1, cites=[1], doi="10.1000/b", pubmed=None, title="two")
    made.finish()
    graph = load_graph(folder)
    assert len(graph.ids) == 2
    one = Prediction(*(graph.time[:1] * 0 + k for k in (3.0, 1.0, 2.0, 5.0)))
    about = {"chosen": "x", "chosen_for_patents": None, "until": 2013.0, "simulated": False}
    write_forecasts(folder / "forecasts.sqlite", folder / "citations.sqlite", graph.ids[1:], one, None, about)
    assert forecast_impact("10.1000/b", folder).expected == 3.0

"""SIMULATED graphs written as the dumps that the importers read."""

import datetime
import gzip
import json


def date_of(time):
    year = int(time)
    start = datetime.date(year, 1, 1)
    return (start + datetime.timedelta(days=int((time - year) * 365))).isoformat()


def write_openalex(path, graph, *, compress=True):
    """The works of a graph, without patents, one JSON object a line; W-numbers as in the graph."""
    cites = {}
    for citing, cited in zip(graph.ids[graph.citing].tolist(), graph.ids[graph.cited].tolist(), strict=True):
        cites.setdefault(citing, []).append(f"https://openalex.org/W{cited}")
    opened = gzip.open(path, "wt", encoding="utf-8") if compress else open(path, "w", encoding="utf-8")  # noqa: SIM115
    with opened as stream:
        for number, time, authors in zip(graph.ids.tolist(), graph.time, graph.authors, strict=True):
            if number > 0:
                work = {
                    "id": f"https://openalex.org/W{number}",
                    "doi": f"https://doi.org/10.5555/sim.{number}",
                    "display_name": f"Simulated work {number}",
                    "publication_date": date_of(time),
                    "ids": {"pmid": f"https://pubmed.ncbi.nlm.nih.gov/{900000 + number}"},
                    "authorships": [{}] * int(authors),
                    "referenced_works": cites.get(number, []),
                    "cited_by_count": 10**6,  # the dump's own count looks ahead and must not be read
                }
                stream.write(json.dumps(work) + "\n")
    return path


def write_patents(folder, graph):
    """The patents of a graph and the DOIs they name, as PatentsView's tables."""
    patents = folder / "g_patent.tsv"
    references = folder / "g_other_reference.tsv"
    with patents.open("w") as first, references.open("w") as second:
        first.write("patent_id\tpatent_type\tpatent_date\n")
        second.write("patent_id\tother_reference_sequence\tother_reference_text\n")
        for number, time in zip(graph.ids.tolist(), graph.time, strict=True):
            if number < 0:
                first.write(f"{10_000_000 - number}\tutility\t{date_of(time)}\n")
        for citing, cited in zip(graph.ids[graph.citing].tolist(), graph.ids[graph.cited].tolist(), strict=True):
            if citing < 0:
                second.write(f'{10_000_000 - citing}\t0\t"Sim, A. et al., doi:10.5555/SIM.{cited}. (2001)"\n')
    return patents, references

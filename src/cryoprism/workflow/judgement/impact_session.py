"""``cryoprism impact``: a citation graph from dumps, and forecasts of citations and patents from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoprism.core import InputError
from cryoprism.evaluation.impact import (
    HORIZON_IN_YEARS,
    MODELS,
    OLDEST_IN_YEARS,
    GraphWriter,
    ImportCount,
    Prediction,
    Trained,
    forecast_works,
    import_entries,
    import_merged_works,
    import_openalex,
    import_patent_citations,
    import_patent_references,
    import_patents,
    load_graph,
    train,
    write_forecasts,
)
from cryoprism.workflow.jobs.config import JobConfig
from cryoprism.workflow.jobs.files import all_or_none, atomic_path, fingerprint, write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.memory import GIGABYTE, available_memory_in_bytes
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.report import impact_report

from .impact_configs import ImpactBuildConfig, ImpactTrainConfig

__all__ = ["ImpactSummary", "build_impact_graph", "train_impact"]

log = logging.getLogger("cryoprism")

_LEAST_PATENT_CITATIONS = 50
# Peak bytes of a work and of a citation while a graph is read, described and trained on.
_WORK_BYTES, _CITATION_BYTES, _PROCESS_BYTES = 3_000, 700, 600_000_000


@dataclass(frozen=True, kw_only=True)
class ImpactSummary(StepSummary):
    """What :func:`build_impact_graph` and :func:`train_impact` return.

    Attributes
    ----------
    sentences
        What is there now, in words.
    mostly_unusable
        Files of which more lines could not be used than could.
    """

    sentences: tuple[str, ...]
    mostly_unusable: tuple[str, ...] = ()


def build_impact_graph(config: ImpactBuildConfig) -> ImpactSummary:
    """Run ``cryoprism impact build``: ``citations.sqlite`` and ``import.json`` from dumps.

    Raises
    ------
    InputError
        A file cannot be read or holds nothing of its kind.
    """
    started = time.monotonic()
    steps: tuple[tuple[Sequence[Path], Callable[[Path, GraphWriter], ImportCount]], ...] = (
        (config.works, import_openalex),
        (config.merged_works, import_merged_works),
        (config.patents, import_patents),
        (config.patent_citations, import_patent_citations),
        (config.patent_references, import_patent_references),
        (config.entries, import_entries),
    )
    files = [path for paths, _ in steps for path in paths]
    for path in files:
        if not path.exists():
            raise InputError(path, "does not exist", "Give a dump as it was downloaded.")
    merged = [one for path in config.merged_works if path.is_dir() for one in sorted(path.rglob("*.csv*"))]
    inputs = [path for path in (*files, *merged) if path.is_file()]
    with open_job("CitationGraph", config) as job, all_or_none(job.path, "citations.sqlite", "import.json"):
        job.record_inputs(inputs)
        hashes = _hashes(inputs)
        if (kept := _kept(job, config, "graph", hashes)) is not None:
            return kept
        counted: list[ImportCount] = []
        target = job.path / "citations.sqlite"
        with atomic_path(target) as temporary:
            writer = GraphWriter(temporary)
            try:
                for paths, read in steps:
                    for path in paths:
                        counted.append(read(path, writer))
                        log.info("%s: %d read, %d not usable", path, counted[-1].read, counted[-1].bad)
                counts = writer.finish()
            finally:
                writer.close()
        # An entry without a publication is no fault of its file.
        lines = counted[: len(counted) - len(config.entries)]
        poor = tuple(one.file for one in lines if one.bad > one.read)
        sentences = (*_built(counts, counted), *_poor(lines))
        write_json(
            job.path / "import.json",
            {
                "schema": "cryoprism-citations-1",
                "counts": counts,
                "files": [vars(one) for one in counted],
                "sentences": list(sentences),
            },
        )
        _mark(job, "graph", hashes, [target, job.path / "import.json"], sentences, poor)
        return ImpactSummary(
            output=job.path, sentences=sentences, mostly_unusable=poor, seconds=time.monotonic() - started
        )


def _poor(counted: Sequence[ImportCount]) -> list[str]:
    return [
        f"Most of {one.file} could not be used: {one.bad} of {one.bad + one.read} lines. Give a dump as it was "
        "downloaded."
        for one in counted
        if one.bad > one.read
    ]


def _built(counts: dict[str, int], counted: Sequence[ImportCount]) -> tuple[str, ...]:
    said = [
        f"{counts['works']} works, {counts['patents']} patents and {counts['citations']} citations among them, "
        f"{counts['citations_by_patents_of_works']} of works by patents; {counts['entries']} entries of PDB and EMDB.",
        f"Left out: {counts['citations_of_works_outside']} citations of works that the dumps lack, "
        f"{counts['citations_older_than_what_they_cite']} that are older than what they cite.",
    ]
    if counts["works_merged_into_others"] or counts["citations_of_merged_works"]:
        said.append(
            f"{counts['works_merged_into_others']} works were merged into others and taken out; "
            f"{counts['citations_of_merged_works']} citations go to what they became."
        )
    bad = sum(one.bad for one in counted)
    if bad:
        first = next(example for one in counted for example in one.examples)
        said.append(f"{bad} lines could not be used, the first: {first}. import.json names more.")
    return tuple(said)


def train_impact(config: ImpactTrainConfig) -> ImpactSummary:
    """Run ``cryoprism impact train``: ``forecasts.sqlite``, ``impact.json`` and ``report.html`` from a graph.

    Raises
    ------
    InputError
        The graph cannot be used, reaches back too little, or does not fit into memory.
    """
    started = time.monotonic()
    file = config.graph / "citations.sqlite" if config.graph.is_dir() else config.graph
    graph = load_graph(file)
    need = _PROCESS_BYTES + _WORK_BYTES * len(graph.ids) + _CITATION_BYTES * len(graph.citing)
    limit = config.max_memory_in_gigabytes
    free = available_memory_in_bytes() if limit is None else int(limit * 1e9)
    if need > free:
        raise InputError(
            file,
            f"{len(graph.ids)} works with {len(graph.citing)} citations need about {need / GIGABYTE:.1f} GB but "
            f"{free / GIGABYTE:.1f} GB may be used",
            "Build a graph of your field alone, free memory, or raise --max-memory.",
        )
    now = float(graph.time[-1]) if config.now is None else config.now
    models = config.models or MODELS
    names = ("forecasts.sqlite", "impact.json", "report.html")
    with open_job("Impact", config) as job, all_or_none(job.path, *names):
        job.record_inputs([file])
        hashes = _hashes([file])
        if (kept := _kept(job, config, "forecasts", hashes)) is not None:
            return kept
        works = train(graph, now, seed=config.seed, models=models)
        log.info("%s", works.sentence())
        ids, predicted = forecast_works(works, graph, now)
        patents, predicted_patents = None, None
        by_patents = int((graph.is_patent[graph.citing] & ~graph.is_patent[graph.cited]).sum())
        if by_patents >= _LEAST_PATENT_CITATIONS:
            patents = train(graph, now, seed=config.seed, by_patents=True, models=models)
            log.info("%s", patents.sentence())
            predicted_patents = forecast_works(patents, graph, now)[1]
        about = {
            "chosen": works.chosen,
            "chosen_for_patents": None if patents is None else patents.chosen,
            "until": now,
            "simulated": graph.simulated,
        }
        target = job.path / "forecasts.sqlite"
        with atomic_path(target) as temporary:
            count = write_forecasts(temporary, file, ids, predicted, predicted_patents, about)
        sentences = _trained(works, patents, count, now, by_patents, graph.simulated)
        content = {
            "schema": "cryoprism-impact-1",
            **about,
            "works": works.to_json(),
            "patents": None if patents is None else patents.to_json(),
            "forecasts": count,
            "sentences": list(sentences),
        }
        write_json(job.path / "impact.json", content)
        page = impact_report(job.path, content, predicted=_spread(predicted))
        _mark(job, "forecasts", hashes, [target, job.path / "impact.json", page], sentences)
        return ImpactSummary(output=job.path, sentences=sentences, seconds=time.monotonic() - started)


def _trained(
    works: Trained, patents: Trained | None, count: int, now: float, by_patents: int, simulated: bool
) -> tuple[str, ...]:
    said = [
        f"{count} works of the {OLDEST_IN_YEARS:g} years before {now:.1f} have a forecast of their citations in the "
        f"{HORIZON_IN_YEARS:g} years after it.",
        works.sentence(),
    ]
    if patents is None:
        said.append(f"There is no forecast of patents: the graph holds {by_patents} citations of works by patents.")
    else:
        said.append(patents.sentence())
    absent = {**works.absent, **({} if patents is None else patents.absent)}
    said += [f"{name} was not tried: {why}" for name, why in absent.items()]
    if simulated:
        said.append("The citation graph is SIMULATED: nothing here is about real papers.")
    return tuple(said)


def _spread(predicted: Prediction) -> list[tuple[float, float, float]]:
    order = predicted.expected.argsort()
    steps = order[:: max(1, len(order) // 12)]
    columns = (predicted.expected, predicted.lower, predicted.upper)
    return [(float(columns[0][i]), float(columns[1][i]), float(columns[2][i])) for i in steps.tolist()]


def _hashes(sources: Sequence[Path]) -> str:
    return ";".join(str(fingerprint(path)["sha256_of_ends"]) for path in sources)


def _kept(job: Job, config: JobConfig, stage: str, hashes: str) -> ImpactSummary | None:
    if not (config.only_do_unfinished and job.is_done(stage, stage=stage, depends_on=hashes)):
        return None
    kept = job.done_result(stage, stage=stage)
    return ImpactSummary(
        output=job.path,
        sentences=tuple(kept["sentences"]),
        mostly_unusable=tuple(kept["mostly_unusable"]),
        skipped=True,
    )


def _mark(
    job: Job,
    stage: str,
    hashes: str,
    outputs: Sequence[Path],
    sentences: Sequence[str],
    poor: Sequence[str] = (),
) -> None:
    result = {"sentences": list(sentences), "mostly_unusable": list(poor)}
    job.mark_done(stage, stage=stage, outputs=outputs, depends_on=hashes, result=result)

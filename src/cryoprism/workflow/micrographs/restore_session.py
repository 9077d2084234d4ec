"""The main job: restore a session. Analyse every micrograph, settle the session, restore, write, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cryoprism.causes import (
    Estimate,
    Gates,
    Ledger,
    LoopTrace,
    Prior,
    SearchRange,
    abstentions,
    fitted_spectrum,
    make_ledger,
    refit,
    run_loop,
)
from cryoprism.core import InputError, generator_for
from cryoprism.formats import (
    Catalogue,
    MicrographRecord,
    StarBlock,
    portable_name,
    read_image_info,
    write_micrographs_star,
    write_mrc,
    write_star,
)
from cryoprism.restoration import (
    FittedOptics,
    GainResidueAccumulator,
    fit_damping,
    frequency_weights,
    relative_to_session,
    relion_columns,
)
from cryoprism.structure import directional_weights, directional_weights_block
from cryoprism.workflow.jobs.config import RestoreConfig
from cryoprism.workflow.jobs.files import write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.memory import MemoryPlan, plan_memory
from cryoprism.workflow.jobs.parallel import Failure, close_workers, map_items
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.jobs.summary import RestoreSummary
from cryoprism.workflow.report import write_report

from .analysis import PRODUCTS, Analysis, RestoreTask, Task, analyse, load_micrograph, restore
from .document import causes_document, flags_of
from .narrative import session_sentences
from .reading import read_micrographs

__all__ = ["Session", "analyse_session", "restore_session"]

log = logging.getLogger("cryoprism")

_GAIN_MICROGRAPHS = 40
# With fewer, too much of what is taken for the pattern is the other micrographs themselves.
_GAIN_ENOUGH = 20


@dataclass(frozen=True)
class Session:
    """Settled posterior of a session, in the order of its micrographs."""

    names: tuple[str, ...]
    estimates: tuple[Estimate, ...]
    ledgers: tuple[Ledger, ...]
    gates: tuple[dict[str, Gates], ...]
    prior: Prior
    trace: LoopTrace

    def document(self) -> dict[str, Any]:
        """Content of ``causes.json``."""
        return causes_document(self.names, self.estimates, self.ledgers, self.gates, self.prior, self.trace)


def analyse_session(
    names: Sequence[str],
    estimates: Sequence[Estimate],
    *,
    seed: int = 0,
    passes: int = 6,
    phase_plate: bool = False,
    workers: int = 1,
) -> Session:
    """Settle first estimates into a session: shared priors, ledgers, gates, by the self-evaluation loop."""

    def price(items: Iterable[Estimate]) -> list[Ledger]:
        pairs = list(zip(names, items, strict=True))
        return _all(map_items(partial(_price, seed=seed), pairs, workers, names=names))

    def fit_again(items: Iterable[Estimate], prior: Prior) -> list[Estimate]:
        return _all(map_items(partial(refit, prior=prior), list(items), workers, names=names))

    base = SearchRange(phase_plate=phase_plate).prior()
    settled, ledgers, gates, prior, trace = run_loop(estimates, price, fit_again, base, passes=passes)
    return Session(tuple(names), tuple(settled), tuple(ledgers), tuple(gates), prior, trace)


def _all(results: Iterable[Any]) -> list[Any]:
    return list(results)


def _price(pair: tuple[str, Estimate], *, seed: int) -> Ledger:
    name, estimate = pair
    observation = replace(estimate.observation, abstained=frozenset(abstentions(estimate)))
    return make_ledger(observation, generator_for(seed, "ledger", name))


def restore_session(config: RestoreConfig) -> RestoreSummary:
    """Run ``cryoprism restore``: everything from the input's name to ``report.html``.

    Raises
    ------
    InputError
        The input, a setting or the output folder cannot be used. A micrograph that cannot be read does not stop the
        others; the error is raised only where none can be.
    """
    started = time.monotonic()
    catalogue = _catalogue(config)
    try:
        with open_job("Restore", config) as job:
            return _run(config, catalogue, job, started)
    finally:
        close_workers()


def _catalogue(config: RestoreConfig) -> Catalogue:
    return read_micrographs(
        config,
        exposure_in_electrons_per_square_angstrom=config.exposure_in_electrons_per_square_angstrom,
        gain_file=config.gain_file,
        mtf_file=config.mtf_file,
    )


def _run(config: RestoreConfig, catalogue: Catalogue, job: Job, started: float) -> RestoreSummary:
    records = catalogue.micrographs
    job.record_inputs(record.path for record in records)
    shapes = [_shape(record.path) for record in records]
    known = [shape for shape in shapes if shape is not None]
    limit = None if config.max_memory_in_gigabytes is None else int(config.max_memory_in_gigabytes * 1e9)
    largest = max(known, default=(1024, 1024), key=lambda shape: shape[0] * shape[1])
    plan = plan_memory(largest, workers=config.workers, views=config.views, limit_in_bytes=limit)
    log.info("%s", plan)
    tasks = [Task(record, catalogue.optics_of(record), config, None) for record in records]
    tasks = _with_gain_residue(tasks, shapes, job)
    names = [record.name for record in records]
    with progress("Estimating causes", len(tasks)) as step:
        results = list(map_items(analyse, tasks, plan.workers, names=names, keep_going=True, on_result=step))
    analyses = {result.name: result for result in results if isinstance(result, Analysis)}
    failed = tuple((result.name, str(result.error)) for result in results if isinstance(result, Failure))
    for name, reason in failed:
        log.error("%s: left out: %s", name, reason)
    if not analyses:
        raise InputError(config.inputs[0], f"none of {len(records)} micrographs could be used", failed[0][1])
    good = [name for name in names if name in analyses]
    session = analyse_session(
        good,
        [analyses[name].estimate for name in good],
        seed=config.seed,
        passes=config.max_passes,
        phase_plate=config.phase_plate,
        workers=plan.workers if len(good) > 8 else 1,
    )
    log.info(
        "Loop: %d passes, %s", len(session.trace.passes), "settled" if session.trace.converged else "NOT converged"
    )
    settled = dict(zip(session.names, session.estimates, strict=True))
    by_name = {task.record.name: task for task in tasks}
    skipped = _restore_all(config, job, plan, by_name, analyses, settled)
    document = session.document()
    write_json(job.path / "causes.json", document)
    _write_star(job.path, catalogue, settled)
    job.write_relion_output_nodes({"micrographs.star": 1})
    write_report(job.path, document)
    sentences = tuple(session_sentences(document))
    flagged = tuple(name for name in good if flags_of(settled[name]))
    return RestoreSummary(
        output=job.path,
        micrographs=len(records),
        restored=len(good),
        skipped=skipped,
        flagged=flagged,
        failed=failed,
        passes=len(session.trace.passes),
        converged=session.trace.converged,
        seconds=time.monotonic() - started,
        sentences=sentences,
    )


def _shape(path: Path) -> tuple[int, int] | None:
    try:
        shape = read_image_info(path).shape
    except (InputError, OSError):
        return None  # said by the analysis, with the micrograph's name
    return int(shape[0]), int(shape[1])


def _with_gain_residue(tasks: list[Task], shapes: Sequence[tuple[int, int] | None], job: Job) -> list[Task]:
    """Look for a pattern that all micrographs share; where there is one, every later step divides it out."""
    common = max(set(shapes) - {None}, key=shapes.count, default=None)
    same = [task for task, shape in zip(tasks, shapes, strict=True) if shape == common and common is not None]
    if len(same) < 4:
        return tasks
    chosen = same[:: max(1, len(same) // _GAIN_MICROGRAPHS)][:_GAIN_MICROGRAPHS]
    accumulator = GainResidueAccumulator()
    with progress("Looking for gain residue", len(chosen)) as step:
        for task in chosen:
            try:
                accumulator.update(load_micrograph(task, corrected=False))
            except InputError as error:
                log.debug("%s: %s", task.record.name, error)
            step(task.record.name)
    residue = accumulator.estimate()
    job.note("gain_residue", {"kind": residue.kind, "significance": residue.significance})
    if residue.pattern is None:
        return tasks
    if len(chosen) < _GAIN_ENOUGH:
        log.info("A pattern common to %d micrographs was found; it takes %d to remove it", len(chosen), _GAIN_ENOUGH)
        return tasks
    path = job.path / f"gain_residue_{residue.kind}.mrc"
    write_mrc(path, residue.pattern, tasks[0].optics.pixel_size_in_angstroms)
    log.info("Gain residue found (%s): removed from every micrograph; see %s", residue.kind, path)
    return [replace(task, gain_residue=path) for task in tasks]


def _restore_all(
    config: RestoreConfig,
    job: Job,
    plan: MemoryPlan,
    tasks: dict[str, Task],
    analyses: dict[str, Analysis],
    settled: dict[str, Estimate],
) -> int:
    for folder in (*(PRODUCTS if config.views else ()), "panels", "weights"):
        job.folder(folder)
    if any(tasks[name].record.is_movie for name in settled):
        job.folder("averages")
    for name, estimate in settled.items():
        _write_weights(job.path / "weights" / f"{name}.star", estimate)
    if config.views and (
        any(tasks[name].gain_residue for name in settled) or any(a.bad_pixels.numel() for a in analyses.values())
    ):
        job.folder("cleaned")
    # The session's posterior decides a view: a session that grew or changed redoes only what moved.
    stamp = {name: _stamp(estimate) for name, estimate in settled.items()}
    todo = [
        name
        for name in settled
        if not (
            config.only_do_unfinished
            and job.is_done(name, stage="restore", source=tasks[name].record.path, depends_on=stamp[name])
        )
    ]
    items = [
        RestoreTask(tasks[name], replace(analyses[name], estimate=settled[name]), job.path, plan.tile) for name in todo
    ]
    with progress("Restoring", len(items)) as step:
        for name, result in zip(todo, map_items(restore, items, plan.workers, names=todo, on_result=step), strict=True):
            outputs = [job.path / folder / f"{name}.mrc" for folder in PRODUCTS] if config.views else []
            if isinstance(result, dict) and result["cleaned"]:
                outputs.append(job.path / "cleaned" / f"{name}.mrc")
            job.mark_done(
                name,
                stage="restore",
                source=tasks[name].record.path,
                outputs=[*outputs, job.path / "panels" / f"{name}.npz"],
                depends_on=stamp[name],
                result=result,
            )
    return len(settled) - len(todo)


def _stamp(estimate: Estimate) -> str:
    """Posterior mean, rounded to a tenth of its own standard deviation: what a view depends on."""
    deviation = estimate.fit.covariance.diagonal().clamp_min(1e-12).sqrt()
    return ",".join(f"{value:.0f}" for value in (10 * estimate.fit.theta / deviation).tolist())


def _write_star(folder: Path, catalogue: Catalogue, settled: dict[str, Estimate]) -> None:
    """``micrographs.star``: the data product; micrographs that could not be read are left out."""
    records = [record for record in catalogue.micrographs if record.name in settled]
    optics = {name: _fitted_optics(settled[name]) for name in settled}
    models = {name: fitted_spectrum(settled[name]) for name in settled}
    order = [record.name for record in records]
    dampings = relative_to_session([fit_damping(models[name], optics[name]) for name in order])
    # What all micrographs share is the specimen's and cannot be told from it: B counts from the session's sharpest.
    sharpest = min((d.b_factor_in_square_angstroms for d in dampings if d.identified), default=0.0)
    dampings = [
        replace(d, b_factor_in_square_angstroms=d.b_factor_in_square_angstroms - sharpest) if d.identified else d
        for d in dampings
    ]
    rows = [relion_columns(optics[name], damping) for name, damping in zip(order, dampings, strict=True)]
    columns: dict[str, list[object]] = {label: [row[label] for row in rows] for label in rows[0]}
    tilts = [settled[name].tilt for name in order]
    if any(tilt.significant for tilt in tilts):
        # Change of the defocus [Å per Å] over the field: what gives every particle a defocus of its own.
        columns["cryoprismDefocusGradientX"] = [tilt.gradient_x if tilt.significant else 0.0 for tilt in tilts]
        columns["cryoprismDefocusGradientY"] = [tilt.gradient_y if tilt.significant else 0.0 for tilt in tilts]
    columns["cryoprismFlags"] = [";".join(flags_of(settled[name])) or "None" for name in order]
    cleaned = {record.name: folder / "cleaned" / f"{record.name}.mrc" for record in records}
    if any(path.exists() for path in cleaned.values()):
        columns["cryoprismCleanedMicrographName"] = [
            portable_name(cleaned[name]) if cleaned[name].exists() else "None" for name in order
        ]
    records = [_as_average(record, folder) if record.is_movie else record for record in records]
    write_micrographs_star(folder / "micrographs.star", replace(catalogue, micrographs=tuple(records)), columns)


def _as_average(record: MicrographRecord, folder: Path) -> MicrographRecord:
    """Record of the summed movie, which is what coordinates and extraction refer to."""
    extra = dict(record.extra) | {"rlnMicrographMovieName": portable_name(record.path)}
    return replace(record, path=folder / "averages" / f"{record.name}.mrc", is_movie=False, extra=extra)


def _write_weights(path: Path, estimate: Estimate) -> None:
    """Per-frequency weights of one micrograph as STAR: all directions together, the weakest and strongest, each one."""
    spectrum = fitted_spectrum(estimate)
    weights = frequency_weights(spectrum, _fitted_optics(estimate))
    pick = slice(4, None, 8)  # every eighth of 1024 radii: the spectra are smooth
    k = weights.frequency[pick]
    directional = weights.directional_weight[:, pick]
    weakest, strongest = directional.mean(1).argmin(), directional.mean(1).argmax()
    columns = {
        "rlnResolution": k,
        "rlnAngstromResolution": 1 / k,
        "cryoprismSsnr": weights.radial_ssnr[pick],
        "cryoprismWeight": weights.radial_weight[pick],
        "cryoprismWeightWeakestDirection": directional[weakest],
        "cryoprismWeightStrongestDirection": directional[strongest],
    }
    table = StarBlock("weights", (), tuple(() for _ in k)).with_columns(
        {label: [f"{value:.6g}" for value in values.tolist()] for label, values in columns.items()}
    )
    angles = weights.angle_in_degrees
    directions = StarBlock(
        "directions",
        ("cryoprismWeakestDirection", "cryoprismStrongestDirection"),
        ((f"{float(angles[weakest]):.2f}", f"{float(angles[strongest]):.2f}"),),
    )
    polar = directional_weights_block(directional_weights(spectrum))
    write_star(path, [directions, table, polar])


def _fitted_optics(estimate: Estimate) -> FittedOptics:
    ctf = estimate.ctf
    return FittedOptics(
        lens=estimate.lens,
        defocus_u_in_angstroms=ctf.defocus_u_in_angstroms,
        defocus_v_in_angstroms=ctf.defocus_v_in_angstroms,
        defocus_angle_in_degrees=ctf.defocus_angle_in_degrees,
        phase_shift_in_degrees=ctf.phase_shift_in_degrees,
        figure_of_merit=ctf.figure_of_merit,
        max_resolution_in_angstroms=ctf.limit_in_angstroms,
    )

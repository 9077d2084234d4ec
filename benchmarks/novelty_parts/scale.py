"""Indexes of a million and more SYNTHETIC vectors: time, memory, disk, recall against exact search, time of a query."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoprism.evaluation.novelty import DESCRIPTOR, DIMENSION, Entry, IndexWriter, ShapeIndex, lists_for, require_faiss

from .panel import Panel

BLOCK = 50_000
_NEAREST = 10


class SyntheticShapes:
    """Vectors drawn around real descriptors: mixtures of three, with the residue of a real copy and a little noise."""

    def __init__(self, panel: Panel, seed: int, proteins: NDArray[np.int64] | None = None) -> None:
        chosen = np.arange(len(panel.names)) if proteins is None else proteins
        copies = np.isin(panel.owner, chosen)
        self._real = np.concatenate([panel.models[chosen], panel.copies[copies, 0]])
        self._residue = (panel.copies[:, 0] - panel.models[panel.owner])[copies]
        self._seed = seed

    def block(self, name: str, number: int, count: int) -> NDArray[np.float32]:
        """Vectors (count, 128), the same for the same name and number."""
        rng = np.random.default_rng([self._seed, number, *name.encode()])
        share = rng.dirichlet((0.7, 0.7, 0.7), count).astype(np.float32)
        chosen = rng.integers(0, len(self._real), (count, 3))
        vectors = np.einsum("nk,nkd->nd", share, self._real[chosen])
        vectors += self._residue[rng.integers(0, len(self._residue), count)] * rng.random((count, 1), dtype=np.float32)
        vectors[:, :121] += 0.004 * rng.standard_normal((count, 121), dtype=np.float32)
        vectors[:, :121] /= np.linalg.norm(vectors[:, :121], axis=1, keepdims=True)
        vectors[:, 121] += 0.2 * rng.standard_normal(count, dtype=np.float32)
        return vectors


def _peak() -> float:
    """Peak resident memory of this process so far [GB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _entries(number: int, count: int) -> Iterator[Entry]:
    for i in range(number, number + count):
        yield Entry(f"synthetic-{i:08d}", "", "synthetic")


def measure_scale(panel: Panel, work: Path, count: int, seed: int, queries: int = 200) -> None:
    """Print the table of one size."""
    faiss = require_faiss()
    faiss.omp_set_num_threads(1)
    shapes = SyntheticShapes(panel, seed)
    asked = shapes.block("query", 0, queries)
    folder = work / f"index-{count}"
    shutil.rmtree(folder, ignore_errors=True)
    lists = min(4096, lists_for(count))
    sample = shapes.block("sample", 0, min(48 * lists, count))
    exact = np.full((queries, _NEAREST), np.inf), np.full((queries, _NEAREST), -1, dtype=np.int64)
    seconds = {"train": 0.0, "add": 0.0, "exact": 0.0}
    wall = time.monotonic()
    with IndexWriter(folder, DESCRIPTOR, DIMENSION, fresh=True, expected=count) as writer:
        started = time.process_time()
        writer.train(sample, lists)
        seconds["train"] = time.process_time() - started
        for start in range(0, count, BLOCK):
            vectors = shapes.block("block", start // BLOCK, min(BLOCK, count - start))
            started = time.process_time()
            writer.add(vectors, list(_entries(start, len(vectors))))
            seconds["add"] += time.process_time() - started
            started = time.process_time()
            exact = _nearer(exact, asked, vectors, start)
            seconds["exact"] += time.process_time() - started
            if (start // BLOCK) % 20 == 19:
                print(f"<!-- {start + BLOCK:,} of {count:,}, {time.monotonic() - wall:.0f} s -->", flush=True)
        started = time.process_time()
        writer.commit({"resolution_in_angstroms": 10.0})
        seconds["write"] = time.process_time() - started
    peak = _peak()
    disk = {path.suffix: path.stat().st_size / 1e9 for path in folder.iterdir()}
    build = seconds["train"] + seconds["add"] + seconds["write"]
    print(
        f"\n{count:,} SYNTHETIC vectors of {DIMENSION}, {lists} lists, 8 bit, {len(sample):,} to train, seed {seed}:\n"
    )
    print("| build, CPU [min] | of it lists [min] | peak memory [GB] | vectors on disk [GB] | names on disk [GB] |")
    print("|---|---|---|---|---|")
    print(
        f"| {build / 60:.1f} | {seconds['train'] / 60:.1f} | {peak:.2f} | {disk['.faiss']:.2f} | "
        f"{disk['.sqlite']:.2f} |"
    )
    _queries(folder, asked, exact[1], seconds["exact"] / queries)


def _nearer(
    known: tuple[NDArray[np.float64], NDArray[np.int64]],
    asked: NDArray[np.float32],
    vectors: NDArray[np.float32],
    first: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    squares = (asked**2).sum(1)[:, None] + (vectors**2).sum(1) - 2 * asked @ vectors.T
    near = np.argpartition(squares, _NEAREST, axis=1)[:, :_NEAREST]
    distances = np.concatenate([known[0], np.take_along_axis(squares, near, 1)], 1)
    numbers = np.concatenate([known[1], near + first], 1)
    order = np.argsort(distances, axis=1)[:, :_NEAREST]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(numbers, order, 1)


def _queries(folder: Path, asked: NDArray[np.float32], truth: NDArray[np.int64], exact_seconds: float) -> None:
    started = time.process_time()
    index = ShapeIndex.open(folder, DESCRIPTOR)
    opened = time.process_time() - started
    print(
        f"\nOpened in {opened:.1f} CPU s, its SHA-256 and that of the sample compared. "
        "One thread, one query at a time; the time includes looking up ten names.\n"
    )
    print("| lists looked into | recall@10 (95 % interval) | CPU per query [ms] | wall, median [ms] |")
    print("|---|---|---|---|")
    rng = np.random.default_rng(0)
    default = int(index.page["probes"])
    for probes in sorted({8, 16, 32, 64, 128, default}):
        index.probe(probes)
        index.nearest(asked[:5], _NEAREST)
        share, walls = np.zeros(len(asked)), np.zeros(len(asked))
        started = time.process_time()
        for i, query in enumerate(asked):
            begun = time.perf_counter()
            found = index.search(query, _NEAREST)
            walls[i] = time.perf_counter() - begun
            share[i] = len({match.number for match in found} & set(truth[i].tolist())) / _NEAREST
        cpu = (time.process_time() - started) / len(asked)
        means = rng.choice(share, (2000, len(share))).mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        mark = " (default)" if probes == default else ""
        print(
            f"| {probes}{mark} | {share.mean():.3f} ({low:.3f} to {high:.3f}) | {1000 * cpu:.2f} | "
            f"{1000 * np.median(walls):.2f} |"
        )
    print(f"| exact, in blocks of {BLOCK:,} | 1 | {1000 * exact_seconds:.1f} | |")
    print(f"\nPeak memory with the queries: {_peak():.2f} GB.", flush=True)

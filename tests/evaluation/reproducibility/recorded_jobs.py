"""Job folders as runs leave them, and what is found of them."""

import hashlib
import json
import platform

import numpy as np

from cryoprism import __version__
from cryoprism.evaluation.reproducibility import chain_of, check_completeness, read_record


def write_job(project, name, kind, inputs=(), outputs=(), **changes):
    """A job folder as a run leaves it."""
    folder = project / name
    folder.mkdir(parents=True, exist_ok=True)
    for output in outputs:
        (folder / output).parent.mkdir(parents=True, exist_ok=True)
        (folder / output).write_text(f"{kind} {output}")
    entries = []
    for path in inputs:
        content = (project / path).read_bytes()
        entries.append({"path": path, "bytes": len(content), "changed_ns": 0,
                        "sha256_of_ends": hashlib.sha256(content).hexdigest()})  # fmt: skip
    record = {
        "schema": "cryoprism-job-1", "kind": kind, "command": ["cryoprism"], "config_hash": "0", "seed": 0,
        "config": {"output": name, "seed": 0, "particles_file": inputs[0] if inputs else None},
        "versions": {"cryoprism": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:00:20+00:00", "status": "success",
        "inputs": entries,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(record | changes))
    return folder


def items_of(project, name="Resolution/job003"):
    return check_completeness(chain_of(read_record(project / name)))


def missing(items, group):
    return {item.name: item for item in items if item.group == group and not item.there}

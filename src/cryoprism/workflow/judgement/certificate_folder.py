"""The folder of a certificate in a job: whole, or not there."""

from __future__ import annotations

import shutil
from pathlib import Path

from cryoprism.evaluation.consistency import Consistency

__all__ = ["put_certificate"]


def put_certificate(result: Consistency, folder: Path) -> Path:
    """Write ``certificate/`` into the folder of a job, in place of an earlier one; return it.

    It is written beside its place and renamed; where that fails (a full disk, an interruption), what was written of it
    goes away.
    """
    unfinished, certificate = folder / "certificate.part", folder / "certificate"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        result.write_certificate(unfinished)
        shutil.rmtree(certificate, ignore_errors=True)
        unfinished.rename(certificate)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return certificate

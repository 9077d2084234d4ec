"""Judge what came out: proofs, sandbox, fragility, novelty, impact, reproducibility, and one score from them."""

from .evidence import Answer, Status, Verdict, available, not_available, not_tied

__all__ = ["Answer", "Status", "Verdict", "available", "not_available", "not_tied"]

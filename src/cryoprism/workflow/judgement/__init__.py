"""What came out, judged: prove, assess, sandbox, novelty, impact, weights."""

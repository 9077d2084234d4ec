"""Labelled synthetic micrographs: synthesize, matched to a session, with realism and trained networks."""

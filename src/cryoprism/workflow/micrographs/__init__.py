"""From micrographs to causes and restored views: restore, explain, simulate's comparison, the demo."""

"""Jobs themselves: configuration, folders that record everything, resume, progress, memory, several workers."""

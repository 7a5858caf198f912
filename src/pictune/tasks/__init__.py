"""The tasks, each answering the same few questions about its annotations and networks."""

"""Exporting: the artifact that is shipped, the gate before it, and what runs it without PyTorch."""

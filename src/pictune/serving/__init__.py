"""Serving: the prediction server, its limits, its queue and its worker processes."""

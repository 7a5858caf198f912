"""How good it is, how sure we are, and what it gets wrong."""

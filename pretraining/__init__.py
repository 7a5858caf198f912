"""How the starter weights were made: pictures that a program draws, and the training on them."""

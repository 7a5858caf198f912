"""How the weights move: the loop, optimizers, schedules, averaging, checkpoints."""

"""``python -m pictune`` is the command line."""

from pictune.cli import main

main()

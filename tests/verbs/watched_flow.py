"""Runs several commands of ``pictune``, one after the other in this process; stops at the first that fails.

``python watched_flow.py '[["train", "photos"], ["predict", "runs/x", "photos"]]'``
"""

from __future__ import annotations

import json
import sys

from pictune.cli import main

if __name__ == "__main__":
    for words in json.loads(sys.argv[1]):
        sys.argv = ["pictune", *words]
        try:
            main()
        except SystemExit as ended:
            if ended.code:
                sys.exit(f"{words} ended with {ended.code}")

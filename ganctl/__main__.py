"""Entry point of `ganctl`, of `python -m ganctl`, and of this file started by its path.

The import path is cleaned before anything else is imported: the current folder may hold another `json.py`.
"""

import sys

if not __package__:  # started by its path: Python puts the folder of this file first, which holds the subpackages
    sys.path[0] = sys.path[0].rpartition("/")[0]

from ganctl import import_path

if not __package__:
    del sys.path[0]
sys.excepthook = import_path.excepthook
import_path.remove_shadowing_entries()

from ganctl.main import main

if __name__ == "__main__":
    main()

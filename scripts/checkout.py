"""Make this repository's packages importable from a script in scripts/, whatever the current directory, and set how
PyTorch's threads wait. Scripts import this module first."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from common.threads import before_torch

before_torch()

"""Makes the packages of this repository importable from a script in scripts/, wherever it is started: import it
first."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

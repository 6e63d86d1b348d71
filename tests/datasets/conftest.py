"""The tests here share `mutations.py`, which plain `pytest` would not find."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

"""What holds for all tests."""

import os

# Tests run in two processes (`pytest -n 0` in this one); each computes in one thread, before torch counts the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# Examples have no deadline: on a busy machine any of them may wait.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

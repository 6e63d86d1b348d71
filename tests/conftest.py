"""What holds for all tests."""

from hypothesis import settings

# Examples have no deadline: on a busy machine any of them may wait.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

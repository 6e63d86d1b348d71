"""A package of tasks of a user's own, for the tests of the engine."""

"""Tools: train, evaluate, predict, check, list and bench any task on any data."""

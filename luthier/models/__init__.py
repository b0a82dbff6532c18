"""Room `models`: find and load a model, and get log-probabilities out of it."""

"""Room `train`: the loop, what it needs to be exactly resumable, and who watches it."""

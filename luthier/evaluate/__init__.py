"""Room `evaluate`: how good a model is, and whether it got better."""

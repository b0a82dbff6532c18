"""Room `inference`: answers from a model."""

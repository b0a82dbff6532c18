"""Optimizers: which weights change, how fast, and what is remembered between steps."""

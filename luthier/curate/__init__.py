"""Cleaners, guards and augmenters that ask a model."""

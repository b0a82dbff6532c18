"""Room `drive`: callers of the factory from outside, many times or elsewhere."""

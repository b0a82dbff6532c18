"""Every number in the documentation is printed by a command here: `python -m benchmarks.NAME`."""

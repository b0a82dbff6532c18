"""One file per row layout; `base.py` says what a format is and how to add one."""

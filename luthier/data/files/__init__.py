"""One file per kind of file; `base.py` says what a kind is and how to add one."""

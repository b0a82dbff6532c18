"""One file per cleaner; `base.py` says what a cleaner is and how to add one."""

"""One file per augmenter and the guards; `base.py` says what they are and how to add one."""

"""Room `registry`: tuned models by name and version, what each was made of, and the runs that made them."""

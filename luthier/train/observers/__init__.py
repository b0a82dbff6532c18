"""Who watches a run: one file per observer."""

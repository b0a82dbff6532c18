"""Room `data`: from files to batches. Rows -> formats -> split -> tokens with a loss mask -> micro-batches."""

"""Room `objectives`: what is learnt, as a sum over units."""

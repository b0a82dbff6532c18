"""Room `kernels`: named computations with a plain version beside each, which the tests hold them to."""

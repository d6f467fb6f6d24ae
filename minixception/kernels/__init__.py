"""Building blocks that the operators' kernels share: compilation, explicit vectors, the matrix product."""

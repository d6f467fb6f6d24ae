"""3. GPU: the numba.cuda kernels of batch normalisation go here; this version has none."""

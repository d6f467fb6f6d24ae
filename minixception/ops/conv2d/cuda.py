"""3. GPU: the numba.cuda kernels of convolution go here; this version has none."""

"""3. GPU: the numba.cuda kernels of separable convolution go here; this version has none."""

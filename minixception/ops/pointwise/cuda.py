"""3. GPU: the numba.cuda kernels of pointwise convolution go here; this version has none."""

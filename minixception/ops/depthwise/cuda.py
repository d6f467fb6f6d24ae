"""3. GPU: the numba.cuda kernels of depthwise convolution go here; this version has none."""

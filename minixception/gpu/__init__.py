"""How CUDA kernels are written: compilation, memory, and the reductions and products that operators share.

An operator's own kernel does not belong here: it is section 3, GPU, of the operator in ops/.
"""

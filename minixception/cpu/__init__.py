"""How fast CPU kernels are written: compilation, vectors, buffers, and the tiles that several operators share.

An operator's own kernel does not belong here: it is section 2, CPU, of the operator in ops/.
"""

"""Looking at kernels: what their threads read and write, their races, their machine code and occupancy.

Nothing here runs a kernel for its result; times are measured in bench/.
"""

"""Many processes of one run: who they are, how they agree, how they add, and how they end together.

Knows arrays, not networks: what is added up, and when, is decided in ``training/``. Communication is MPI's, through
mpi4py, which is imported only where a run has been started by mpiexec or its like.
"""

"""Measured time: how long things take here, beside each other."""

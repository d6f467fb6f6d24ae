"""The autograd engine: tensors, the tape, what an operator is, and which of its rungs runs.

No operator belongs here, and nothing that knows a layer or a model.
"""

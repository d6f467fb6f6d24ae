"""What a model runs, found by running it on shapes alone: its layers in order, and what each costs.

Nothing here computes a result; what makes a model fast is in compiler/.
"""

"""What a form of convolution is worth: networks that differ in one thing, trained with several seeds, and a verdict.

``designs`` says how a network may differ, ``widths`` makes networks that cost the same, ``table`` lists what is asked,
``classify`` and ``tag`` train for one label or for several (which ``mosaics`` draws), ``runs`` does so in pieces,
``verdict`` compares seed by seed, ``page`` writes it down; ``python -m minixception.experiments`` starts it.
"""

"""What a form of convolution is worth: networks that differ in one thing, trained with several seeds, and a verdict.

``designs`` says how a network may differ, ``widths`` makes networks that cost the same, ``table`` lists what is asked,
``runs`` trains it in pieces, ``verdict`` compares seed by seed; ``python -m minixception.experiments`` starts it.
"""

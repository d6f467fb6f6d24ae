"""Tests, in the folders of what they test: tests/ops tests minixception/ops. Those of the whole package lie loose."""

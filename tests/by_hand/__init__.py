"""Long searches, and checks that need what a build machine has not: by hand, `python -m tests.by_hand.NAME`."""

"""What a person starts: the command line and what its commands do."""

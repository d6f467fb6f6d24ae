"""What writes the files under docs/results: one module a file, each a command that says how the file was made."""

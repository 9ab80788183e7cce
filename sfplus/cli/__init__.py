"""The command line: one file per command, which holds its options and its work."""

"""The work of the commands, a file for what belongs together; `sfplus.cli` parses, calls them and prints."""

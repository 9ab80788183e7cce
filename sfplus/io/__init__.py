"""Files, downloads, tables, resources and the terminal."""

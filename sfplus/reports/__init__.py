"""Reports: one self-contained page, and the same facts as data."""

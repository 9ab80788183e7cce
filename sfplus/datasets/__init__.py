"""Data sets: drawn portraits, LFW, folders of photos and of crops, and lists of pairs."""

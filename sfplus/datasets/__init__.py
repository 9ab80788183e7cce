"""Data sets: photo collections of several formats, packs, crops for training, drawn portraits, LFW and lists of pairs."""

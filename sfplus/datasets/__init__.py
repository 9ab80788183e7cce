"""Data sets: photo collections, packs, crops for training, drawn portraits, LFW and lists of pairs."""

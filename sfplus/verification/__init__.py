"""Verification: from pairs of features to accuracy, thresholds and error rates."""

"""Finding and grouping people in photos: neighbours of features, groups, names, search."""

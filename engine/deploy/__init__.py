"""A trained network at work: features of photos, an index of cameras, search, thresholds, export, pages."""

"""What networks are shown and what frozen ones make of it: views, augmentation, features, heads."""

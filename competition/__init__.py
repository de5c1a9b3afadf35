"""A toolkit for image-classification competitions: images to folds to OOF predictions to a blend to a proven zip."""

__version__ = "0.1.0"

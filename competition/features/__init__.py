"""TTA views, augmentation, the features that frozen backbones compute, and heads on these features."""

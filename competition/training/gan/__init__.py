"""A conditional GAN for each fold, and the judge of its images."""

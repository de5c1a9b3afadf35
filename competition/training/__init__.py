"""How runs are trained: two phases, trees of models, soups, teachers, GANs."""

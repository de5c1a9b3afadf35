"""How to train: a recipe's keys, the recipes that come along (*.toml), and what makes one fit a fold table."""

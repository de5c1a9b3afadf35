"""From OOF predictions to a blend: weights, views, temperature, its price and the forecast of its score."""

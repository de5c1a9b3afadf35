"""From a blend to a zip: one network, packed, rehearsed, made to fit limits, recorded."""

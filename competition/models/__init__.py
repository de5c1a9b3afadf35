"""Networks: backbones with their weights, backbone and head as one model, receptive fields."""

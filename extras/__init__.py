"""What the six files lean on: data, checkpoints, reports; nothing here imports them."""

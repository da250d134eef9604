"""What the six helper files and main.py build on: download, checkpoints, reports."""

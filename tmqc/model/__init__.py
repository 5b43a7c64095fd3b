"""The network, its training and its files."""

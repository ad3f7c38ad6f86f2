"""Finished runs side by side: what differs in their configs, means over seeds, paired tests, curves."""

"""Runs sorted into the arms of a comparison, and whether their differences are more than chance."""

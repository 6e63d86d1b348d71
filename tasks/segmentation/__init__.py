"""Semantic segmentation: a class at every pixel."""

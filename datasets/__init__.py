"""Data sets: one on-disk format a file; what moves samples; what checks them."""

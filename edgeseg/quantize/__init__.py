"""Range estimation, plans and search: pure numpy, no runtime."""

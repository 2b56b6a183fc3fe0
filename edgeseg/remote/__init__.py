"""Other machines: the same command run there on files that were sent along (ssh), or LiteRT's own tool (Android)."""

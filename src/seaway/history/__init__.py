"""What became of events, told from every station that still knows."""

"""Sources that libav reads: its options and errors for each scheme."""

"""What viewers of any node receive: the events of all streams, with the same numbers everywhere."""

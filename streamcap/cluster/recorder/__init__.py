"""Caption files of the streams of a cluster, written by one node at a time for each stream."""

"""Which node runs which stream: streams and nodes of the cluster, and how JetStream's work queue divides them."""

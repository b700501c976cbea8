"""One service on many machines, on NATS JetStream. docs/cluster.md describes it."""

"""The connection to NATS: subjects, JetStream streams and buckets, acknowledged messages."""

"""What a stream publishes: captions and statuses, once they are in the file."""

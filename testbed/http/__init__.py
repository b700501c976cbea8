"""HTTP cameras, a proxy, and a server of remote models."""

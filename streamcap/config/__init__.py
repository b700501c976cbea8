"""The configuration file of `streamcap serve`: its form, its reading, and its changes while the service runs."""

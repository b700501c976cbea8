"""One running service, or one node of many: the packages below, put together."""

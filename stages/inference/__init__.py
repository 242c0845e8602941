"""Model calls: the engines, the client that stages use, and the store that keeps every completion."""

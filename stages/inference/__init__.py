"""Model calls: the engines, the client that asks them, and the store that keeps every answer."""

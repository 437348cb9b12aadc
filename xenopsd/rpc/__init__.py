"""JSON-RPC over Unix sockets: framing, dispatch, permissions, limits."""

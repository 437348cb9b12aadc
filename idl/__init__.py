"""The interface: types, errors, method table, OpenRPC document, client."""

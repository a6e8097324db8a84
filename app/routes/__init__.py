"""One file a resource: signature, status code, one service call. Docstrings here become the API's description."""

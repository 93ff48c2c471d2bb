"""One module for each resource of the API: its handlers, its query parameters and its routes."""

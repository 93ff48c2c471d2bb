"""What the control plane writes down, and the schemas of it."""

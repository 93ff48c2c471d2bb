"""The policy input document and the decision, as both ends and the fabric see them."""

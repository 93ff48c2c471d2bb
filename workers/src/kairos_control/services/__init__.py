"""The middle floor: what the product does. Services know neither HTTP nor SQL; they raise ProblemError and use
stores and ports."""

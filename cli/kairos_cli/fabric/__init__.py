"""`kairos fabric ...`: the operator's verbs that make, run and deploy a fabric."""

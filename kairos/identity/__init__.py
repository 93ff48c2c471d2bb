"""Who a party is: SPIFFE names, join tokens, signed requests, transcripts."""

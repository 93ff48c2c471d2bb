"""`kairos proxy`: a way into VNIs for the programs of one user, without root: SOCKS5 and HTTP CONNECT on loopback."""

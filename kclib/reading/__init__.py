"""Reading a network as it comes: what goes in, where to look, and what comes out there."""

"""What size costs, in three dimensions: SKUs, lines of a cart, past orders."""

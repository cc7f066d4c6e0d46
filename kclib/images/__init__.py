"""What networks see: drawn Creatures, published photographs, and the animals' parts in them."""

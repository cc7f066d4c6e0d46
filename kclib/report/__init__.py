"""Two networks of one's own: read, compared layer by layer, and a report of what was found."""

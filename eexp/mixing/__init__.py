"""Mix files of examples: shares, duplicates, and an order over more than fits into memory."""

"""What the built-in shop is made of: goods, catalogues, a search engine, goals and a shopper."""

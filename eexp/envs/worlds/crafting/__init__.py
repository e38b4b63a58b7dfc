"""Crafting by recipes: recipes and their files, the rules that follow from them, plans."""

"""Contracts, cards, budgets, layouts, reductions, errors: the nouns that everything else is made of."""

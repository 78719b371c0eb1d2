"""The types of keys and values for each layer of a model, chosen by measurement."""

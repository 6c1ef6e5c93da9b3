"""The intermediate representation: graphs, encodings, plans."""

"""The passes; one file per pass, named as the pass."""

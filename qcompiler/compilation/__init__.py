"""The parts of a compilation: what is asked, what passes make of it, how it is measured, searched for, and held to its limits."""

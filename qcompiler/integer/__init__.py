"""Integer programs: what encoded graphs compute, in integers only, as microcontrollers and integer accelerators do."""

"""The qcompiler core."""

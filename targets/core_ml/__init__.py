"""The Core ML target: ML Program packages for Xcode."""

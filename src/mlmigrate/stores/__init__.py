"""The adapters, one module or folder each; none imports another."""

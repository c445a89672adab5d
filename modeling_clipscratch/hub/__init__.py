"""Code that is copied into every saved model: it imports torch, transformers and its siblings only."""

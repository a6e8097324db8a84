"""What the API and the workers both need: vocabulary, store and text; no web framework, no torch."""

"""Use: what other projects import in their own tests."""

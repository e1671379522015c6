"""Fakes and conformance tests for authors of sources and runtimes."""

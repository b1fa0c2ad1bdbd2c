"""Demonstrations: scripted experts, collection, storage, import and export."""

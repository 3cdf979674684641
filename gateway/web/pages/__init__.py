"""Static files and documentation pages."""

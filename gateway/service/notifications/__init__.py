"""What is sent: submission, life cycle, templates, rendering and JSON representations."""

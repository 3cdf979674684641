"""What is kept: the schema and the SQL over it."""

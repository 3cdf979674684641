"""HTTP requests to URLs that applications configure (webhook receivers, feeds): policy and client."""

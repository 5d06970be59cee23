"""HTTP/1.1, TLS, deadlines and threads."""

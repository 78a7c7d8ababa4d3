//! PostgreSQL, Redis and S3 for one machine, started from the system's own programs.

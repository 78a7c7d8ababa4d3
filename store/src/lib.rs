//! Every SQL statement and migration, the artefact store and Redis.

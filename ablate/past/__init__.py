"""Past results become evidence: read from a file, matched with a study's jobs, kept as attempts that say where they are from."""

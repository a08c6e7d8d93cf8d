//! A store in memory, for tests and throw-away chains.
